//! Secret keys of an app, which never leave: encrypt and decrypt (XChaCha20-Poly1305), sign and verify (HMAC-SHA256).

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use sha2::Sha256;

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::clock::{now_ms, rfc3339};
use crate::config::decode;
use crate::ids::{hex, random};
use crate::sealed::{KEY_BYTES, SealError, Sealer};

const KIND: &str = "secretkey";
/// Most bytes that are encrypted or signed at once.
const MAX_BYTES: usize = 64 << 10;

/// Bytes as a list of numbers, or as base64.
#[derive(Debug, Default)]
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Numbers(Vec<u8>),
            Text(String),
        }
        let wrong = || D::Error::custom("bytes are base64, or a list of numbers from 0 to 255");
        let bytes = match Form::deserialize(deserializer).map_err(|_| wrong())? {
            Form::Numbers(bytes) => bytes,
            Form::Text(text) => decode(&text).ok_or_else(wrong)?,
        };
        if bytes.len() > MAX_BYTES {
            return Err(D::Error::custom(format!("bytes are {MAX_BYTES} at most")));
        }
        Ok(Self(bytes))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<Bytes>,
    plaintext: Option<Bytes>,
    ciphertext: Option<Bytes>,
    associated_data: Option<Bytes>,
    signature: Option<Bytes>,
}

/// Kinds of keys: what Fly calls them, and whether they sign.
fn signs(kind: &str) -> Option<bool> {
    match kind {
        "xaes256gcm" | "secretbox" | "xchacha20poly1305" => Some(false),
        "hs256" | "hmac" => Some(true),
        _ => None,
    }
}

fn shown(document: &Value) -> Value {
    json!({
        "name": document.get("name"), "type": document.get("type"), "created_at": document.get("created_at"),
        "updated_at": document.get("updated_at"), "public_key": [],
    })
}

pub(super) fn list(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let kinds = call.query_all("types");
    let all = call.host().documents.list(KIND, &app.name);
    let meant = all.iter().filter(|key| {
        kinds.is_empty()
            || key
                .get("type")
                .and_then(Value::as_str)
                .is_some_and(|kind| kinds.contains(&kind))
    });
    let keys: Vec<Value> = meant.map(shown).collect();
    Ok(Answer::ok(json!({ "secret_keys": keys })))
}

fn named(call: &Call) -> Result<(String, Value), ApiError> {
    let app = call.app()?;
    let name = call.param("secret_name");
    let found = call.host().documents.get(KIND, &app.name, name);
    let found = found.ok_or_else(|| ApiError::not_found("secret key not found"))?;
    Ok((app.name, found))
}

pub(super) fn show(call: &Call) -> Result<Answer, ApiError> {
    Ok(Answer::ok(shown(&named(call)?.1)))
}

pub(super) async fn set(call: &Call) -> Result<Answer, ApiError> {
    let asked: Asked = call.body()?;
    let value = asked.value.ok_or_else(|| ApiError::invalid("value is missing"))?;
    if value.0.len() != KEY_BYTES {
        return Err(ApiError::invalid(format!("value is a key of {KEY_BYTES} bytes")));
    }
    keep(call, asked.kind.as_deref(), &value.0).await
}

pub(super) async fn generate(call: &Call) -> Result<Answer, ApiError> {
    let asked: Asked = call.body()?;
    let key = zeroize::Zeroizing::new(random::<KEY_BYTES>()?);
    keep(call, asked.kind.as_deref(), &*key).await
}

async fn keep(call: &Call, kind: Option<&str>, key: &[u8]) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let name = call.param("secret_name").to_owned();
    let kind = kind.unwrap_or("xaes256gcm").to_lowercase();
    if signs(&kind).is_none() {
        return Err(ApiError::invalid(
            "type is xaes256gcm (encrypts) or hs256 (signs)",
        ));
    }
    if name.len() > 255 || name.contains(['/', '\0']) {
        return Err(ApiError::invalid(
            "a key's name has 255 letters at most and no `/`",
        ));
    }
    if call.host().documents.list(KIND, &app.name).len() >= crate::secrets::MAX_SECRETS {
        return Err(ApiError::invalid(
            "an app has 1000 secret keys at most; remove some first",
        ));
    }
    let sealer = &call.host().shared.world.secrets.sealer;
    let sealed = sealer
        .seal(place(&app.name, &name).as_bytes(), key)
        .map_err(|error| broken(&error))?;
    let before = call.host().documents.get(KIND, &app.name, &name);
    let version = before
        .as_ref()
        .and_then(|key| key.get("version")?.as_u64())
        .unwrap_or(0)
        + 1;
    let now = rfc3339(now_ms());
    let created = before
        .and_then(|key| Some(key.get("created_at")?.as_str()?.to_owned()))
        .unwrap_or_else(|| now.clone());
    let document = json!({
        "name": name, "type": kind, "created_at": created, "updated_at": now, "version": version, "sealed": hex(&sealed),
    });
    let mut answer = shown(&document);
    call.host()
        .documents
        .put((KIND, &app.name, &name), document)
        .await?;
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("version".to_owned(), json!(version));
        answer.insert("Version".to_owned(), json!(version));
    }
    Ok(Answer::Json(StatusCode::CREATED, answer))
}

