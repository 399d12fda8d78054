//! Apps: listed, made, shown, deleted with all that is in them; tokens for one of them.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::apps::App;
use crate::clock::{Span, now_ms};
use crate::ids;
use crate::machine::requests::Request;
use crate::machine::{By, State};
use crate::store::{Table, Write};
use crate::tokens::{Access, Grant, Token};
use crate::volumes::VolumeState;
use std::sync::PoisonError;

/// How long a deploy token lasts whose request does not say: 20 years, as Fly's.
const DEPLOY_TOKEN_MS: u64 = 20 * 365 * 24 * 3_600_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Create {
    name: Option<String>,
    app_name: Option<String>,
    org_slug: Option<String>,
    network: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DeployToken {
    expiry: Option<String>,
}

fn shown(call: &Call, app: &App) -> Value {
    let machines = call.host().machines_of(&app.name);
    let count = machines
        .iter()
        .filter(|machine| machine.state != State::Destroyed)
        .count();
    let volumes = call
        .host()
        .volumes
        .list(|volume| volume.app == app.name && volume.state != VolumeState::Destroyed);
    json!({
        "id": app.id, "internal_numeric_id": app.number, "name": app.name, "machine_count": count, "volume_count": volumes.len(),
        "network": app.network, "status": if count == 0 { "pending" } else { "deployed" },
        "organization": {"name": app.org, "slug": app.org, "internal_numeric_id": number(&app.org)},
    })
}

/// A number for a name, the same each time.
pub(super) fn number(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest
        .iter()
        .take(4)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

pub(super) fn list(call: &Call) -> Result<Answer, ApiError> {
    let org = call.org(call.query("org_slug").unwrap_or(&call.token.org))?;
    let apps: Vec<App> = {
        let apps = call.host().apps.read().unwrap_or_else(PoisonError::into_inner);
        apps.values()
            .filter(|app| app.org == org && call.reaches(app))
            .cloned()
            .collect()
    };
    let rows: Vec<Value> = apps.iter().map(|app| shown(call, app)).collect();
    Ok(Answer::ok(json!({ "total_apps": rows.len(), "apps": rows })))
}

pub(super) async fn create(call: &Call) -> Result<Answer, ApiError> {
    let asked: Create = call.body()?;
    let name = asked.app_name.or(asked.name).unwrap_or_default();
    if !ids::is_name(&name) {
        let text = "app_name is 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";
        return Err(ApiError::invalid(text));
    }
    let org = call.org(asked.org_slug.as_deref().unwrap_or(&call.token.org))?;
    if call.token.app.is_some() {
        return Err(ApiError::unauthorized());
    }
    let network = asked.network.unwrap_or_else(crate::machine::default_network);
    if network.len() > 63 || network.contains(char::is_control) {
        return Err(ApiError::invalid("network is a name of 63 letters at most"));
    }
    let host = call.host();
    let _one = host.naming.lock().await;
    if host.app(&name).is_some() {
        let taken = ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Validation failed: Name has already been taken",
        );
        return Err(taken.with_code("name_taken"));
    }
    let app = App {
        id: ids::nonce()?,
        number: number(&name),
        name: name.clone(),
        org,
        network,
        created_ms: now_ms(),
        leaving: false,
    };
    host.shared.store.set(Table::Apps, &name, &app).await?;
    let answer = json!({ "id": app.id, "created_at": app.created_ms });
    host.apps
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(name, app);
    Ok(Answer::Json(StatusCode::CREATED, answer))
}

pub(super) fn show(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    Ok(Answer::ok(shown(call, &app)))
}

pub(super) async fn delete(call: &Call) -> Result<Answer, ApiError> {
    let mut app = call.app()?;
    let host = call.host();
    app.leaving = true;
    host.shared.store.set(Table::Apps, &app.name, &app).await?;
    host.apps
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(app.name.clone(), app.clone());
    host.finish_deleting(&app).await.map_err(ApiError::from)?;
    Ok(Answer::Empty(StatusCode::ACCEPTED))
}

impl crate::host::Inner {
    /// Destroys what is in an app, then forgets it. Done again by the next daemon where this one ends in between.
    pub(crate) async fn finish_deleting(&self, app: &App) -> Result<(), crate::store::StoreError> {
        for machine in self.machines_of(&app.name) {
            if let Some(handle) = self.machine(&app.name, &machine.id) {
                let nonce = machine.lease.as_ref().map(|lease| lease.nonce.clone());
                // Destroyed already, or being destroyed: just as well.
                let _ = self
                    .ask(&handle, Request::Destroy { force: true }, nonce, By::Flyd)
                    .await;
                let mut record = handle.record.clone();
                let _ = tokio::time::timeout(
                    std::time::Duration::from_secs(45),
                    record.wait_for(|machine| machine.state == State::Destroyed),
                )
                .await;
            }
        }
        for volume in self.volumes.list(|volume| volume.app == app.name) {
            self.volumes.forget(&volume.id).await?;
        }
        self.shared.world.secrets.forget(&app.name).await?;
        self.documents.forget(&app.name).await?;
        let (world, of) = (std::sync::Arc::clone(&self.shared.world), app.clone());
        let forget = move || world.images.shelf.forget(&of.org, &of.name);
        // Another org's app of the same name would not reach it; what stays is there no more than room.
        let _ = tokio::task::spawn_blocking(forget).await;
        let gone = self.machines_of(&app.name);
        let mut writes: Vec<Write> = gone
            .iter()
            .map(|machine| Write::remove(Table::Machines, &machine.id))
            .collect();
        writes.push(Write::remove(Table::Apps, &app.name));
        self.shared.store.commit(writes).await?;
        self.apps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&app.name);
        let mut machines = self.machines.write().unwrap_or_else(PoisonError::into_inner);
        machines.retain(|id, _| !gone.iter().any(|machine| machine.id == *id));
        Ok(())
    }
}

pub(super) async fn deploy_token(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let asked: DeployToken = call.body()?;
    let lasts_ms = match asked.expiry.filter(|expiry| !expiry.is_empty()) {
        None => DEPLOY_TOKEN_MS,
        Some(expiry) => expiry.parse::<Span>().map_err(ApiError::invalid)?.ms(),
    };
    let grant = Grant {
        org: app.org,
        app: Some(app.name),
        access: Access::Full,
        lasts_ms: Some(lasts_ms),
    };
    let (token, made) = call.host().tokens.make(grant, now_ms()).await?;
    Ok(Answer::ok(json!({ "token": token, "id": made.id })))
}

/// Ends a token of one app before its time; ours, not Fly's. Whoever reaches the app may, since they could make one.
pub(super) async fn revoke_token(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let id = call.param("token_id");
    let of_app =
        |token: &Token| token.id == id && token.org == app.org && token.app.as_ref() == Some(&app.name);
    let tokens = &call.host().tokens;
    if !tokens.list().iter().any(of_app) || !tokens.revoke(id).await? {
        return Err(ApiError::not_found("token not found"));
    }
    Ok(Answer::Empty(StatusCode::NO_CONTENT))
}
