//! A hook that is asked whether a request may pass, before any machine is started for it: over HTTP, in the shape of Envoy's
//! `ext_authz` with a path prefix. It gets the request's method, path, host and fields without its body, and 2xx lets it pass.
//! One second at most; what fails refuses; nothing is remembered.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use suijuris_api::Problem;
use suijuris_gate::Refusal;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::asked::Asked;
use crate::problems::refusal;

/// How long an answer may take.
pub(crate) const WITHIN: Duration = Duration::from_secs(1);
/// Bytes of an answer's body at most.
const MAX_BODY: usize = 64 * 1024;
/// Fields of a request that are not the hook's.
const KEPT: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::EXPECT,
    header::TE,
    header::HOST,
    header::TRAILER,
];

/// Where a hook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    authority: String,
    prefix: String,
}

/// Why a text is no hook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a hook: write http://HOST:PORT/PATH")]
pub struct BadHook(String);

impl std::str::FromStr for Hook {
    type Err = BadHook;

    fn from_str(text: &str) -> Result<Self, BadHook> {
        let bad = || BadHook(text.escape_debug().to_string());
        let rest = text.strip_prefix("http://").ok_or_else(bad)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let plain = !text.contains(|letter: char| !letter.is_ascii_graphic() || "?#@".contains(letter));
        let host =
            authority.rsplit_once(':').map_or(
                authority,
                |(host, port)| {
                    if port.parse::<u16>().is_ok() { host } else { "" }
                },
            );
        if !plain || host.is_empty() {
            return Err(bad());
        }
        let authority = match authority.rsplit_once(':') {
            Some(_) => authority.to_owned(),
            None => format!("{authority}:80"),
        };
        Ok(Self {
            authority,
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }
}

/// What a hook is told of a request.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: http::Method,
    pub(crate) host: String,
    pub(crate) headers: HeaderMap,
}

impl Question {
    pub(crate) fn of(head: &suijuris_gate::RequestHead<'_>) -> Option<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in head.headers() {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            // Both spellings of what the proxy says itself.
            let said = name.as_str().replace('_', "-");
            let ours = said.starts_with("x-forwarded-") || said.starts_with("fly-");
            if !KEPT.contains(&name) && !ours {
                headers.append(name, HeaderValue::from_bytes(value).ok()?);
            }
        }
        Some(Self {
            method: http::Method::from_bytes(head.method.as_bytes()).ok()?,
            host: head.authority().into_owned(),
            headers,
        })
    }
}

impl Hook {
    /// Where it is, as HOST:PORT.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The app and the port of one inside an org: `APP.internal:PORT`.
    pub(crate) fn inside(&self) -> Option<(&str, u16)> {
        let (host, port) = self.authority.rsplit_once(':')?;
        let app = host.strip_suffix(".internal")?;
        Some((app, port.parse().ok()?)).filter(|_| !app.contains('.'))
    }

    /// Whether the request may pass. `connecting` leads to the hook.
    ///
    /// # Errors
    /// What the client is told: the hook's own problem document where it sends one.
    pub(crate) async fn ask(
        &self,
        asked: &Asked,
        connecting: impl Future<Output = std::io::Result<TcpStream>>,
    ) -> Result<(), Box<Refusal>> {
        let asking = async {
            let stream = connecting.await.map_err(|error| error.to_string())?;
            self.send(asked, stream).await
        };
        match timeout(WITHIN, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => Err(failed(format!(
                "what decides on this request cannot be asked ({why}): ask again"
            ))),
            Err(_) => Err(late()),
        }
    }

