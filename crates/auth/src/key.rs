//! Pinned keys: one algorithm each.

#[cfg(feature = "every-algorithm")]
mod others;
#[cfg(not(feature = "every-algorithm"))]
#[path = "key/no_others.rs"]
mod others;

use ed25519_dalek::pkcs8::DecodePublicKey as _;
use suijuris_core::manifest::{Algorithm, CallerKey};

use self::others::Other;
use super::TokenError;
use super::token::Payload;

/// Shortest RSA modulus, bits (RFC 7518 section 3.3).
const MIN_RSA_BITS: u32 = 2_048;

/// Longest RSA modulus, bits: what a signature may cost us is bounded.
const MAX_RSA_BITS: u32 = 8_192;

/// Why a caller key of the manifest is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a public key of its algorithm.
    #[error(
        "callers.keys[{place}] is not a public key for {algorithm}: give it in PEM that starts with -----BEGIN PUBLIC KEY-----"
    )]
    Pem {
        /// Position in the manifest, from 0.
        place: usize,
        /// The algorithm that it is pinned to.
        algorithm: &'static str,
    },
    /// An RSA key that is too short to trust or too long to pay for.
    #[error("callers.keys[{place}] has {bits} bits: an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS}")]
    RsaSize {
        /// Position in the manifest, from 0.
        place: usize,
        /// Its size.
        bits: u32,
    },
    /// The program was built without this algorithm.
    #[error(
        "callers.keys[{place}] is for {algorithm}, which this build leaves out: build suijuris without --no-default-features"
    )]
    LeftOut {
        /// Position in the manifest, from 0.
        place: usize,
        /// The algorithm that it is pinned to.
        algorithm: &'static str,
    },
}

enum Public {
    EdDsa(ed25519_dalek::VerifyingKey),
    Other(Other),
}

/// A pinned key with what a token of it must say.
pub(super) struct Key {
    public: Public,
    kid: Option<String>,
    issuer: Option<String>,
    /// Absent: the object's id.
    audience: Option<String>,
}

impl Key {
    pub(super) fn new(place: usize, key: &CallerKey) -> Result<Self, KeyError> {
        Ok(Self {
            public: read(place, key)?,
            kid: key.kid.clone(),
            issuer: key.issuer.clone(),
            audience: key.audience.clone(),
        })
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        match self.public {
            Public::EdDsa(_) => Algorithm::EdDsa,
            Public::Other(ref key) => key.algorithm(),
        }
    }

    /// A key without an id is tried for every token, a key with one only for tokens that name it.
    pub(super) fn answers_to(&self, kid: Option<&str>) -> bool {
        self.kid.is_none() || self.kid.as_deref() == kid
    }

    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.public {
            Public::EdDsa(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            Public::Other(key) => key.signed(message, signature),
        }
    }

    /// Whether a payload that this key signed is of its issuer and for its audience, for `object` where it names none.
    pub(super) fn accepts(&self, payload: &Payload, object: &str) -> Result<(), TokenError> {
        if self.issuer.is_some() && self.issuer != payload.issuer {
            return Err(TokenError::Issuer);
        }
        if !payload
            .audience
            .contains(self.audience.as_deref().unwrap_or(object))
        {
            return Err(TokenError::Audience);
        }
        Ok(())
    }
}

fn read(place: usize, key: &CallerKey) -> Result<Public, KeyError> {
    let pem = key.pem.trim();
    match key.algorithm {
        Algorithm::EdDsa => ed25519_dalek::VerifyingKey::from_public_key_pem(pem)
            .map(Public::EdDsa)
            .map_err(|_| KeyError::Pem {
                place,
                algorithm: "EdDSA (Ed25519)",
            }),
        other => Other::read(place, other, pem).map(Public::Other),
    }
}
