//! The control socket in the data directory: whoever may open it runs the host. Tokens are made and revoked here, and the plan of
//! what the daemon would do next is shown.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::{Span, now_ms, rfc3339};
use crate::drain::Destination;
use crate::host::{FIRST_ORG, Host};
use crate::ids;
use crate::machine::actor::stamp;
use crate::machine::plan::{Next, Seen, plan};
use crate::machine::{Machine, State as Phase};
use crate::tokens::{Access, Grant};
use crate::volumes::{Snapshot, VolumeState};

/// The control socket's name in the data directory.
pub(super) const SOCKET: &str = "host.sock";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Make {
    org: Option<String>,
    app: Option<String>,
    access: Option<Access>,
    expiry: Option<String>,
}

fn refused(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": text }))).into_response()
}

fn failed(error: &dyn std::error::Error) -> Response {
    let text = crate::machine::effects::chain(error);
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": text }))).into_response()
}

/// The routes of the control socket.
pub(super) fn router(host: Host) -> Router {
    Router::new()
        .route("/tokens", post(make).get(list))
        .route("/tokens/{id}", delete(revoke))
        .route("/drain", post(drain).delete(stop_draining))
        .route("/plan", get(next))
        .route("/metrics", get(metrics))
        .route("/logs/{app}", get(logs))
        .route("/console/{app}/{machine}", post(super::console::of_operator))
        .route("/backups", get(backups))
        .with_state(host)
}

/// Counters of all orgs' apps, which no token of one org may read.
async fn metrics(State(host): State<Host>) -> Response {
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    let counters = host.0.counters.get();
    let mut text = counters.map(crate::proxied::Counters::text).unwrap_or_default();
    text.push_str(&crate::usage::text(&host.0, now_ms()));
    (kind, text).into_response()
}

/// The backups of volumes: those that are there, whichever host made them, and what this host has still to do.
async fn backups(State(host): State<Host>) -> Response {
    let volumes = &host.0.volumes;
    let Some(backups) = volumes.backups() else {
        return refused("this host makes no backups: start it with --backup URL");
    };
    let all = match backups.all().await {
        Ok(all) => all,
        Err(error) => return failed(&error),
    };
    let mut rows: Vec<Value> = Vec::new();
    let kept = backups.kept();
    for place in &all {
        let parts: Vec<&str> = place.split('/').collect();
        if let [org, app, volume, snapshot] = parts.as_slice() {
            let ours = kept.get(*snapshot);
            rows.push(json!({
                "org": org, "app": app, "volume": volume, "snapshot": snapshot, "state": "kept",
                "created_at": ours.map(|kept| rfc3339(kept.created_ms)), "bytes": ours.map(|kept| kept.bytes),
                "sent": ours.map(|kept| kept.sent), "problem": backups.problem(snapshot),
            }));
        }
    }
    for volume in volumes.list(|_| true) {
        let row = |snapshot: &str, state: &str, problem: Option<String>| {
            json!({
                "org": volume.org, "app": volume.app, "volume": volume.id, "snapshot": snapshot, "state": state, "problem": problem,
            })
        };
        if volume.state == VolumeState::Restoring {
            let origin = volume.origin.as_deref().unwrap_or_default();
            rows.push(row(origin, "restoring", backups.problem(&volume.id)));
        }
        let waits = |snapshot: &&Snapshot| snapshot.is_whole() && !kept.contains_key(&snapshot.id);
        for snapshot in volume.snapshots.iter().filter(waits) {
            rows.push(row(&snapshot.id, "waiting", backups.problem(&snapshot.id)));
        }
    }
    Json(Value::Array(rows)).into_response()
}

async fn make(State(host): State<Host>, body: Bytes) -> Response {
    let asked: Make = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return refused(&format!("the body: {error}")),
    };
    let org = asked.org.unwrap_or_else(|| FIRST_ORG.to_owned());
    if !ids::is_name(&org) || asked.app.as_deref().is_some_and(|app| !ids::is_name(app)) {
        return refused("org and app are names: 1 to 63 of a-z, 0-9 and -");
    }
    let lasts = asked.expiry.as_deref().map(str::parse::<Span>).transpose();
    let lasts_ms = match lasts {
        Ok(lasts) => lasts.map(Span::ms),
        Err(error) => return refused(&format!("expiry: {error}")),
    };
    let grant = Grant {
        org,
        app: asked.app,
        access: asked.access.unwrap_or(Access::Full),
        lasts_ms,
    };
    match host.0.tokens.make(grant, now_ms()).await {
        Ok((text, token)) => Json(json!({ "token": text, "id": token.id })).into_response(),
        Err(error) => failed(&error),
    }
}