    async fn send(&self, asked: &Asked, stream: TcpStream) -> Result<Result<(), Box<Refusal>>, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let question = asked.question.as_ref().ok_or("the request cannot be described")?;
        let shaken = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| told(&error))?;
        let mut request = http::Request::new(Empty::new());
        *request.method_mut() = question.method.clone();
        let target = format!("{}{}", self.prefix, asked.target);
        *request.uri_mut() = target
            .parse()
            .map_err(|error: http::uri::InvalidUri| told(&error))?;
        request.headers_mut().clone_from(&question.headers);
        // Of TLS the proxy tells machines alone.
        request.headers_mut().remove(suijuris_api::tls::FIELD);
        let mut field = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).map_err(|error| told(&error))?;
            request.headers_mut().insert(name, value);
            Ok::<_, String>(())
        };
        field("host", &question.host)?;
        field("x-forwarded-for", &asked.client.to_string())?;
        field("x-forwarded-proto", if asked.tls { "https" } else { "http" })?;
        field("fly-request-id", &asked.id)?;
        let answering = async {
            let response = sender.send_request(request).await.map_err(|error| told(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
            Ok((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
        };
        let mut answering = std::pin::pin!(answering);
        // The connection may end with the answer, which is then there all the same.
        let (status, body) = tokio::select! {
            biased;
            answered = &mut answering => answered,
            ended = connection => match ended {
                Ok(()) => answering.await,
                Err(error) => Err(told(&error)),
            },
        }?;
        Ok(verdict(status, &body))
    }
}

/// Nobody could be asked, so nothing passes.
pub(crate) fn failed(why: String) -> Box<Refusal> {
    refusal(503, "hook_failed", why)
}

/// No answer came in time.
pub(crate) fn late() -> Box<Refusal> {
    failed("what decides on this request did not answer within 1 s: ask again".to_owned())
}

fn verdict(status: http::StatusCode, body: &[u8]) -> Result<(), Box<Refusal>> {
    if status.is_success() {
        return Ok(());
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(mut problem) if status.is_client_error() || status.is_server_error() => {
            problem.status = status.as_u16();
            Err(Box::new(problem.into()))
        }
        _ if status.is_client_error() => Err(refusal(
            status.as_u16(),
            "hook_refused",
            "what decides on requests of this app refused it",
        )),
        _ => Err(refusal(
            503,
            "hook_failed",
            format!(
                "what decides on this request answered {}: ask again",
                status.as_u16()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_hooks() {
        let hook: Hook = "http://127.0.0.1:7171/ext_authz".parse().unwrap();
        assert_eq!(
            (&*hook.authority, &*hook.prefix),
            ("127.0.0.1:7171", "/ext_authz")
        );
        let hook: Hook = "http://door/".parse().unwrap();
        assert_eq!((&*hook.authority, &*hook.prefix), ("door:80", ""));
        let inside = |text: &str| {
            text.parse::<Hook>()
                .unwrap()
                .inside()
                .map(|(app, port)| (app.to_owned(), port))
        };
        assert_eq!(
            inside("http://door.internal:7171/x"),
            Some(("door".to_owned(), 7171))
        );
        for outside in [
            "http://door:7171/",
            "http://127.0.0.1/",
            "http://a.b.internal/",
            "http://internal/",
        ] {
            assert_eq!(inside(outside), None, "{outside}");
        }
        for bad in [
            "",
            "https://a/",
            "http://",
            "http:///x",
            "http://a:x/",
            "http://u@a/",
            "http://a/?q",
            "http://a b/",
        ] {
            assert!(bad.parse::<Hook>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_success_lets_a_request_pass() {
        let says = |status: u16, body: &str| {
            let status = http::StatusCode::from_u16(status).unwrap();
            verdict(status, body.as_bytes())
                .map_err(|refusal| (refusal.problem.status, refusal.problem.code.clone()))
        };
        assert_eq!(says(200, ""), Ok(()));
        assert_eq!(says(204, "x"), Ok(()));
        assert_eq!(says(403, "no"), Err((403, "hook_refused".to_owned())));
        assert_eq!(says(302, ""), Err((503, "hook_failed".to_owned())));
        assert_eq!(says(500, ""), Err((503, "hook_failed".to_owned())));
        let problem = serde_json::to_string(&Problem::new(403, "admit_refused", "no")).unwrap();
        assert_eq!(says(403, &problem), Err((403, "admit_refused".to_owned())));
        assert_eq!(says(200, &problem), Ok(()));
        assert_eq!(says(302, &problem), Err((503, "hook_failed".to_owned())));
    }
}
