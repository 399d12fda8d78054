//! Leases of machines: taken, renewed, shown, given back.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use super::machines::MAX_LEASE_S;
use crate::clock::now_ms;
use crate::ids;
use crate::machine::Lease;
use crate::machine::requests::Request;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Create {
    ttl: Option<u64>,
    description: Option<String>,
}

pub(super) fn shown(lease: &Lease, version: &str) -> Value {
    json!({
        "nonce": lease.nonce, "expires_at": lease.expires_ms / 1_000, "owner": lease.owner, "description": lease.description,
        "version": version,
    })
}

fn envelope(lease: &Lease, version: &str) -> Value {
    json!({ "status": "success", "data": shown(lease, version) })
}

pub(super) fn show(call: &Call) -> Result<Answer, ApiError> {
    let machine = call.machine()?.now();
    let lease = machine
        .lease_at(now_ms())
        .ok_or_else(|| ApiError::not_found("lease not found"))?;
    Ok(Answer::ok(envelope(lease, &machine.version)))
}

pub(super) async fn create(call: &Call) -> Result<Answer, ApiError> {
    let asked: Create = call.body()?;
    let in_query = call.query("ttl").map(|text| {
        let seconds = text.strip_suffix('s').unwrap_or(text);
        seconds
            .parse::<u64>()
            .map_err(|_| ApiError::invalid("ttl is a number of seconds"))
    });
    let ttl = in_query.transpose()?.or(asked.ttl).unwrap_or(60);
    if !(1..=MAX_LEASE_S).contains(&ttl) {
        return Err(ApiError::invalid(format!("ttl is 1 to {MAX_LEASE_S} seconds")));
    }
    let description = asked.description.unwrap_or_default();
    if description.len() > 1_024 {
        return Err(ApiError::invalid("description has 1024 bytes at most"));
    }
    let request = Request::Lease {
        ttl_ms: ttl * 1_000,
        nonce: ids::nonce()?,
        owner: call.token.id.clone(),
        description,
    };
    let machine = call.ask(request).await?;
    let lease = machine
        .lease
        .as_ref()
        .ok_or_else(|| ApiError::not_found("lease not found"))?;
    Ok(Answer::Json(
        StatusCode::CREATED,
        envelope(lease, &machine.version),
    ))
}

pub(super) async fn release(call: &Call) -> Result<Answer, ApiError> {
    call.ask(Request::Release).await?;
    Ok(Answer::done())
}