async fn list(State(host): State<Host>) -> Json<Value> {
    let shown = |token: crate::tokens::Token| {
        json!({
            "id": token.id, "org": token.org, "app": token.app, "access": token.access, "created_at": rfc3339(token.created_ms),
            "expires_at": token.expires_ms.map(rfc3339),
        })
    };
    Json(Value::Array(
        host.0.tokens.list().into_iter().map(shown).collect(),
    ))
}

async fn revoke(State(host): State<Host>, Path(id): Path<String>) -> Response {
    match host.0.tokens.revoke(&id).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => (StatusCode::NOT_FOUND, Json(json!({ "error": "token not found" }))).into_response(),
        Err(error) => failed(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    to: String,
    token: String,
}

/// Sends all machines to another host; answers what became of each.
async fn drain(State(host): State<Host>, body: Bytes) -> Response {
    let asked: Drain = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return refused(&format!("the body: {error}")),
    };
    let destination = match Destination::new(&asked.to, &asked.token) {
        Ok(destination) => destination,
        Err(why) => return refused(&why),
    };
    // It goes on though whoever asked goes away.
    let (sender, done) = tokio::sync::oneshot::channel();
    let of_task = std::sync::Arc::clone(&host.0);
    host.0
        .spawn(async move { drop(sender.send(of_task.drain(destination).await)) });
    drained(
        done.await
            .unwrap_or_else(|_| Err("the daemon is ending; the next one goes on".to_owned())),
    )
}

async fn stop_draining(State(host): State<Host>) -> Response {
    drained(host.0.stop_draining().await)
}

fn drained(rows: Result<Vec<Value>, String>) -> Response {
    match rows {
        Ok(rows) => Json(Value::Array(rows)).into_response(),
        Err(why) => refused(&why),
    }
}

/// What would be done next for each machine, as lines that can be compared.
async fn next(State(host): State<Host>) -> Json<Value> {
    let handles: Vec<_> = {
        let machines = host
            .0
            .machines
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        machines.values().cloned().collect()
    };
    let row = |handle: crate::machine::actor::Handle| {
        let machine = handle.now();
        let seen = Seen::of(handle.processes.borrow().as_deref());
        (machine.state != Phase::Destroyed).then(|| planned(&machine, seen))
    };
    Json(Value::Array(handles.into_iter().filter_map(row).collect()))
}

fn planned(machine: &Machine, seen: Seen) -> Value {
    let next = match plan(machine, seen, &stamp()) {
        Next::Rest => "rest".to_owned(),
        Next::Wait(until) => format!("wait until {}", rfc3339(until)),
        Next::Record(next) => format!("record {}", next.state.name()),
        Next::Do(effect) => effect.name().to_owned(),
    };
    let operation = machine
        .operation
        .as_ref()
        .map(|operation| json!({ "kind": operation.kind.name(), "step": operation.step }));
    json!({
        "app": machine.app, "machine": machine.id, "recorded": machine.state.name(), "operation": operation, "seen": seen.name(),
        "next": next,
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    machine: Option<String>,
    #[serde(default)]
    follow: bool,
}

/// What the machines of an app have written, or one of them.
async fn logs(State(host): State<Host>, Path(app): Path<String>, Query(which): Query<LogQuery>) -> Response {
    let meant = |machine: &std::sync::Arc<Machine>| {
        let named = which
            .machine
            .as_ref()
            .is_none_or(|name| *name == machine.id || *name == machine.name);
        (named && machine.state != Phase::Destroyed).then(|| machine.id.clone())
    };
    let ids: Vec<String> = host.0.machines_of(&app).iter().filter_map(meant).collect();
    if ids.is_empty() {
        let text = "there is no such machine of this app; destroyed ones have no logs";
        return (StatusCode::NOT_FOUND, Json(json!({ "error": text }))).into_response();
    }
    respond(&host.0, ids, which.follow)
}

/// The lines of machines as a body.
pub(super) fn respond(host: &crate::host::Inner, ids: Vec<String>, follow: bool) -> Response {
    let source = |id: String| {
        let directory = host.shared.world.directory(&id);
        Some(crate::logs::Source {
            handle: host.handle(&id)?,
            directory,
        })
    };
    let (stream, reading) = crate::logs::read(ids.into_iter().filter_map(source).collect(), follow);
    host.spawn(reading);
    let kind = (CONTENT_TYPE, "application/x-ndjson");
    ([kind], axum::body::Body::new(stream)).into_response()
}
