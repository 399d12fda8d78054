//! What must never stand in a capsule in clear: the waiting key, and the values of secret fields.
//!
//! The caller encrypts these bytes to the recipient whom its user names. Not here: how.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::State;
use suijuris_core::memory::{Name, Value};
use zeroize::Zeroizing;

use super::MAX_SEALED_BYTES;
use crate::keys;
use crate::object_dir::{ObjectDir, OpenError};
use crate::secrets::{self, Secret};

/// Format version of the bytes that are sealed.
const VERSION: u32 = 1;

/// The waiting key of a state and the secrets that its memory commits to, in clear.
pub struct Decrypted {
    /// The key that signs the next wake.
    pub next_key: SecretKey,
    /// Values of secret fields.
    pub secrets: Vec<Secret>,
}

impl fmt::Debug for Decrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decrypted(<redacted>)")
    }
}

/// Why there is nothing to seal, or bytes are not what was sealed.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The waiting key.
    #[error(transparent)]
    Key(#[from] OpenError),
    /// A secret.
    #[error("the value of secret field `{name}` cannot travel")]
    Secret {
        /// The field.
        name: Name,
        /// Why.
        #[source]
        source: secrets::Error,
    },
    /// Not the bytes that were sealed.
    #[error("what was sealed cannot be read")]
    Encoding(#[from] codec::Error),
    /// Of a later format.
    #[error("what was sealed has version {0}, this program reads version {VERSION}; use a newer suijuris")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u32,
    /// Seed of the waiting key.
    next_key: Digest,
    secrets: Vec<Secret>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.next_key.0);
    }
}

impl Decrypted {
    /// The waiting key of `state`, and each secret that its memory commits to and whose value lies in `object_dir`. A secret
    /// whose value is gone stays gone.
    ///
    /// # Errors
    /// [`SecretsError::Key`] where the key that waits is not `state`'s: while a writer wakes the object, look again.
    /// [`SecretsError::Secret`].
    pub fn of(object_dir: &ObjectDir, state: &State) -> Result<Self, SecretsError> {
        let (next_key, _) = keys::waiting(object_dir, &state.head().next)?;
        let mut secrets = Vec::new();
        for (name, commitment) in committed(state) {
            match object_dir.secret(&commitment) {
                Ok(secret) => secrets.push(secret),
                Err(secrets::Error::Disk(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(SecretsError::Secret {
                        name: name.clone(),
                        source,
                    });
                }
            }
        }
        Ok(Self { next_key, secrets })
    }

    /// The bytes to seal: canonical CBOR of `{v, next_key, secrets: [{salt, value}]}`.
    ///
    /// # Errors
    /// [`codec::Error::TooLong`] where they do not fit a capsule's sealed section, encryption not counted.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, codec::Error> {
        let wire = Wire {
            v: VERSION,
            next_key: Digest(*self.next_key.seed()),
            secrets: self.secrets.clone(),
        };
        let bytes = Zeroizing::new(codec::encode(&wire)?);
        if bytes.len() > MAX_SEALED_BYTES {
            return Err(codec::Error::TooLong {
                len: bytes.len(),
                max: MAX_SEALED_BYTES,
            });
        }
        Ok(bytes)
    }

    /// Reads what [`Decrypted::encode`] wrote.
    ///
    /// # Errors
    /// [`SecretsError::Encoding`], [`SecretsError::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SecretsError> {
        let mut wire: Wire = codec::decode(bytes, MAX_SEALED_BYTES)?;
        if wire.v != VERSION {
            return Err(SecretsError::Version(wire.v));
        }
        let seed = Zeroizing::new(wire.next_key.0);
        Ok(Self {
            next_key: SecretKey::from_seed(&seed),
            secrets: std::mem::take(&mut wire.secrets),
        })
    }
}

/// Secret fields of a state, and what memory holds in their place.
pub(crate) fn committed(state: &State) -> impl Iterator<Item = (&Name, Digest)> {
    state
        .memory()
        .iter()
        .filter_map(|(name, _, cell)| match &cell.value {
            Some(Value::Commitment(commitment)) => Some((name, *commitment)),
            _ => None,
        })
}
