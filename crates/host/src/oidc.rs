//! Tokens by which a machine proves to others which one it is: signed by this host (EdDSA), found and checked as OpenID Connect
//! says (Discovery 1.0, RFC 7517, RFC 8037). A token says nothing that its machine could choose but the audience.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::ids::{NoRandomness, ulid};
use crate::machine::Machine;
use crate::sealed::{SealError, key_file};

/// How long a token holds, seconds.
const LASTS_S: u64 = 600;

/// The host as an issuer of tokens.
pub(crate) struct Issuer {
    key: SigningKey,
    /// What every issuer's URL begins with; the org follows.
    base: String,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issuer({})", self.base)
    }
}

impl Issuer {
    /// The issuer whose key is in `path`, made where there is none; reached below `base`.
    pub(crate) fn open(path: &Path, base: &str) -> Result<Self, SealError> {
        Ok(Self {
            key: SigningKey::from_bytes(&*key_file(path)?),
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    /// The issuer's URL for an org.
    fn url(&self, org: &str) -> String {
        format!("{}/oidc/{org}", self.base)
    }

    /// The key's name: its thumbprint (RFC 7638).
    fn key_id(&self) -> String {
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.public());
        URL_SAFE_NO_PAD.encode(Sha256::digest(members))
    }

    fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.verifying_key().to_bytes())
    }

    /// What tells others how to check an org's tokens.
    pub(crate) fn configuration(&self, org: &str) -> Value {
        let url = self.url(org);
        json!({
            "issuer": url, "jwks_uri": format!("{url}/.well-known/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["EdDSA"], "scopes_supported": ["openid"],
            "claims_supported": CLAIMS,
        })
    }

    /// The keys that tokens are signed by.
    pub(crate) fn keys(&self) -> Value {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": self.public(), "kid": self.key_id(), "use": "sig", "alg": "EdDSA"});
        json!({ "keys": [key] })
    }

    /// A token of `machine` for `audience`, or for whoever trusts its org.
    pub(crate) fn token(
        &self,
        machine: &Machine,
        app_id: &str,
        audience: Option<&str>,
        now_ms: u64,
    ) -> Result<String, NoRandomness> {
        let (now, issuer) = (now_ms / 1_000, self.url(&machine.org));
        let image = machine.image.clone().unwrap_or_default();
        let claims = json!({
            "iss": issuer, "sub": format!("{}:{}:{}", machine.org, machine.app, machine.name), "aud": audience.unwrap_or(&issuer),
            "iat": now, "nbf": now, "exp": now + LASTS_S, "jti": ulid(now_ms)?, "app_id": app_id, "app_name": machine.app,
            "image": image.name(), "image_digest": image.digest, "machine_id": machine.id, "machine_name": machine.name,
            "machine_version": machine.version, "org_id": machine.org, "org_name": machine.org, "region": machine.region,
        });
        let header = json!({"alg": "EdDSA", "kid": self.key_id(), "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).to_bytes());
        Ok(format!("{signed}.{signature}"))
    }
}

/// What a token says.
const CLAIMS: [&str; 17] = [
    "iss",
    "sub",
    "aud",
    "iat",
    "nbf",
    "exp",
    "jti",
    "app_id",
    "app_name",
    "image",
    "image_digest",
    "machine_id",
    "machine_name",
    "machine_version",
    "org_id",
    "org_name",
    "region",
];
