//! Refusals for callers that speak gRPC: they read a status and a message, not HTTP's status and a problem document.
//!
//! The answer has no message of the call, so that status and message stand among its header fields ("Trailers-Only" in the
//! protocol's description). Not here: gRPC-Web, and what a workload answers.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, header};

use crate::refusal::Refusal;

const MEDIA_TYPE: &str = "application/grpc";

/// Whether whoever sent these header fields speaks gRPC.
pub(crate) fn is_spoken(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let rest = value.and_then(|value| value.strip_prefix(MEDIA_TYPE));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';', ' ']))
}

/// The refusal as a response of HTTP/2.
pub(crate) fn response(refusal: &Refusal) -> http::Response<bytes::Bytes> {
    let mut response = http::Response::new(bytes::Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert("grpc-status", status(refusal.status().as_u16()).into());
    if let Ok(message) = HeaderValue::try_from(escaped(&message(refusal))) {
        headers.insert("grpc-message", message);
    }
    if let Some(seconds) = refusal.problem.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// What the problem document says: title, detail, and in brackets code and id.
fn message(refusal: &Refusal) -> String {
    let problem = &refusal.problem;
    let mut text = problem.title.clone();
    if !problem.detail.is_empty() {
        text += ": ";
        text += &problem.detail;
    }
    text += " [";
    text += &problem.code;
    if !problem.id.is_empty() {
        text += ", ";
        text += &problem.id;
    }
    text += "]";
    text
}

/// Printable ASCII stands for itself, everything else and `%` for its bytes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The status of gRPC that says what an HTTP status says. Only `UNAVAILABLE` invites clients to ask again by themselves, so
/// that 502 is none: the workload may have acted.
const fn status(http: u16) -> u16 {
    match http {
        // INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED.
        400 | 417 => 3,
        408 | 504 => 4,
        404 | 410 | 421 => 5,
        403 => 7,
        // RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED.
        413 | 414 | 429 | 431 => 8,
        501 | 505 => 12,
        500 | 502 => 13,
        503 => 14,
        401 => 16,
        // FAILED_PRECONDITION, UNKNOWN.
        ..500 => 9,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_speaks_grpc_is_known_by_the_media_type() {
        for (value, expect) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(value))];
            assert_eq!(is_spoken(&headers.into_iter().collect()), expect, "{value}");
        }
        assert!(!is_spoken(&HeaderMap::new()));
    }

    #[test]
    fn messages_are_escaped() {
        assert_eq!(escaped("50 % für dich\n"), "50 %25 f%C3%BCr dich%0A");
    }
}
