//! HTTP answers and bodies, as every API of ours over hyper gives and takes them: the door's, and that of the daemon.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use serde::Serialize;
use suijuris_api::Problem;
use suijuris_api::problem::MEDIA_TYPE;

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

/// An answer of this text.
#[must_use]
pub fn text(status: StatusCode, media_type: &str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    put(&mut answer, "content-type", media_type);
    answer
}

/// A document.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    // Our documents are structs with texts, numbers and JSON: they always have a JSON form.
    text(
        status,
        "application/json",
        serde_json::to_vec(body).unwrap_or_default(),
    )
}

/// A problem document, with the headers that repeat parts of it.
#[must_use]
pub fn problem(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut answer = text(status, MEDIA_TYPE, body);
    if let Some(seconds) = problem.retry_after {
        put(&mut answer, "retry-after", &seconds.to_string());
    }
    if let Some(challenge) = problem.challenge() {
        put(&mut answer, "www-authenticate", challenge);
    }
    answer
}

/// Sets a header, where the value can be one.
pub fn put<B>(answer: &mut Response<B>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than are taken.
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    /// It did not arrive in time.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    Slow(Duration),
    /// The connection broke, or its framing is wrong.
    #[error("the body ended early: {0}")]
    Broken(String),
}

impl BodyError {
    /// What whoever sent it is answered.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let problem = match self {
            Self::TooLarge(_) => Problem::new(413, "body_too_large", "The body is too large"),
            Self::Slow(_) => Problem::new(408, "request_timeout", "The request took too long to arrive"),
            Self::Broken(_) => Problem::new(400, "bad_request", "The request cannot be understood"),
        };
        problem.with_detail(self.to_string())
    }
}

/// A whole body of at most `max` bytes, within this time.
///
/// # Errors
/// [`BodyError`].
pub async fn read_body<B>(body: B, max: usize, within: Duration) -> Result<Bytes, BodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = tokio::time::timeout(within, Limited::new(body, max).collect());
    let collected = collected.await.map_err(|_late| BodyError::Slow(within))?;
    let collected = collected.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => BodyError::TooLarge(max),
        None => BodyError::Broken(error.to_string()),
    })?;
    Ok(collected.to_bytes())
}

/// The media type of a request's body, without its parameters, in lower case.
#[must_use]
pub fn media_type(headers: &http::HeaderMap) -> Option<String> {
    let found = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = found.split(';').next().unwrap_or_default();
    Some(essence.trim().to_ascii_lowercase())
}
