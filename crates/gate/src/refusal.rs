//! Refusals as HTTP answers: one problem document, whoever gives it.

use std::io::Write as _;

use suijuris_api::problem::{MEDIA_TYPE, Problem};

use crate::cors::Reader;
use crate::grpc;
use crate::head::Reject;
use crate::limits::{RESPONSE_HEAD_BYTES, RESPONSE_HEADERS};
use crate::response::line;

/// Every code the gate answers with on its own, and its title; each has a page `docs/errors/<code>.md`.
pub const CODES: &[(&str, &str)] = &[
    ("bad_request", "The request cannot be understood safely"),
    ("request_timeout", "The request took too long to arrive"),
    ("target_too_long", "The request line is too long"),
    ("expectation_failed", "The expectation cannot be met"),
    ("head_too_large", "The request head is too large"),
    (
        "not_implemented",
        "The request asks for something the gate does not do",
    ),
    ("upstream_failed", "The workload gave no valid answer"),
    (
        "upstream_head_too_large",
        "The workload's response head is too large",
    ),
    ("upstream_unreachable", "The workload does not accept connections"),
    ("upstream_timeout", "The workload did not answer in time"),
    ("held_full", "Too many requests are waiting for the object"),
    ("hold_timeout", "The object gave no verdict in time"),
    ("draining", "The object is going to sleep"),
    ("too_many_connections", "Too many connections are open"),
    ("too_many_requests", "Too many requests are in flight"),
    ("http_version", "The HTTP version is not served"),
    ("no_such_route", "There is nothing here"),
    ("body_too_large", "The request body is too large"),
];

/// A negative answer, ready to be rendered.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What the caller reads; its `retry_after` becomes the header of that name.
    pub problem: Problem,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem }
    }
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self::of(reject.status, reject.code, reject.detail)
    }
}

impl Refusal {
    pub(crate) fn of(status: u16, code: &str, detail: &str) -> Self {
        let title = CODES
            .iter()
            .find(|(known, _)| *known == code)
            .map_or(code, |(_, title)| title);
        Problem::new(status, code, title).with_detail(detail).into()
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.problem.retry_after = Some(seconds);
        self
    }

