//! Addresses, certificates and network policies: kept for clients that ask for them. Nothing routes an address, serves a
//! certificate or enforces a policy yet, and the answers say so.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use super::routes::Operation;
use crate::clock::{now_ms, rfc3339};
use crate::ids::{self, random};

const IP: &str = "ip";
pub(crate) const CERTIFICATE: &str = "certificate";
pub(crate) const POLICY: &str = "policy";
/// Most of each kind that an app has.
const MAX: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: Option<String>,
    region: Option<String>,
    service_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Certificate {
    hostname: Option<String>,
    fullchain: Option<String>,
    private_key: Option<String>,
}

fn room(call: &Call, kind: &str, app: &str) -> Result<(), ApiError> {
    if call.host().documents.list(kind, app).len() >= MAX {
        return Err(ApiError::invalid(format!(
            "an app has {MAX} of these at most; remove some first"
        )));
    }
    Ok(())
}

pub(super) fn list_ips(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    Ok(Answer::ok(
        json!({ "ips": call.host().documents.list(IP, &app.name) }),
    ))
}

pub(super) async fn assign_ip(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let asked: Address = call.body()?;
    room(call, IP, &app.name)?;
    let [a, b, c, d] = random::<4>()?;
    let kind = asked.kind.as_deref().unwrap_or("v6");
    let ip = match kind {
        "v4" | "shared_v4" => format!("127.{}.{}.{}", a.clamp(1, 254), b, c.clamp(1, 254)),
        "v6" => format!("fd00:5a:{a:x}{b:02x}:{c:x}{d:02x}::1"),
        "private_v6" => format!("fdaa:0:{a:x}{b:02x}:0:1::{c:x}{d:02x}"),
        _ => return Err(ApiError::invalid("type is v4, v6, shared_v4 or private_v6")),
    };
    let region = asked.region.unwrap_or_else(|| "global".to_owned());
    let document = json!({
        "ip": ip, "region": region, "created_at": rfc3339(now_ms()), "shared": kind == "shared_v4",
        "service_name": asked.service_name.unwrap_or_default(),
    });
    call.host()
        .documents
        .put((IP, &app.name, &ip), document.clone())
        .await?;
    Ok(Answer::ok(document))
}

pub(super) async fn release_ip(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    if call
        .host()
        .documents
        .remove(IP, &app.name, call.param("ip"))
        .await?
    {
        Ok(Answer::Empty(StatusCode::NO_CONTENT))
    } else {
        Err(ApiError::not_found("ip address not found"))
    }
}

