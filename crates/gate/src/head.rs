//! Request heads: bytes in, a borrowed head or a precise complaint out. No I/O.
//!
//! `httparse` parses; this module refuses what two readers could understand differently (request smuggling) and
//! decides the body's framing. The gate and the door both call it, so both refuse the same bytes; a head of HTTP/2
//! becomes a [`RequestHead`] by the same steps.

mod fields;
mod target;

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use suijuris_api::tls::Session;

use crate::canonical::{self, Authority};
use crate::limits::{HEADERS, Limits};

pub(crate) use self::fields::{Found, length, list};
use self::target::Target;

/// Protocol version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

/// One request in its canonical form (see `canonical`): what is judged, and what the workload gets.
#[derive(Debug, Clone)]
pub struct RequestHead<'a> {
    /// Method, case as sent.
    pub method: &'a str,
    /// Canonical path without the query; `*` for a server-wide OPTIONS.
    pub path: Cow<'a, str>,
    /// Query without its `?`, as sent.
    pub query: Option<&'a str>,
    /// Canonical host that the client named, without port; empty where HTTP/1.0 named none.
    pub host: Cow<'a, str>,
    /// Port that the client named.
    pub port: Option<u16>,
    /// Protocol version.
    pub version: Version,
    /// Address of the client's end of the connection.
    pub peer: SocketAddr,
    /// The protocol asked for by `Upgrade`, where the connection can switch.
    pub upgrade: Option<&'a str>,
    /// The value of `Authorization`.
    pub authorization: Option<&'a str>,
    /// The object asked for by `X-Suijuris-Object`.
    pub object: Option<&'a str>,
    /// What TLS came to, where it ended at somebody whose word counts: never by a field of the request.
    pub tls: Option<&'a Session>,
    /// Declared length of the body; none for a chunked one or none at all.
    pub content_length: Option<u64>,
    pub(crate) fields: Fields<'a>,
    /// Whether its fields may say where it comes from.
    believes_forwarding: bool,
}

/// Paths that are never forwarded begin with this: they belong to the object and not to its workload.
pub const RESERVED_PATHS: &str = "/.suijuris";

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fields<'a> {
    Http1(&'a [httparse::Header<'a>]),
    Http2(&'a http::HeaderMap),
}

impl<'a> Fields<'a> {
    /// All as (name, value), in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let (http1, http2) = match self {
            Fields::Http1(fields) => (Some(fields), None),
            Fields::Http2(fields) => (None, Some(fields)),
        };
        let http1 = http1.into_iter().flatten().map(|field| (field.name, field.value));
        http1.chain(
            http2
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str(), value.as_bytes())),
        )
    }
}

/// A request that another proxy received, in its words: for a door that is asked about it.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// Method, case as sent.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Host and port.
    pub host: &'a str,
    /// Protocol version.
    pub version: Version,
    /// Address of the client, as far as it is known.
    pub peer: SocketAddr,
    /// Header fields; `Host` among them is the door's own.
    pub headers: &'a http::HeaderMap,
}

impl<'a> TryFrom<Described<'a>> for RequestHead<'a> {
    type Error = Reject;

    fn try_from(described: Described<'a>) -> Result<Self, Reject> {
        let line = Line {
            method: described.method,
            target: described.target,
            authority: Some(described.host),
            version: described.version,
        };
        let fields = described.headers.iter();
        let found =
            Found::scan(fields.map(|(name, value)| (name.as_str(), value.as_bytes())))?.without_host();
        let fields = Fields::Http2(described.headers);
        let mut head = understand(&line, &found, fields, described.peer)?;
        head.upgrade = found.upgrade_offered().filter(|protocol| !is_h2c(protocol));
        Ok(head)
    }
}

impl<'a> RequestHead<'a> {
    /// A request without fields that nobody sent: for asking what would be decided about one.
    ///
    /// # Errors
    /// [`Reject`] for one without a canonical form.
    pub fn bare(method: &'a str, target: &'a str, host: &'a str, peer: SocketAddr) -> Result<Self, Reject> {
        let line = Line {
            method,
            target,
            authority: Some(host),
            version: Version::Http11,
        };
        understand(&line, &Found::default(), Fields::Http1(&[]), peer)
    }

