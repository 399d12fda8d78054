//! What was asked of the proxy in front: the original request, read from a request to `/ext_authz`, and the object that
//! it is for.
//!
//! A proxy says it in one of three ways, and a client may forge the words of the two others, so that the operator's
//! configuration decides which is read: a path below `/ext_authz` (Envoy), or on `/ext_authz` itself the `mode` of its
//! query. Without a mode, words of both kinds are ambiguous and refused.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, Uri, Version};
use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::governance::{Protocol, Vocabulary};
use suijuris_core::inputs::Request;
use suijuris_core::time::Reading;
use suijuris_gate::RequestHead;
use suijuris_gate::head::{Described, Reject};
use suijuris_words::tls;

use crate::authenticate::Credentials;
use crate::problems;
use crate::proposal::Proposal;
use crate::routes::Names;
use crate::sleeper::Sleeper;

/// Where authorization is asked for.
pub(crate) const PATH: &str = "/ext_authz";

/// Header by which a request names its object.
pub(crate) const OBJECT: &str = "x-suijuris-object";

/// How a proxy says what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The request is the original one, its path below [`PATH`]: Envoy's `ext_authz` over HTTP.
    Path,
    /// `X-Original-Method`, `X-Original-URI`, and `Host` or `X-Original-Host`: nginx's `auth_request`, which takes
    /// nothing but 2xx, 401 and 403 for an answer.
    Nginx,
    /// `X-Forwarded-Method`, `-Host`, `-Uri`: Traefik's `ForwardAuth`, Caddy's `forward_auth`.
    Forward,
}

/// Why a request does not say what it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// A mode that is none.
    #[error("mode is nginx or forward, as in /ext_authz?mode=nginx")]
    Mode,
    /// Words of two kinds.
    #[error(
        "the request has X-Original- and X-Forwarded- headers: say which counts, as in /ext_authz?mode=nginx"
    )]
    Ambiguous,
    /// A header is missing or not text.
    #[error("header `{0}` is missing or not text; the proxy in front sets it")]
    Header(&'static str),
    /// The original target is no path.
    #[error("the original target is not a path that begins with `/`")]
    Target,
    /// The original request has no canonical form.
    #[error("{}", .0.detail)]
    Canonical(Reject),
    /// No object is named.
    #[error(
        "nothing names the object: neither a host that the door knows, nor its id as first label, nor {OBJECT}"
    )]
    NoObject,
    /// Two are named; this is the host's.
    #[error("host and {OBJECT} name two different objects; the host is that of {0}")]
    TwoObjects(ObjectId),
}

/// The original request, in its canonical form.
#[derive(Debug, Clone)]
pub(crate) struct CheckRequest<'a> {
    pub(crate) mode: Mode,
    pub(crate) head: RequestHead<'a>,
}

/// A request as the server has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) peer: SocketAddr,
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl<'a> CheckRequest<'a> {
    pub(crate) fn of(received: &Received<'a>) -> Result<Self, Error> {
        let Received { uri, headers, .. } = *received;
        let below = uri.path().strip_prefix(PATH).ok_or(Error::Target)?;
        let mode = if below.is_empty() {
            mode(uri, headers)?
        } else {
            Mode::Path
        };
        let host = || {
            let host = text(headers, "host").or_else(|| uri.authority().map(|authority| authority.as_str()));
            host.ok_or(Error::Header("host"))
        };
        let (target, method, host) = match mode {
            Mode::Path => (
                below_path(uri).ok_or(Error::Target)?,
                received.method.as_str(),
                host()?,
            ),
            Mode::Nginx => {
                let target = text(headers, "x-original-uri").ok_or(Error::Header("x-original-uri"))?;
                let method = text(headers, "x-original-method").ok_or(Error::Header("x-original-method"))?;
                let host = text(headers, "x-original-host").map_or_else(host, Ok)?;
                (target, method, host)
            }
            Mode::Forward => {
                let target = text(headers, "x-forwarded-uri").ok_or(Error::Header("x-forwarded-uri"))?;
                let method =
                    text(headers, "x-forwarded-method").ok_or(Error::Header("x-forwarded-method"))?;
                let host = text(headers, "x-forwarded-host").map_or_else(host, Ok)?;
                (target, method, host)
            }
        };
        if !target.starts_with('/') {
            return Err(Error::Target);
        }
        let described = Described {
            method,
            target,
            host,
            version: version(received.version),
            peer: SocketAddr::new(peer(received), 0),
            headers,
        };
        let head = RequestHead::try_from(described).map_err(Error::Canonical)?;
        Ok(Self { mode, head })
    }

    /// What is read of it before it is heard.
    pub(crate) fn credentials(&self) -> Credentials<'a> {
        Credentials {
            wants: self.head.object,
            authorization: self.head.authorization,
        }
    }

    /// The object that is asked for: by the host's entry in `map`, by the host's first label, by header; the header
    /// may repeat what the host says, but not contradict it.
    pub(crate) fn object(&self, names: &impl Names) -> Result<ObjectId, Error> {
        let named = self.head.object.map(str::parse::<ObjectId>);
        match (by_host(&self.head.host, names), named) {
            (Some(object), Some(named)) if named != Ok(object) => Err(Error::TwoObjects(object)),
            (Some(object), _) => Ok(object),
            (None, Some(Ok(object))) => Ok(object),
            (None, _) => Err(Error::NoObject),
        }
    }
}