fn place(app: &str, name: &str) -> String {
    format!("secret key {app}/{name}")
}

fn broken(error: &SealError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("internal: {error}"))
}

pub(super) async fn delete(call: &Call) -> Result<Answer, ApiError> {
    let (app, key) = named(call)?;
    call.host()
        .documents
        .remove(KIND, &app, call.param("secret_name"))
        .await?;
    let version = key.get("version").and_then(Value::as_u64).unwrap_or(0) + 1;
    Ok(Answer::ok(json!({ "version": version, "Version": version })))
}

/// The key's bytes, for what it is made for.
fn opened(call: &Call, to_sign: bool) -> Result<zeroize::Zeroizing<Vec<u8>>, ApiError> {
    let (app, key) = named(call)?;
    let kind = key.get("type").and_then(Value::as_str).unwrap_or_default();
    if signs(kind) != Some(to_sign) {
        let what = if to_sign { "signs" } else { "encrypts" };
        return Err(ApiError::invalid(format!(
            "this key is of type {kind}, which is not one that {what}"
        )));
    }
    let sealed = key.get("sealed").and_then(Value::as_str).unwrap_or_default();
    let sealed = crate::secrets::unhex(sealed).ok_or_else(|| broken(&SealError::Broken))?;
    let sealer = &call.host().shared.world.secrets.sealer;
    sealer
        .open_sealed(place(&app, call.param("secret_name")).as_bytes(), &sealed)
        .map_err(|error| broken(&error))
}

fn cipher(call: &Call) -> Result<Sealer, ApiError> {
    Sealer::from_key(&opened(call, false)?).ok_or_else(|| broken(&SealError::Broken))
}

pub(super) fn encrypt(call: &Call) -> Result<Answer, ApiError> {
    let asked: Asked = call.body()?;
    let text = asked
        .plaintext
        .ok_or_else(|| ApiError::invalid("plaintext is missing"))?;
    let beside = asked.associated_data.unwrap_or_default();
    let sealed = cipher(call)?
        .seal(&beside.0, &text.0)
        .map_err(|error| broken(&error))?;
    Ok(Answer::ok(json!({ "ciphertext": sealed })))
}

pub(super) fn decrypt(call: &Call) -> Result<Answer, ApiError> {
    let asked: Asked = call.body()?;
    let sealed = asked
        .ciphertext
        .ok_or_else(|| ApiError::invalid("ciphertext is missing"))?;
    let beside = asked.associated_data.unwrap_or_default();
    let cipher = cipher(call)?;
    let opened = cipher.open_sealed(&beside.0, &sealed.0);
    let opened = opened.map_err(|_| {
        ApiError::invalid("ciphertext is not of this key, not with this associated_data, or damaged")
    })?;
    Ok(Answer::ok(json!({ "plaintext": *opened })))
}

fn mac(call: &Call, text: &[u8]) -> Result<Hmac<Sha256>, ApiError> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&opened(call, true)?).map_err(|_| broken(&SealError::Broken))?;
    mac.update(text);
    Ok(mac)
}

pub(super) fn sign(call: &Call) -> Result<Answer, ApiError> {
    let asked: Asked = call.body()?;
    let text = asked
        .plaintext
        .ok_or_else(|| ApiError::invalid("plaintext is missing"))?;
    let signature = mac(call, &text.0)?.finalize().into_bytes();
    Ok(Answer::ok(json!({ "signature": signature.as_slice() })))
}

pub(super) fn verify(call: &Call) -> Result<Answer, ApiError> {
    let asked: Asked = call.body()?;
    let text = asked
        .plaintext
        .ok_or_else(|| ApiError::invalid("plaintext is missing"))?;
    let signature = asked
        .signature
        .ok_or_else(|| ApiError::invalid("signature is missing"))?;
    match mac(call, &text.0)?.verify_slice(&signature.0) {
        Ok(()) => Ok(Answer::Empty(StatusCode::NO_CONTENT)),
        Err(_) => Err(ApiError::invalid("signature does not match")),
    }
}
