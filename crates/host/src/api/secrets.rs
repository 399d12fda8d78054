//! Secrets of an app: names and digests are listed, values given only where they are asked for.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::call::{Answer, Call, Texts};
use super::error::ApiError;
use crate::clock::{now_ms, rfc3339};
use crate::secrets::Secret;
use crate::tokens::Access;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Update {
    values: Texts,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Set {
    value: Option<String>,
}

fn shown(secret: &Secret) -> Value {
    json!({
        "name": secret.name, "digest": secret.digest, "created_at": rfc3339(secret.created_ms),
        "updated_at": rfc3339(secret.updated_ms),
    })
}

/// The same with its value, where the caller asks for that and may.
fn shown_to(call: &Call, app: &str, secret: &Secret) -> Result<Value, ApiError> {
    let mut document = shown(secret);
    if call.flag("show_secrets") {
        if call.token.access != Access::Full {
            return Err(ApiError::unauthorized());
        }
        let value = call.host().shared.world.secrets.value(app, &secret.name)?;
        if let Some(document) = document.as_object_mut() {
            document.insert("value".to_owned(), json!(&*value));
        }
    }
    Ok(document)
}

/// Whether the secrets are as new as the caller asks.
fn check_version(call: &Call, version: u64) -> Result<(), ApiError> {
    let Some(text) = call.query("min_version") else {
        return Ok(());
    };
    let least: u64 = text
        .parse()
        .map_err(|_| ApiError::invalid("min_version is a number"))?;
    if version < least {
        return Err(ApiError::precondition(format!(
            "min_version {least} is not reached: the secrets are at version {version}"
        )));
    }
    Ok(())
}

pub(super) fn list(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let of_app = call.host().shared.world.secrets.of(&app.name);
    check_version(call, of_app.version)?;
    let secrets = of_app
        .secrets
        .values()
        .map(|secret| shown_to(call, &app.name, secret));
    let secrets: Vec<Value> = secrets.collect::<Result<_, _>>()?;
    Ok(Answer::ok(json!({ "secrets": secrets })))
}

pub(super) fn show(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let of_app = call.host().shared.world.secrets.of(&app.name);
    check_version(call, of_app.version)?;
    let secret = of_app.secrets.get(call.param("secret_name"));
    let secret = secret.ok_or_else(|| ApiError::not_found("secret not found"))?;
    Ok(Answer::ok(shown_to(call, &app.name, secret)?))
}

pub(super) async fn update(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let asked: Update = call.raw_body()?;
    let values = asked
        .values
        .into_iter()
        .map(|(name, value)| (name, value.map(Zeroizing::new)));
    let of_app = call
        .host()
        .shared
        .world
        .secrets
        .change(&app.name, values.collect(), now_ms())
        .await?;
    let secrets: Vec<Value> = of_app.secrets.values().map(shown).collect();
    Ok(Answer::ok(
        json!({ "secrets": secrets, "version": of_app.version, "Version": of_app.version }),
    ))
}

pub(super) async fn set(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let asked: Set = call.body()?;
    let value = asked.value.ok_or_else(|| ApiError::invalid("value is missing"))?;
    let name = call.param("secret_name").to_owned();
    let values = std::iter::once((name.clone(), Some(Zeroizing::new(value))));
    let of_app = call
        .host()
        .shared
        .world
        .secrets
        .change(&app.name, values.collect(), now_ms())
        .await?;
    let secret = of_app
        .secrets
        .get(&name)
        .ok_or_else(|| ApiError::not_found("secret not found"))?;
    let mut document = shown(secret);
    if let Some(document) = document.as_object_mut() {
        document.insert("version".to_owned(), json!(of_app.version));
        document.insert("Version".to_owned(), json!(of_app.version));
    }
    Ok(Answer::Json(StatusCode::CREATED, document))
}

pub(super) async fn delete(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let secrets = &call.host().shared.world.secrets;
    let name = call.param("secret_name").to_owned();
    if !secrets.of(&app.name).secrets.contains_key(&name) {
        return Err(ApiError::not_found("secret not found"));
    }
    let of_app = secrets
        .change(&app.name, std::iter::once((name, None)).collect(), now_ms())
        .await?;
    Ok(Answer::ok(
        json!({ "version": of_app.version, "Version": of_app.version }),
    ))
}