    /// All header fields as (name, value), in order; names as sent (HTTP/2: lower case).
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.fields.iter()
    }

    /// The one value of the field `name`, in lower case, for rules that read it; the workload gets the same.
    ///
    /// # Errors
    /// [`Reject`] where two programs could see different values: doubled, a twin with an underscore, other characters than
    /// visible ASCII, named by `Connection`.
    pub fn exposed(&self, name: &str) -> Result<Option<Cow<'a, str>>, Reject> {
        if !self.believes_forwarding && crate::forward::is_forwarding(name) {
            return Ok(None);
        }
        canonical::exposed(self, name)
    }

    /// The same, where it is known otherwise where the request comes from: [`RequestHead::exposed`] then has nothing of what
    /// proxies say of that.
    #[must_use]
    pub fn without_forwarding(self) -> Self {
        Self {
            believes_forwarding: false,
            ..self
        }
    }

    /// The same, with what TLS came to.
    #[must_use]
    pub const fn with_tls(mut self, tls: Option<&'a Session>) -> Self {
        self.tls = tls;
        self
    }

    /// Whether the path is one of [`RESERVED_PATHS`].
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        let below = self.path.strip_prefix(RESERVED_PATHS);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// Whether a browser says that a page of another origin, or of one that it does not name, sent it. Programs say nothing.
    #[must_use]
    pub fn is_cross_site(&self) -> bool {
        let authority = self.authority();
        let own = |origin: &[u8]| {
            let text = str::from_utf8(origin).unwrap_or_default();
            let host = text
                .strip_prefix("http://")
                .or_else(|| text.strip_prefix("https://"));
            host.is_some_and(|host| host.eq_ignore_ascii_case(&authority))
        };
        self.headers().any(|(name, value)| {
            if name.eq_ignore_ascii_case("origin") {
                !own(value)
            } else {
                // `same-site` is another origin of the same owner, where anything may be hosted.
                name.eq_ignore_ascii_case("sec-fetch-site") && !matches!(value, b"same-origin" | b"none")
            }
        })
    }

    /// Host and port as they are forwarded.
    #[must_use]
    pub fn authority(&self) -> Cow<'_, str> {
        match self.port {
            Some(port) => Cow::Owned(format!("{}:{port}", self.host)),
            None => Cow::Borrowed(&self.host),
        }
    }

    pub(crate) fn splits_cookies(&self) -> bool {
        self.version == Version::Http2
    }

    /// The first value of `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        match self.fields {
            Fields::Http1(_) => self
                .headers()
                .find(|(sent, _)| sent.eq_ignore_ascii_case(name))
                .map(|(_, value)| value),
            Fields::Http2(fields) => fields.get(name).map(http::HeaderValue::as_bytes),
        }
    }
}

/// Why a head or body was not understood. The connection closes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// HTTP status of the answer.
    pub status: u16,
    /// Code of the problem document.
    pub code: &'static str,
    /// What is wrong, as a clause for whoever wrote the client.
    pub detail: &'static str,
}

impl From<crate::chunked::ChunkError> for Reject {
    fn from(error: crate::chunked::ChunkError) -> Self {
        bad(error.detail())
    }
}

pub(crate) const fn bad(detail: &'static str) -> Reject {
    Reject {
        status: 400,
        code: "bad_request",
        detail,
    }
}

/// Result of looking for a head at the front of some bytes.
#[derive(Debug)]
pub enum Peek<T> {
    /// The head is not complete; nothing wrong so far.
    Incomplete,
    /// A head of `head_len` bytes, and what the callback made of it.
    Complete {
        /// The callback's result.
        value: T,
        /// Bytes up to and including the empty line.
        head_len: usize,
    },
    /// Not a request that can be served safely.
    Bad(Reject),
}