/// What a proxy asked, to be read again elsewhere.
#[derive(Debug, Clone)]
pub struct OwnedCheck {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    peer: SocketAddr,
}

impl OwnedCheck {
    /// The question in these parts of a request of `peer`.
    #[must_use]
    pub fn of(parts: &http::request::Parts, peer: SocketAddr) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
            peer,
        }
    }

    /// The proposal that `sleeper` decides about.
    ///
    /// # Errors
    /// The [`Problem`] to answer with.
    pub fn proposal(&self, sleeper: &mut Sleeper, reading: Reading) -> Result<Proposal, Problem> {
        let received = Received {
            method: &self.method,
            uri: &self.uri,
            version: self.version,
            headers: &self.headers,
            peer: self.peer,
        };
        let check = CheckRequest::of(&received).map_err(|error| problems::not_asked(&error))?;
        sleeper.authenticate(check.credentials(), |words| request(words, &check.head), reading)
    }
}

/// What rules may look at of a request.
///
/// # Errors
/// [`Reject`] where a header that rules read has no one value.
pub fn request(vocabulary: &Vocabulary, head: &RequestHead<'_>) -> Result<Request, Reject> {
    let mut headers = BTreeMap::new();
    for name in &vocabulary.headers {
        if let Some(value) = head.exposed(name)? {
            headers.insert(name.clone(), value.into_owned());
        }
    }
    let mut request = Request {
        method: head.method.to_owned(),
        path: head.path.to_string(),
        query: head.query.unwrap_or_default().to_owned(),
        host: head.host.to_string(),
        port: head.port,
        protocol: match (head.upgrade, head.version) {
            (Some("websocket"), _) => Protocol::Websocket,
            (_, suijuris_gate::Version::Http2) => Protocol::Http2,
            _ => Protocol::Http1,
        },
        peer_ip: head.peer.ip().to_canonical(),
        content_length: head.content_length,
        headers,
        tls: None,
        client_cert: None,
    };
    tls::note(&mut request, head.tls);
    Ok(request)
}

/// The object that a host, in canonical form, stands for.
pub(crate) fn by_host(host: &str, names: &impl Names) -> Option<ObjectId> {
    if let Some(object) = names.object(host) {
        return Some(object);
    }
    let label = host.split('.').next().unwrap_or_default();
    label.parse().ok()
}

/// The way of saying that the operator chose, or the only one that is used.
fn mode(uri: &Uri, headers: &HeaderMap) -> Result<Mode, Error> {
    let chosen = uri.query().map(|query| match query {
        "mode=nginx" => Ok(Mode::Nginx),
        "mode=forward" => Ok(Mode::Forward),
        _ => Err(Error::Mode),
    });
    if let Some(chosen) = chosen {
        return chosen;
    }
    let has = |name: &str| headers.contains_key(name);
    match (
        has("x-original-uri") || has("x-original-method") || has("x-original-host"),
        has("x-forwarded-uri") || has("x-forwarded-method"),
    ) {
        (true, true) => Err(Error::Ambiguous),
        (true, false) => Ok(Mode::Nginx),
        (false, _) => Ok(Mode::Forward),
    }
}

/// Path and query of the original request, where they stand below [`PATH`].
fn below_path(uri: &Uri) -> Option<&str> {
    uri.path_and_query()?.as_str().strip_prefix(PATH)
}

const fn version(version: Version) -> suijuris_gate::Version {
    match version {
        Version::HTTP_2 => suijuris_gate::Version::Http2,
        Version::HTTP_10 => suijuris_gate::Version::Http10,
        _ => suijuris_gate::Version::Http11,
    }
}

