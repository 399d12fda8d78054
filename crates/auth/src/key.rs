//! Pinned keys: one algorithm each.

use ed25519_dalek::pkcs8::DecodePublicKey as _;
use p256::ecdsa::signature::Verifier as _;
use rsa::pkcs1v15;
use rsa::traits::PublicKeyParts as _;
use sha2::Sha256;
use suijuris_core::manifest::{Algorithm, CallerKey};

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
}

enum Public {
    EdDsa(ed25519_dalek::VerifyingKey),
    Es256(p256::ecdsa::VerifyingKey),
    Rs256(Box<pkcs1v15::VerifyingKey<Sha256>>),
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
            Public::Es256(_) => Algorithm::Es256,
            Public::Rs256(_) => Algorithm::Rs256,
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
            Public::Es256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Public::Rs256(key) => pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
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
    let wrong = |algorithm| KeyError::Pem { place, algorithm };
    let pem = key.pem.trim();
    match key.algorithm {
        Algorithm::EdDsa => ed25519_dalek::VerifyingKey::from_public_key_pem(pem)
            .map(Public::EdDsa)
            .map_err(|_| wrong("EdDSA (Ed25519)")),
        Algorithm::Es256 => p256::ecdsa::VerifyingKey::from_public_key_pem(pem)
            .map(Public::Es256)
            .map_err(|_| wrong("ES256 (P-256)")),
        Algorithm::Rs256 => {
            let key = rsa::PublicKey::from_public_key_pem(pem).map_err(|_| wrong("RS256 (RSA)"))?;
            match key.n().bit_width() {
                MIN_RSA_BITS..=MAX_RSA_BITS => Ok(Public::Rs256(Box::new(pkcs1v15::VerifyingKey::new(key)))),
                bits => Err(KeyError::RsaSize { place, bits }),
            }
        }
    }
}
