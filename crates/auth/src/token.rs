//! The parts of a token: split, decoded, read by type.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use suijuris_core::manifest::Algorithm;
use suijuris_core::memory::{Kind, Name, Value};
use suijuris_core::time::Timestamp;

use super::TokenError;

/// A token cut at its points; nothing is believed yet.
pub(super) struct Parts<'a> {
    signed: &'a str,
    header: Vec<u8>,
    payload: &'a str,
    signature: Vec<u8>,
}

/// What we look at in a header. Keys that a token brings along (`jwk`, `x5c`, …) are not looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl<'a> Parts<'a> {
    pub(super) fn split(token: &'a str) -> Result<Self, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        Ok(Self {
            signed,
            header: decode(header)?,
            payload,
            signature: decode(signature)?,
        })
    }

    /// The bytes that the signature covers.
    pub(super) const fn signed(&self) -> &[u8] {
        self.signed.as_bytes()
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Algorithm and key id.
    pub(super) fn header(&self) -> Result<(Algorithm, Option<String>), TokenError> {
        let header: Header = serde_json::from_slice(&self.header).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let algorithm = match header.alg.as_str() {
            "EdDSA" => Algorithm::EdDsa,
            "ES256" => Algorithm::Es256,
            "RS256" => Algorithm::Rs256,
            _ => return Err(TokenError::Algorithm),
        };
        Ok((algorithm, header.kid))
    }

    /// The payload of an object's identity token.
    pub(super) fn identity(&self) -> Result<Identity, TokenError> {
        serde_json::from_slice(&decode(self.payload)?).map_err(|_| TokenError::Malformed)
    }

    /// The payload, with those claims that are declared.
    pub(super) fn payload(&self, declared: &BTreeMap<Name, Kind>) -> Result<Payload, TokenError> {
        let bytes = decode(self.payload)?;
        let plain: Registered = serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)?;
        Ok(Payload {
            issuer: plain.iss,
            subject: plain.sub,
            audience: plain.aud.map(Texts::into_set).unwrap_or_default(),
            scopes: scopes(plain.scope, plain.scp),
            expires: plain.exp.as_ref().map(instant).transpose()?,
            not_before: plain.nbf.as_ref().map(instant).transpose()?,
            claims: claims(&bytes, declared)?,
        })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

/// What a payload says.
pub(super) struct Payload {
    pub(super) issuer: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) audience: BTreeSet<String>,
    pub(super) scopes: BTreeSet<String>,
    pub(super) expires: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) claims: BTreeMap<Name, Value>,
}

/// Claims with a meaning of their own. One given twice is malformed.
#[derive(Deserialize)]
struct Registered {
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    aud: Option<Texts>,
    #[serde(default)]
    exp: Option<serde_json::Number>,
    #[serde(default)]
    nbf: Option<serde_json::Number>,
    #[serde(default)]
    scope: Option<Texts>,
    #[serde(default)]
    scp: Option<Texts>,
}

/// What an object says of itself.
#[derive(Deserialize)]
pub(super) struct Identity {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: Texts,
    pub(super) iat: i64,
    pub(super) exp: i64,
    pub(super) epoch: u64,
}

/// One text or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Several(BTreeSet<String>),
}

impl Texts {
    pub(super) fn into_set(self) -> BTreeSet<String> {
        match self {
            Self::One(text) => BTreeSet::from([text]),
            Self::Several(texts) => texts,
        }
    }
}

/// `scope` is text with spaces (RFC 8693 section 4.2); some issuers write `scp`, and some of them an array.
fn scopes(scope: Option<Texts>, scp: Option<Texts>) -> BTreeSet<String> {
    let texts = [scope, scp].into_iter().flatten().flat_map(Texts::into_set);
    texts
        .flat_map(|text| {
            text.split_ascii_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

/// Seconds since the epoch, whole or not (RFC 7519 section 2), rounded towards the epoch.
#[expect(
    clippy::cast_possible_truncation,
    reason = "from float: stops at the ends of the range"
)]
fn instant(seconds: &serde_json::Number) -> Result<Timestamp, TokenError> {
    let whole = match seconds.as_i64() {
        Some(whole) => whole,
        None => seconds.as_f64().ok_or(TokenError::Date)? as i64,
    };
    // A date beyond the calendar is a mistake, and would be good for ever.
    if whole > LAST_SECOND {
        return Err(TokenError::Date);
    }
    Ok(Timestamp(whole.saturating_mul(1_000)))
}

/// The declared claims of a payload, each of its declared type; one that is absent or null stays absent.
fn claims(payload: &[u8], declared: &BTreeMap<Name, Kind>) -> Result<BTreeMap<Name, Value>, TokenError> {
    if declared.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut wrong = None;
    let mut reader = serde_json::Deserializer::from_slice(payload);
    let seed = Claims {
        declared,
        wrong: &mut wrong,
    };
    seed.deserialize(&mut reader)
        .map_err(|_| wrong.map_or(TokenError::Malformed, TokenError::Claim))
}

struct Claims<'a> {
    declared: &'a BTreeMap<Name, Kind>,
    wrong: &'a mut Option<Name>,
}

impl<'de> DeserializeSeed<'de> for Claims<'_> {
    type Value = BTreeMap<Name, Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Claims<'_> {
    type Value = BTreeMap<Name, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut claims = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let Some((name, kind)) = self.declared.get_key_value(key.as_str()) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            *self.wrong = Some(name.clone());
            let twice = match map.next_value_seed(Maybe(kind))? {
                Some(value) => claims.insert(name.clone(), value).is_some(),
                None => claims.contains_key(name),
            };
            if twice {
                return Err(serde::de::Error::custom("a claim appears twice"));
            }
            *self.wrong = None;
        }
        Ok(claims)
    }
}

/// A value of this type, or null.
struct Maybe<'a>(&'a Kind);

impl<'de> DeserializeSeed<'de> for Maybe<'_> {
    type Value = Option<Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Maybe<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of type {}, or null", self.0.name())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}