    /// Bytes of its document.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body().len()
    }

    pub(crate) fn upstream_failed() -> Self {
        Self::of(
            502,
            "upstream_failed",
            "the workload may have acted on the request: repeat only what may be done twice",
        )
    }

    pub(crate) fn upstream_head_too_large() -> Self {
        let detail = format!(
            "a response head may have {RESPONSE_HEAD_BYTES} bytes and {RESPONSE_HEADERS} fields; the workload acted on the request"
        );
        Self::of(502, "upstream_head_too_large", &detail)
    }

    pub(crate) fn upstream_timeout() -> Self {
        Self::of(504, "upstream_timeout", "no response began within the bound")
    }

    pub(crate) fn upstream_unreachable() -> Self {
        Self::of(503, "upstream_unreachable", "nothing was done: try again").retry_after(1)
    }

    /// For paths that belong to the object and that nothing answers.
    #[must_use]
    pub fn reserved() -> Self {
        Self::of(
            404,
            "no_such_route",
            "paths below /.suijuris/ are never forwarded",
        )
    }

    pub(crate) fn body_too_large() -> Self {
        Self::of(413, "body_too_large", "send a shorter body")
    }

    pub(crate) fn body_timeout() -> Self {
        Self::of(408, "request_timeout", "send the request's body in one go")
    }

    pub(crate) fn held_full() -> Self {
        Self::of(503, "held_full", "retry when the object has decided").retry_after(1)
    }

    pub(crate) fn hold_timeout() -> Self {
        Self::of(
            503,
            "hold_timeout",
            "retry later, or ask the object's owner what keeps it",
        )
        .retry_after(5)
    }

    /// The object falls asleep, or whoever serves it leaves: the same request may be sent again in a moment.
    #[must_use]
    pub fn draining() -> Self {
        Self::of(503, "draining", "retry to wake it again").retry_after(1)
    }

    pub(crate) fn cut_short() -> Self {
        Self::of(
            503,
            "draining",
            "the object went to sleep before its workload had answered, which may have acted on the request: repeat only what may be done twice",
        )
        .retry_after(1)
    }

    pub(crate) fn too_many_connections() -> Self {
        Self::of(503, "too_many_connections", "retry later or reuse connections").retry_after(1)
    }

    pub(crate) fn too_many_requests() -> Self {
        Self::of(
            503,
            "too_many_requests",
            "retry later: the object answers as many requests as it takes at once",
        )
        .retry_after(1)
    }

    /// The problem document as JSON.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        // Strings and numbers only: serialising them cannot fail.
        serde_json::to_vec(&self.problem).unwrap_or_default()
    }

    /// HTTP status; one outside 400..=599 would be no refusal and becomes 500.
    #[must_use]
    pub fn status(&self) -> http::StatusCode {
        http::StatusCode::from_u16(self.problem.status)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// The whole HTTP/1.1 response; without `keep_alive` it announces the close.
#[must_use]
pub fn render_http1(refusal: &Refusal, keep_alive: bool, reader: Option<&Reader>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    render_into(refusal, reader, keep_alive, false, &mut out);
    out
}

/// Appends the response to `out`; to a HEAD request without the body it describes.
pub(crate) fn render_into(
    refusal: &Refusal,
    reader: Option<&Reader>,
    keep_alive: bool,
    is_head: bool,
    out: &mut Vec<u8>,
) {
    let (status, body) = (refusal.status(), refusal.body());
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to a Vec cannot fail.
    let _infallible = write!(
        out,
        "HTTP/1.1 {} {reason}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {}\r\ncache-control: no-store\r\n",
        status.as_u16(),
        body.len()
    );
    if let Some(seconds) = refusal.problem.retry_after {
        let _infallible = write!(out, "retry-after: {seconds}\r\n");
    }
    if let Some(challenge) = refusal.problem.challenge() {
        let _infallible = write!(out, "www-authenticate: {challenge}\r\n");
    }
    for (name, value) in reader.into_iter().flat_map(Reader::fields) {
        line(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    out.extend_from_slice(if keep_alive {
        b"\r\n"
    } else {
        b"connection: close\r\n\r\n"
    });
    if !is_head {
        out.extend_from_slice(&body);
    }
}

/// Appends an answer that is no refusal to `out`; to a HEAD request without its body.
pub(crate) fn render_answer(
    answer: &http::Response<bytes::Bytes>,
    keep_alive: bool,
    is_head: bool,
    out: &mut Vec<u8>,
) {
    let status = answer.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let length = answer.body().len();
    // Writing to a Vec cannot fail.
    let _infallible = write!(
        out,
        "HTTP/1.1 {} {reason}\r\ncontent-length: {length}\r\n",
        status.as_u16()
    );
    for (name, value) in answer.headers() {
        line(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    out.extend_from_slice(if keep_alive {
        b"\r\n"
    } else {
        b"connection: close\r\n\r\n"
    });
    if !is_head {
        out.extend_from_slice(answer.body());
    }
}

/// The refusal as a response of the `http` crate, for HTTP/2: as whoever sent these header fields can read it.
pub(crate) fn response(
    refusal: &Refusal,
    asked: &http::HeaderMap,
    reader: Option<&Reader>,
) -> http::Response<bytes::Bytes> {
    if grpc::is_spoken(asked) {
        return grpc::response(refusal);
    }
    let mut response = http::Response::new(bytes::Bytes::from(refusal.body()));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(MEDIA_TYPE),
    );
    headers.insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-store"),
    );
    if let Some(seconds) = refusal.problem.retry_after {
        headers.insert(http::header::RETRY_AFTER, seconds.into());
    }
    if let Some(challenge) = refusal.problem.challenge() {
        headers.insert(
            http::header::WWW_AUTHENTICATE,
            http::HeaderValue::from_static(challenge),
        );
    }
    headers.extend(reader.into_iter().flat_map(Reader::fields));
    response
}