/// The client: what the proxy in front appended to `X-Forwarded-For`, else whoever connected.
fn peer(received: &Received<'_>) -> IpAddr {
    let last = received.headers.get_all("x-forwarded-for").iter().next_back();
    let last = last.and_then(|value| value.to_str().ok());
    let address = last.and_then(|list| list.rsplit(',').next());
    address
        .and_then(|address| address.trim().parse().ok())
        .unwrap_or_else(|| received.peer.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> ObjectId {
        ObjectId::of(b"object")
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn said(uri: &str, pairs: &[(&'static str, &str)]) -> Result<String, Error> {
        let (headers, uri) = (headers(pairs), uri.parse().unwrap());
        let received = Received {
            method: &Method::PATCH,
            uri: &uri,
            version: Version::HTTP_11,
            headers: &headers,
            peer: ([127, 0, 0, 1], 9).into(),
        };
        let check = CheckRequest::of(&received)?;
        let head = check.head;
        let (host, query) = (head.authority(), head.query.unwrap_or_default());
        Ok(format!(
            "{} {host} {} {query} {}",
            head.method,
            head.path,
            head.peer.ip()
        ))
    }

    #[test]
    fn each_proxy_is_understood() {
        let host = ("host", "a.example:80");
        let path = said("/ext_authz/x/y?q=1", &[host, ("x-original-uri", "/public")]);
        assert_eq!(path.unwrap(), "PATCH a.example:80 /x/y q=1 127.0.0.1");
        let nginx = [
            host,
            ("x-original-uri", "/x?a?b"),
            ("x-original-method", "GET"),
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
        ];
        for uri in ["/ext_authz", "/ext_authz?mode=nginx"] {
            assert_eq!(said(uri, &nginx).unwrap(), "GET a.example:80 /x a?b 2.2.2.2");
        }
        let forward = [
            ("host", "door:1"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-uri", "/x"),
            ("x-forwarded-method", "PUT"),
        ];
        assert_eq!(
            said("/ext_authz", &forward).unwrap(),
            "PUT a.example /x  127.0.0.1"
        );
    }

    #[test]
    fn what_a_client_could_forge_is_not_read_or_refused() {
        let both = [
            ("host", "a"),
            ("x-original-uri", "/public"),
            ("x-original-method", "GET"),
            ("x-forwarded-uri", "/secret"),
            ("x-forwarded-method", "POST"),
        ];
        assert_eq!(said("/ext_authz", &both), Err(Error::Ambiguous));
        assert_eq!(
            said("/ext_authz?mode=forward", &both).unwrap(),
            "POST a /secret  127.0.0.1"
        );
        assert_eq!(
            said("/ext_authz?mode=nginx", &both).unwrap(),
            "GET a /public  127.0.0.1"
        );
        assert_eq!(
            said("/ext_authz?mode=nginx&mode=forward", &both),
            Err(Error::Mode)
        );
        assert_eq!(
            said("/ext_authz", &[("host", "a")]),
            Err(Error::Header("x-forwarded-uri"))
        );
        let relative = [
            ("host", "a"),
            ("x-forwarded-uri", "x"),
            ("x-forwarded-method", "GET"),
        ];
        assert_eq!(said("/ext_authz", &relative), Err(Error::Target));
        assert_eq!(said("/ext_authzx", &[("host", "a")]), Err(Error::Target));
    }

    #[test]
    fn an_object_is_named_by_map_by_label_or_by_header_and_never_twice() {
        let (id, other) = (object(), ObjectId::of(b"other"));
        let map = BTreeMap::from([("a.example".to_owned(), id)]);
        let label = format!("{id}.objects.example");
        for host in ["a.example", &label] {
            assert_eq!(by_host(host, &map), Some(id), "{host}");
        }
        for host in ["", "b.example", "[::1]", "bafy.example"] {
            assert_eq!(by_host(host, &map), None, "{host}");
        }
        let find = |host: &str, named: Option<ObjectId>| {
            let mut headers = HeaderMap::new();
            if let Some(named) = named {
                headers.insert(OBJECT, named.to_string().parse().unwrap());
            }
            let described = Described {
                method: "GET",
                target: "/",
                host,
                version: suijuris_gate::Version::Http11,
                peer: ([127, 0, 0, 1], 0).into(),
                headers: &headers,
            };
            let head = RequestHead::try_from(described).unwrap();
            let mode = Mode::Path;
            CheckRequest { mode, head }.object(&map)
        };
        assert_eq!(find("a.example", None), Ok(id));
        assert_eq!(find("A.Example.:80", None), Ok(id));
        assert_eq!(find("a.example", Some(id)), Ok(id));
        assert_eq!(find("a.example", Some(other)), Err(Error::TwoObjects(id)));
        assert_eq!(find("b.example", Some(other)), Ok(other));
        assert_eq!(find("b.example", None), Err(Error::NoObject));
    }
}
