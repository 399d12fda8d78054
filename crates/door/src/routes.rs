//! The door's HTTP interface: what each route answers. Not here: connections and their bounds (server).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use suijuris_api::Problem;
use suijuris_api::problem::MEDIA_TYPE;
use suijuris_core::ObjectId;
use suijuris_depot::Posted;
use suijuris_gate::Refusal;

use crate::door::{Door, ObjectStatus};
use crate::ext_authz::{self, CheckRequest, Mode, Received};
use crate::{events, problems};

/// Which object a permitted request is for.
const OBJECT: &str = "x-suijuris-object";
/// Why it passes: `awake`, `permitted`, `woken`.
const PASSED: &str = "x-suijuris-passed";
/// Code of a refusal; proxies that drop the body pass it on.
const REFUSED: &str = "x-suijuris-refused";
/// Status of a refusal, where the proxy in front does not understand it.
const STATUS: &str = "x-suijuris-status";

/// Text of metrics.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) type Answer = Response<Full<Bytes>>;

/// What requests are answered with.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) door: Arc<Door>,
    pub(crate) map: BTreeMap<String, ObjectId>,
}

/// What an object does, as JSON.
#[derive(Serialize)]
struct Status {
    object: String,
    /// `dormant`, `active`, or the phase that it ended in.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<String>,
    /// When a timer wants it next.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
}

impl Routes {
    pub(crate) async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if path == ext_authz::PATH
            || path
                .strip_prefix(ext_authz::PATH)
                .is_some_and(|below| below.starts_with('/'))
        {
            return self.ext_authz(&parts, peer).await;
        }
        match path {
            "/metrics" => looked(&parts, || {
                text(StatusCode::OK, METRICS_TYPE, self.door.metrics_text())
            }),
            "/healthz" => self.health().await,
            _ => match path.strip_prefix("/objects/") {
                Some(rest) => self.object(&parts, rest, body).await,
                None => refusal(&problems::no_route(path), None),
            },
        }
    }

    /// Whether the request that a proxy asks about goes on.
    async fn ext_authz(&self, parts: &Parts, peer: SocketAddr) -> Answer {
        let received = Received {
            method: &parts.method,
            uri: &parts.uri,
            version: parts.version,
            headers: &parts.headers,
            peer,
        };
        let check = match CheckRequest::of(&received) {
            Ok(check) => check,
            Err(error) => return self.refused(&problems::not_asked(&error), None),
        };
        if check.head.is_reserved() {
            return self.refused(&Refusal::reserved().problem, Some(check.mode));
        }
        let object = match check.object(&self.map) {
            Ok(object) => object,
            Err(error) => return self.refused(&problems::not_asked(&error), Some(check.mode)),
        };
        match self.door.check(object, &check).await {
            Ok(passed) => {
                self.door.metrics.answered(passed.as_str());
                let mut answer = Response::new(Full::default());
                put(&mut answer, OBJECT, &object.to_string());
                put(&mut answer, PASSED, passed.as_str());
                answer
            }
            Err(problem) => self.refused(&problem, Some(check.mode)),
        }
    }

    fn refused(&self, problem: &Problem, mode: Option<Mode>) -> Answer {
        self.door.metrics.answered("refused");
        refusal(problem, mode)
    }

    async fn health(&self) -> Answer {
        let (status, depot) = match self.door.depot_answers().await {
            true => (StatusCode::OK, "ok"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
        };
        let body = serde_json::json!({ "depot": depot, "objects": self.door.sleepers().len() });
        text(status, "application/json", body.to_string())
    }

    async fn object(&self, parts: &Parts, rest: &str, body: Incoming) -> Answer {
        let (id, below) = rest.split_once('/').unwrap_or((rest, ""));
        let Ok(object) = id.parse::<ObjectId>() else {
            return refusal(&problems::no_id(id), None);
        };
        match below {
            "" if is_look(parts) => self.status(object).await,
            "" => refusal(&problems::method("GET"), None),
            "messages" if parts.method == Method::POST => {
                let answer = self.message(parts, object, body).await;
                answer.unwrap_or_else(|problem| refusal(&problem, None))
            }
            "messages" => refusal(&problems::method("POST"), None),
            _ => refusal(&problems::no_route(parts.uri.path()), None),
        }
    }

    /// What the object does. Looking never wakes.
    async fn status(&self, object: ObjectId) -> Answer {
        let status = match self.door.look(object).await {
            Ok(status) => status,
            Err(error) => return refusal(&problems::head(&error, object), None),
        };
        let known = self.door.sleepers().known(object);
        let state = match (status, known) {
            (ObjectStatus::Unknown, _) => return refusal(&problems::unknown(object), None),
            (ObjectStatus::Awake, _) | (_, None) => "active",
            (ObjectStatus::Asleep, Some(known)) => known.phase().as_str(),
        };
        let status = Status {
            object: object.to_string(),
            state,
            seq: known.map(|known| known.seq),
            epoch: known.map(|known| known.epoch),
            head: known.map(|known| known.head.to_string()),
            due: known.and_then(|known| known.due).map(|due| due.to_string()),
        };
        json(StatusCode::OK, &status)
    }

    async fn message(&self, parts: &Parts, object: ObjectId, body: Incoming) -> Result<Answer, Problem> {
        let limits = self.door.limits();
        let collected = Limited::new(body, limits.body_bytes).collect();
        let collected = tokio::time::timeout(limits.body_within, collected)
            .await
            .map_err(|_| problems::slow_body())?;
        let body = collected.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return problems::too_large();
            }
            problems::event(&events::Error::Document(error.to_string()), object)
        })?;
        let message = events::read(&parts.headers, &body.to_bytes(), self.door.now())
            .map_err(|error| problems::event(&error, object))?;
        let authorization = parts.headers.get(header::AUTHORIZATION);
        let authorization = authorization.and_then(|value| value.to_str().ok());
        // Acknowledged only once the depot has it.
        let posted = self.door.post(object, &message, authorization).await?;
        let (status, word) = match posted {
            Posted::Stored => (StatusCode::ACCEPTED, "stored"),
            Posted::Duplicate => (StatusCode::OK, "duplicate"),
        };
        let answer = serde_json::json!({ "object": object.to_string(), "id": message.id, "message": word });
        Ok(text(status, "application/json", answer.to_string()))
    }
}