/// Looks for an HTTP/1.x request head at the front of `bytes` and shows it to `look`.
pub fn peek<T>(
    bytes: &[u8],
    peer: SocketAddr,
    limits: &Limits,
    look: impl FnOnce(&RequestHead<'_>) -> T,
) -> Peek<T> {
    match parse(bytes, peer, limits, &mut slots()) {
        Ok(Some((head, wire))) => Peek::Complete {
            value: look(&head),
            head_len: wire.head_len,
        },
        Ok(None) => Peek::Incomplete,
        Err(reject) => Peek::Bad(reject),
    }
}

/// What an HTTP/2 connection starts with (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether `bytes` may still become, or are, the start of an HTTP/2 connection.
#[must_use]
pub fn starts_http2(bytes: &[u8]) -> bool {
    !bytes.is_empty() && HTTP2_PREFACE.iter().zip(bytes).all(|(want, have)| want == have)
}

/// How a body's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// Responses only: up to the end of the connection.
    Close,
}

/// What the connection needs to know of a request after its head was forwarded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) head_len: usize,
    pub(crate) body: Framing,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    /// `Expect: 100-continue`.
    pub(crate) expects: bool,
    pub(crate) upgrade: bool,
    /// `Connection` names fields that must not travel further.
    pub(crate) nominates: bool,
    pub(crate) is_head: bool,
    /// Safe to send a second time when the first may not have arrived (RFC 9110 §9.2.2).
    pub(crate) idempotent: bool,
}

pub(crate) type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; HEADERS];

pub(crate) fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; HEADERS]
}

/// `None`: incomplete.
pub(crate) fn parse<'a, 'b: 'a>(
    bytes: &'b [u8],
    peer: SocketAddr,
    limits: &Limits,
    slots: &'a mut Slots<'b>,
) -> Result<Option<(RequestHead<'a>, Wire)>, Reject> {
    let slots = slots.get_mut(..limits.headers.min(HEADERS)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let head_len = match request.parse_with_uninit_headers(bytes, slots) {
        Ok(httparse::Status::Complete(head_len)) if head_len <= limits.head_bytes => head_len,
        Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes => return Ok(None),
        Ok(_) => return Err(oversize(bytes, limits)),
        Err(error) => return Err(malformed(error)),
    };
    if has_bare_lf(bytes.get(..head_len).unwrap_or_default()) {
        return Err(bad("a line ends with LF alone"));
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(bad("the request line is malformed"));
    };
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    let line = Line {
        method,
        target,
        authority: None,
        version,
    };
    understand_http1(&line, request.headers, head_len, peer).map(Some)
}

fn oversize(bytes: &[u8], limits: &Limits) -> Reject {
    let line = bytes
        .iter()
        .take(limits.head_bytes)
        .position(|&byte| byte == b'\n');
    match line {
        None => Reject {
            status: 414,
            code: "target_too_long",
            detail: "the request line is too long",
        },
        Some(_) => Reject {
            status: 431,
            code: "head_too_large",
            detail: "the request head is too long",
        },
    }
}

fn malformed(error: httparse::Error) -> Reject {
    match error {
        httparse::Error::TooManyHeaders => Reject {
            status: 431,
            code: "head_too_large",
            detail: "the request has too many header fields",
        },
        httparse::Error::Version => Reject {
            status: 505,
            code: "http_version",
            detail: "only HTTP/1.0, HTTP/1.1 and HTTP/2 are served",
        },
        httparse::Error::HeaderName => bad("a header name is malformed, folded, or followed by white space"),
        httparse::Error::HeaderValue => bad("a header value has a control character"),
        httparse::Error::NewLine => bad("a line does not end with CRLF"),
        httparse::Error::Token => bad("the request line is malformed"),
        httparse::Error::Status => bad("the head is malformed"),
    }
}

/// A branch-free pass, so that the compiler can use vector instructions.
pub(crate) fn has_bare_lf(head: &[u8]) -> bool {
    let after = head.get(1..).unwrap_or_default();
    let bare = head.iter().zip(after).fold(false, |bare, (&before, &byte)| {
        bare | (byte == b'\n' && before != b'\r')
    });
    bare || head.first() == Some(&b'\n')
}

/// The request line, or what HTTP/2 has in its place.
pub(crate) struct Line<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    /// `:authority` of HTTP/2, or what a proxy says the host was.
    pub(crate) authority: Option<&'a str>,
    pub(crate) version: Version,
}