pub(super) fn list_certificates(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let limit = call.number("limit", 25, 1..=500)?;
    let all = call.host().documents.list(CERTIFICATE, &app.name);
    let name = |document: &Value| {
        document
            .get("hostname")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let meant = all.iter().filter(|document| {
        call.query("filter")
            .is_none_or(|part| name(document).contains(part))
    });
    let after = call.query("cursor");
    let rest: Vec<&Value> = meant
        .filter(|document| after.is_none_or(|after| name(document).as_str() > after))
        .collect();
    let next = rest
        .get(limit.saturating_sub(1))
        .filter(|_| rest.len() > limit)
        .map(|document| name(document))
        .unwrap_or_default();
    let page: Vec<Value> = rest
        .iter()
        .take(limit)
        .map(|document| summary(document))
        .collect();
    Ok(Answer::ok(
        json!({ "certificates": page, "next_cursor": next, "total_count": all.len() }),
    ))
}

fn summary(document: &Value) -> Value {
    let hostname = document.get("hostname");
    json!({
        "hostname": hostname, "configured": false, "acme_requested": document.get("acme_requested"),
        "acme_alpn_configured": false, "acme_dns_configured": false, "acme_http_configured": false, "dns_provider": "",
        "has_custom_certificate": document.get("custom"), "has_fly_certificate": false, "ownership_txt_configured": false,
        "status": "pending", "created_at": document.get("created_at"), "updated_at": document.get("created_at"),
    })
}

fn detail(document: &Value) -> Value {
    let hostname = document
        .get("hostname")
        .and_then(Value::as_str)
        .unwrap_or_default();
    json!({
        "hostname": hostname, "configured": false, "acme_requested": document.get("acme_requested"), "certificates": [],
        "dns_provider": "", "status": "pending", "rate_limited_until": "",
        "dns_requirements": {"a": ["127.0.0.1"], "aaaa": ["::1"], "cname": "", "acme_challenge": {"name": "", "target": ""},
            "ownership": {"name": "", "app_value": "", "org_value": ""}},
        "validation": {"alpn_configured": false, "dns_configured": false, "http_configured": false, "ownership_txt_configured": false},
        "validation_errors": [{"code": "not_served", "message": "this host does not serve certificates yet",
            "remediation": "end TLS before the host", "timestamp": document.get("created_at")}],
    })
}

pub(super) async fn create_certificate(call: &Call, operation: Operation) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let asked: Certificate = call.body()?;
    let unprocessable = |text: &str| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    let hostname = asked.hostname.unwrap_or_default().to_lowercase();
    let label = |part: &str| part == "*" || ids::is_name(part);
    if hostname.len() > 253 || !hostname.contains('.') || !hostname.split('.').all(label) {
        return Err(unprocessable("hostname is a name as app.example.com"));
    }
    let custom = operation == Operation::CustomCertificate;
    if custom && (asked.fullchain.is_none() || asked.private_key.is_none()) {
        return Err(unprocessable(
            "fullchain and private_key are PEM texts, and both are needed",
        ));
    }
    room(call, CERTIFICATE, &app.name)?;
    // A private key that nothing would use is not kept.
    let document = json!({
        "hostname": hostname, "acme_requested": !custom, "custom": custom, "created_at": rfc3339(now_ms()),
    });
    let answer = detail(&document);
    call.host()
        .documents
        .put((CERTIFICATE, &app.name, &hostname), document)
        .await?;
    Ok(Answer::Json(StatusCode::CREATED, answer))
}

fn certificate(call: &Call) -> Result<(String, Value), ApiError> {
    let app = call.app()?;
    let found = call
        .host()
        .documents
        .get(CERTIFICATE, &app.name, call.param("hostname"));
    Ok((
        app.name,
        found.ok_or_else(|| ApiError::not_found("certificate not found"))?,
    ))
}

pub(super) fn show_certificate(call: &Call) -> Result<Answer, ApiError> {
    Ok(Answer::ok(detail(&certificate(call)?.1)))
}

pub(super) async fn delete_certificate(call: &Call, status: StatusCode) -> Result<Answer, ApiError> {
    let (app, document) = certificate(call)?;
    call.host()
        .documents
        .remove(CERTIFICATE, &app, call.param("hostname"))
        .await?;
    Ok(match status {
        StatusCode::OK => Answer::ok(detail(&document)),
        status => Answer::Empty(status),
    })
}

pub(super) fn list_policies(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    Ok(Answer::ok(Value::Array(
        call.host().documents.list(POLICY, &app.name),
    )))
}

pub(super) async fn create_policy(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let mut document: serde_json::Map<String, Value> = call.body()?;
    let rules = document.get("rules").and_then(Value::as_array);
    let is_policy = document.get("selector").is_some_and(Value::is_object)
        && rules.is_some_and(|rules| rules.iter().all(Value::is_object))
        && document.get("name").is_none_or(Value::is_string);
    if !is_policy {
        return Err(ApiError::invalid(
            "a policy has a selector (object), rules (list of objects) and perhaps a name (text)",
        ));
    }
    document.retain(|key, _| matches!(key.as_str(), "name" | "selector" | "rules"));
    room(call, POLICY, &app.name)?;
    let id = ids::nonce()?;
    document.insert("id".to_owned(), json!(id));
    let document = Value::Object(document);
    call.host()
        .documents
        .put((POLICY, &app.name, &id), document.clone())
        .await?;
    Ok(Answer::Json(StatusCode::CREATED, document))
}

pub(super) async fn delete_policy(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    if call
        .host()
        .documents
        .remove(POLICY, &app.name, call.param("id"))
        .await?
    {
        Ok(Answer::Empty(StatusCode::NO_CONTENT))
    } else {
        Err(ApiError::not_found("network policy not found"))
    }
}
