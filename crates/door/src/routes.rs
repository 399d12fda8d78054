//! The door's HTTP interface: what each route answers. Not here: connections and their bounds (server).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_depot::Posted;
use suijuris_gate::Refusal;

use crate::door::{Door, ObjectStatus, Passed};
use crate::ext_authz::{self, CheckRequest, Mode, OwnedCheck, Received};
use crate::http_answers::{self, Answer, BodyError, json, put, text};
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

/// What requests are answered with.
#[derive(Debug)]
pub struct Routes<N> {
    /// Decides.
    pub door: Arc<Door>,
    /// Which objects hosts name, beside those whose first label is an id.
    pub names: N,
}

/// Names of objects that are no ids, and objects that have their state open here.
pub trait Names {
    /// The object that this host names: lower case, without port.
    fn object(&self, host: &str) -> Option<ObjectId>;

    /// The answer about a request for an object that lives here; none where the depot has to be asked. Nothing is started.
    fn check(
        &self,
        object: ObjectId,
        asked: OwnedCheck,
    ) -> impl Future<Output = Option<Result<Passed, Problem>>>;
}

impl Names for BTreeMap<String, ObjectId> {
    fn object(&self, host: &str) -> Option<ObjectId> {
        self.get(host).copied()
    }

    fn check(&self, _: ObjectId, _: OwnedCheck) -> impl Future<Output = Option<Result<Passed, Problem>>> {
        std::future::ready(None)
    }
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

impl<N: Names> Routes<N> {
    /// Answers a request of `peer`.
    pub async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
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
                text(StatusCode::OK, METRICS_TYPE, self.door.metrics_text(None))
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
        let object = match check.object(&self.names) {
            Ok(object) => object,
            Err(error) => return self.refused(&problems::not_asked(&error), Some(check.mode)),
        };
        let here = self.names.check(object, OwnedCheck::of(parts, peer)).await;
        let passed = match here {
            Some(passed) => passed,
            None => self.door.check(object, &check).await,
        };
        match passed {
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
        let body = http_answers::read_body(body, limits.body_bytes, limits.body_within).await;
        let body = body.map_err(|error| match error {
            BodyError::Broken(why) => problems::event(&events::Error::Document(why), object),
            error => error.problem(),
        })?;
        let message = events::read(&parts.headers, &body, self.door.now())
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

/// A refusal as the caller reads it; nginx's `auth_request` gets 401 or 403, and the true status as a header.
pub(crate) fn refusal(problem: &Problem, mode: Option<Mode>) -> Answer {
    let status = match (mode, problem.status) {
        (Some(Mode::Nginx), 401) => 401,
        (Some(Mode::Nginx), _) => 403,
        (_, status) => status,
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    let mut answer = http_answers::problem(problem);
    *answer.status_mut() = status;
    put(&mut answer, REFUSED, &problem.code);
    put(&mut answer, STATUS, &problem.status.to_string());
    if !problem.object.is_empty() {
        put(&mut answer, OBJECT, &problem.object);
    }
    answer
}