/// The canonical head; every request comes through here, whatever its protocol.
pub(crate) fn understand<'a>(
    line: &Line<'a>,
    found: &Found<'a>,
    fields: Fields<'a>,
    peer: SocketAddr,
) -> Result<RequestHead<'a>, Reject> {
    let Target {
        path,
        query,
        authority,
    } = Target::of(line.method, line.target)?;
    let named = found.host.map(Authority::read).transpose()?;
    let target = authority.or(line.authority).map(Authority::read).transpose()?;
    if let (Some(named), Some(target)) = (&named, &target)
        && named != target
    {
        return Err(bad("Host and the request target name different hosts"));
    }
    let Authority { host, port } = match target.or(named) {
        Some(authority) => authority,
        None if line.version == Version::Http10 => Authority::default(),
        None => return Err(bad("Host is missing")),
    };
    Ok(RequestHead {
        method: canonical::method(line.method)?,
        path: if path == "*" {
            path.into()
        } else {
            canonical::path(path)?
        },
        query,
        host,
        port,
        version: line.version,
        peer,
        upgrade: None,
        authorization: found.authorization,
        object: found.object,
        tls: None,
        content_length: found.length,
        fields,
        believes_forwarding: true,
    })
}

fn is_h2c(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("h2c")
}

fn understand_http1<'a>(
    line: &Line<'a>,
    fields: &'a [httparse::Header<'a>],
    head_len: usize,
    peer: SocketAddr,
) -> Result<(RequestHead<'a>, Wire), Reject> {
    let found = Found::scan(fields.iter().map(|field| (field.name, field.value)))?;
    let (method, version) = (line.method, line.version);
    let body = found.framing(version)?;
    let mut head = understand(line, &found, Fields::Http1(fields), peer)?;
    // Cleartext HTTP/2 is spoken with prior knowledge only; ignoring the offer is allowed (RFC 9110 §7.8).
    head.upgrade = found.upgrade.filter(|protocol| {
        found.connection_upgrade && version == Version::Http11 && body == Framing::Empty && !is_h2c(protocol)
    });
    let wire = Wire {
        head_len,
        body,
        version,
        keep_alive: !found.close && (version == Version::Http11 || found.keep_alive),
        expects: found.expects && version == Version::Http11 && body != Framing::Empty,
        upgrade: head.upgrade.is_some(),
        nominates: found.nominates,
        is_head: method == "HEAD",
        idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"),
    };
    Ok((head, wire))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look(bytes: &[u8]) -> Peek<(String, String, String)> {
        peek(
            bytes,
            "127.0.0.1:1".parse().unwrap(),
            &Limits::default(),
            |head| {
                (
                    head.method.to_owned(),
                    head.path.to_string(),
                    head.authority().into_owned(),
                )
            },
        )
    }

    #[test]
    fn a_plain_request_is_understood() {
        let Peek::Complete { value, head_len } = look(b"GET /a?b HTTP/1.1\r\nHost: x:1\r\n\r\nrest") else {
            panic!("not complete");
        };
        assert_eq!(value, ("GET".into(), "/a".into(), "x:1".into()));
        assert_eq!(head_len, 32);
    }

    #[test]
    fn an_absolute_target_names_the_host() {
        let Peek::Complete { value, .. } = look(b"GET http://x?q HTTP/1.1\r\nHost: X\r\n\r\n") else {
            panic!("not complete");
        };
        assert_eq!(value, ("GET".into(), "/".into(), "x".into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            look(&bytes);
        }

        /// A head that is whole is read the same however much follows it.
        #[test]
        fn near_heads_are_answered(
            line in "(GET|POST|PRI|x) (/|\\*|http://h)[a-z?#]{0,5} HTTP/[0-2]\\.[01]",
            fields in proptest::collection::vec("(Host|Content-Length|Transfer-Encoding|Connection|Upgrade|Expect| x)[ ]?: ?(chunked|1|h|close|\\PC{0,8})", 0..5),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let head = format!("{line}\r\n{}\r\n\r\n", fields.join("\r\n"));
            let whole = [head.as_bytes(), &tail].concat();
            if let (Peek::Complete { value: a, head_len: b }, Peek::Complete { value: c, head_len: d })
                = (look(head.as_bytes()), look(&whole)) {
                prop_assert_eq!((a, b), (c, d));
            }
        }
    }
}