fn is_look(parts: &Parts) -> bool {
    parts.method == Method::GET || parts.method == Method::HEAD
}

fn looked(parts: &Parts, answer: impl FnOnce() -> Answer) -> Answer {
    if is_look(parts) {
        answer()
    } else {
        refusal(&problems::method("GET"), None)
    }
}

fn put(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn text(status: StatusCode, media_type: &str, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    put(&mut answer, "content-type", media_type);
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    // A struct of texts and numbers always has a JSON form.
    text(
        status,
        "application/json",
        serde_json::to_string(body).unwrap_or_default(),
    )
}

/// A refusal as the caller reads it; nginx's `auth_request` gets 401 or 403, and the true status as a header.
pub(crate) fn refusal(problem: &Problem, mode: Option<Mode>) -> Answer {
    let status = match (mode, problem.status) {
        (Some(Mode::Nginx), 401) => 401,
        (Some(Mode::Nginx), _) => 403,
        (_, status) => status,
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    let body = serde_json::to_string(problem).unwrap_or_default();
    let mut answer = text(status, MEDIA_TYPE, body);
    put(&mut answer, REFUSED, &problem.code);
    put(&mut answer, STATUS, &problem.status.to_string());
    if !problem.object.is_empty() {
        put(&mut answer, OBJECT, &problem.object);
    }
    if let Some(seconds) = problem.retry_after {
        put(&mut answer, "retry-after", &seconds.to_string());
    }
    if let Some(challenge) = problem.challenge() {
        put(&mut answer, "www-authenticate", challenge);
    }
    answer
}
