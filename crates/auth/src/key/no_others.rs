//! In place of ES256 and RS256 where this program is built without them: there is no such key.

use suijuris_core::manifest::Algorithm;

use super::KeyError;

pub(super) enum Other {}

impl Other {
    pub(super) fn read(place: usize, algorithm: Algorithm, _: &str) -> Result<Self, KeyError> {
        let algorithm = match algorithm {
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        };
        Err(KeyError::LeftOut { place, algorithm })
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        match *self {}
    }

    pub(super) fn signed(&self, _: &[u8], _: &[u8]) -> bool {
        match *self {}
    }
}
