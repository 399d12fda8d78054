//! ES256 and RS256: what other issuers sign with.

use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::DecodePublicKey as _;
use rsa::pkcs1v15;
use rsa::traits::PublicKeyParts as _;
use sha2::Sha256;
use suijuris_core::manifest::Algorithm;

use super::{KeyError, MAX_RSA_BITS, MIN_RSA_BITS};

pub(super) enum Other {
    Es256(p256::ecdsa::VerifyingKey),
    Rs256(Box<pkcs1v15::VerifyingKey<Sha256>>),
}

impl Other {
    /// The key in `pem`, for an algorithm that is not EdDSA.
    pub(super) fn read(place: usize, algorithm: Algorithm, pem: &str) -> Result<Self, KeyError> {
        let wrong = |algorithm| KeyError::Pem { place, algorithm };
        if algorithm == Algorithm::Es256 {
            let key = p256::ecdsa::VerifyingKey::from_public_key_pem(pem);
            return key.map(Self::Es256).map_err(|_| wrong("ES256 (P-256)"));
        }
        let key = rsa::PublicKey::from_public_key_pem(pem).map_err(|_| wrong("RS256 (RSA)"))?;
        match key.n().bit_width() {
            MIN_RSA_BITS..=MAX_RSA_BITS => Ok(Self::Rs256(Box::new(pkcs1v15::VerifyingKey::new(key)))),
            bits => Err(KeyError::RsaSize { place, bits }),
        }
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Es256(_) => Algorithm::Es256,
            Self::Rs256(_) => Algorithm::Rs256,
        }
    }

    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::Rs256(key) => pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}
