//! A machine's metadata: no version comes of a change, and no lease stands in its way.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::call::{Answer, Call, Texts};
use super::error::ApiError;
use crate::machine::requests::{Metadata, Request};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Update {
    metadata: Texts,
    machine_version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Set {
    value: Option<String>,
}

pub(super) fn show(call: &Call) -> Result<Answer, ApiError> {
    let machine = call.machine()?.now();
    Ok(Answer::ok(json!(machine.config.metadata())))
}

pub(super) fn get(call: &Call) -> Result<Answer, ApiError> {
    let machine = call.machine()?.now();
    let metadata = machine.config.metadata();
    let value = metadata
        .get(call.param("key"))
        .ok_or_else(|| ApiError::not_found("metadata key not found"))?;
    Ok(Answer::ok(json!({ "value": value })))
}

async fn change(call: &Call, change: Metadata) -> Result<Answer, ApiError> {
    call.ask(Request::Metadata(change)).await?;
    Ok(Answer::Empty(StatusCode::NO_CONTENT))
}

pub(super) async fn update(call: &Call) -> Result<Answer, ApiError> {
    // What takes a key away is a `null`, which other bodies may have anywhere and mean nothing by.
    let asked: Update = call.raw_body()?;
    let metadata = Metadata {
        changes: asked.metadata,
        replace: call.is_put,
        version: asked.machine_version.filter(|version| !version.is_empty()),
    };
    change(call, metadata).await
}

fn one(call: &Call, value: Option<String>) -> Metadata {
    Metadata {
        changes: Texts::from([(call.param("key").to_owned(), value)]),
        replace: false,
        version: None,
    }
}

pub(super) async fn set(call: &Call) -> Result<Answer, ApiError> {
    let asked: Set = call.body()?;
    let value = asked.value.ok_or_else(|| ApiError::invalid("value is missing"))?;
    change(call, one(call, Some(value))).await
}

pub(super) async fn delete(call: &Call) -> Result<Answer, ApiError> {
    change(call, one(call, None)).await
}
