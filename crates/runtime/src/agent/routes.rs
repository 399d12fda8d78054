//! The routes of the agent socket.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use suijuris_api::Problem;
use suijuris_api::agent::{Hold, Patch, TokenRequest};
use suijuris_core::inputs::Principal;
use suijuris_core::time::Span;

use super::messages;
use crate::holds;
use crate::resident::Resident;

/// Size of a request body at most, bytes: a field of 1 MiB in JSON.
const MAX_BODY: usize = 3 << 20;

type Answer = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

/// Answers one request.
pub(super) async fn answer(resident: &Resident, request: Request<Incoming>) -> Answer {
    match route(resident, request).await {
        Ok(answer) => answer,
        Err(problem) => refusal(&problem),
    }
}

async fn route(resident: &Resident, request: Request<Incoming>) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    if parts.method != Method::GET && path.as_slice() != ["v1", "ready"] {
        // Looking is free; whatever is acknowledged or signed stands on an activation that the witness knows.
        resident.may_answer().await;
    }
    match (&parts.method, path.as_slice()) {
        (&Method::GET, ["v1", "object"]) => Ok(json(&resident.status())),
        (&Method::GET, ["v1", "memory"]) => Ok(json(&resident.memory())),
        (&Method::PATCH, ["v1", "memory"]) => {
            let patch: Patch = read(body).await?;
            let patched = resident.patch(Principal::Workload, &patch).await?;
            resident.workload_acted();
            Ok(json(&patched))
        }
        (&Method::GET, ["v1", "memory", "watch"]) => events(resident, true),
        (&Method::GET, ["v1", "memory", field]) => field_value(resident, field),
        (&Method::GET, ["v1", "events"]) => events(resident, false),
        (&Method::GET, ["v1", "holds"]) => Ok(json(&resident.status().holds)),
        (&Method::PUT, ["v1", "holds", name]) => hold(resident, name, &read(body).await?),
        (&Method::DELETE, ["v1", "holds", name]) => release(resident, name),
        (&Method::POST, ["v1", "ready"]) => {
            resident.workload_says_ready();
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::POST, ["v1", "sleep"]) => resident
            .propose_sleep(Principal::Workload)
            .map(|verdict| json_as(StatusCode::ACCEPTED, &verdict)),
        (&Method::GET, ["v1", "messages"]) => messages::list(resident, parts.uri.query())
            .await
            .map(|found| json(&found)),
        (&Method::POST, ["v1", "messages", "ack"]) => {
            messages::acknowledge(resident, &read(body).await?).await?;
            resident.workload_acted();
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::POST, ["v1", "token"]) => token(resident, &read(body).await?),
        _ => Err(
            Problem::new(404, "no_such_route", "There is no such route on the agent socket").with_detail(
                format!(
                    "{} {}: docs/agent-socket.md lists the routes",
                    parts.method,
                    parts.uri.path()
                ),
            ),
        ),
    }
}

fn field_value(resident: &Resident, name: &str) -> Result<Answer, Problem> {
    let mut fields = resident.memory().fields;
    match fields.remove(name) {
        Some(mut field) => {
            if let Some(secret) = resident.secret(name)? {
                field.value = Some(secret);
            }
            Ok(json(&field))
        }
        None => Err(Problem::new(404, "no_such_field", "Memory has no such field")
            .with_detail(format!("`{name}`; GET /v1/memory lists the fields"))),
    }
}

fn events(resident: &Resident, memory: bool) -> Result<Answer, Problem> {
    let first = memory.then(|| serde_json::to_string(&resident.memory()).unwrap_or_default());
    let first = first.map(|data| Bytes::from(format!("event: memory\ndata: {data}\n\n")));
    let feed = if memory {
        resident.memory_feed()
    } else {
        resident.notice_feed()
    };
    let body = feed.listen(first).ok_or_else(|| {
        Problem::new(
            503,
            "too_many_listeners",
            "Too many listeners on the agent socket",
        )
        .with_detail("close streams that are no longer read")
    })?;
    let mut answer = Response::new(body.boxed_unsync());
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(answer)
}

fn length(text: &str) -> Result<Duration, Problem> {
    let wrong = |why: String| Problem::new(422, "bad_length", "Not a duration").with_detail(why);
    let span: Span = text
        .parse()
        .map_err(|error: suijuris_core::time::ParseError| wrong(error.to_string()))?;
    u64::try_from(span.0)
        .map(Duration::from_millis)
        .map_err(|_| wrong(format!("`{text}` is negative")))
}

fn hold(resident: &Resident, name: &str, hold: &Hold) -> Result<Answer, Problem> {
    resident.take_hold(name, length(&hold.length)?).map_err(|error| {
        let status = if error == holds::Error::TooMany { 429 } else { 422 };
        Problem::new(status, "hold_refused", "The hold was not taken").with_detail(error.to_string())
    })?;
    Ok(json(&resident.status().holds))
}

fn release(resident: &Resident, name: &str) -> Result<Answer, Problem> {
    if resident.release_hold(name) {
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    Err(Problem::new(404, "no_such_hold", "No such hold is in force").with_detail(format!("`{name}`")))
}

fn token(resident: &Resident, request: &TokenRequest) -> Result<Answer, Problem> {
    resident
        .identity_token(&request.audience, length(&request.length)?)
        .map(|token| json(&token))
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Problem> {
    let bytes = Limited::new(body, MAX_BODY).collect().await.map_err(|_| {
        Problem::new(
            413,
            "body_too_large",
            "The request body is too large or was cut short",
        )
        .with_detail(format!("at most {MAX_BODY} bytes"))
    })?;
    suijuris_api::json::from_slice(&bytes.to_bytes()).map_err(|error| {
        Problem::new(400, "bad_json", "The request body is not the JSON of this route")
            .with_detail(error.to_string())
    })
}

fn json(value: &impl Serialize) -> Answer {
    json_as(StatusCode::OK, value)
}

fn json_as(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    let mut answer = Response::new(Full::new(Bytes::from(bytes)).boxed_unsync());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

fn refusal(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json_as(status, problem);
    let media = HeaderValue::from_static(suijuris_api::problem::MEDIA_TYPE);
    answer.headers_mut().insert(CONTENT_TYPE, media);
    if let Some(seconds) = problem.retry_after {
        answer
            .headers_mut()
            .insert(hyper::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Holds with the milliseconds they have left, as the status shows them.
pub(crate) fn holds_left(left: BTreeMap<String, Duration>) -> BTreeMap<String, u64> {
    let ms = |left: Duration| u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    left.into_iter().map(|(name, left)| (name, ms(left))).collect()
}
