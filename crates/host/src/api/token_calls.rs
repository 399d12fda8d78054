//! What tokens are, and what they may do.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::clock::now_ms;
use crate::tokens::{Access, Token};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Shown {
    header: Option<String>,
    access: Option<Asked>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    action: Option<Value>,
    org_slug: Option<String>,
    app_name: Option<String>,
}

pub(super) fn current(call: &Call) -> Result<Answer, ApiError> {
    let token = &call.token;
    let apps: Vec<&String> = token.app.iter().collect();
    let machine = token.machine.as_deref().unwrap_or_default();
    let row = json!({
        "token_id": token.id, "org_slug": token.org, "organization": token.org, "apps": apps, "user": "", "source_machine_id": machine,
        "restricted_to_machine": machine,
    });
    Ok(Answer::ok(json!({ "tokens": [row] })))
}

fn verified(header: &str) -> Value {
    json!({ "header": header, "permission_token": [], "nonce": {}, "caveats": {"caveats": []} })
}

fn shown(call: &Call) -> Result<(String, Token, Option<Asked>), ApiError> {
    let asked: Shown = call.body()?;
    let header = asked
        .header
        .ok_or_else(|| ApiError::invalid("header is missing: send an Authorization header's value"))?;
    let token = call.host().tokens.authenticate(&header, now_ms());
    let token = token.ok_or_else(|| ApiError::invalid("header: no token in it is known here"))?;
    Ok((header, token, asked.access))
}

pub(super) fn authenticate(call: &Call) -> Result<Answer, ApiError> {
    let (header, ..) = shown(call)?;
    Ok(Answer::ok(json!([verified(&header)])))
}

pub(super) fn authorize(call: &Call) -> Result<Answer, ApiError> {
    let (header, token, asked) = shown(call)?;
    let asked = asked.ok_or_else(|| ApiError::invalid("access is missing: say what shall be done"))?;
    let reads = match &asked.action {
        None => false,
        Some(Value::String(action)) => action.chars().all(|verb| verb == 'r'),
        Some(action) => action.as_u64() == Some(1),
    };
    let in_org = asked.org_slug.as_ref().is_none_or(|org| *org == token.org);
    let in_app = match &asked.app_name {
        Some(name) => {
            let app = call.host().app(name);
            app.is_some_and(|app| app.org == token.org && token.app.is_none_or(|only| only == app.name))
        }
        None => true,
    };
    if token.access == Access::Receive || !(in_org && in_app && (reads || token.access == Access::Full)) {
        return Err(ApiError::unauthorized());
    }
    Ok(Answer::ok(
        json!({ "verified_token": verified(&header), "access": {} }),
    ))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Identity {
    aud: Option<String>,
    aws_principal_tags: Option<Vec<String>>,
}

/// Longest audience.
const MAX_AUDIENCE: usize = 1_024;

/// A machine's token for somebody else.
pub(super) fn oidc(call: &Call) -> Result<Answer, ApiError> {
    let asked: Identity = call.body()?;
    let Some(id) = &call.token.machine else {
        let text = "only a machine gets tokens for itself: ask at /.fly/api in the machine";
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("failed_precondition: {text}"),
        ));
    };
    if asked.aws_principal_tags.is_some_and(|tags| !tags.is_empty()) {
        return Err(ApiError::invalid(
            "aws_principal_tags is not supported; leave it out",
        ));
    }
    let audience = asked.aud.as_deref().filter(|audience| !audience.is_empty());
    if audience.is_some_and(|audience| audience.len() > MAX_AUDIENCE) {
        return Err(ApiError::invalid(format!("aud has {MAX_AUDIENCE} bytes at most")));
    }
    let host = call.host();
    let machine = host
        .handle(id)
        .ok_or_else(|| ApiError::not_found("machine not found"))?
        .now();
    let app = host.app(&machine.app).map(|app| app.id).unwrap_or_default();
    Ok(Answer::Text(host.issuer.token(
        &machine,
        &app,
        audience,
        now_ms(),
    )?))
}

pub(super) fn unsupported(_: &Call) -> Result<Answer, ApiError> {
    let text = "this host has no keys of that kind: ask for /v1/tokens/oidc, or use secretkeys";
    Err(ApiError::new(
        StatusCode::BAD_REQUEST,
        format!("failed_precondition: {text}"),
    ))
}
