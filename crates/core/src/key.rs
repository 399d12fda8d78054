//! Ed25519 keys: signatures with a domain, and the commitment to a key not yet shown.
//!
//! Verification is strict (no small-order points, no malleable signatures), so that two verifiers never disagree.

use std::fmt;

use ed25519_dalek::Signer as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::id::Digest;

/// What a signature is for; the same bytes signed for one purpose never pass for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A lineage record.
    Record,
    /// A checkpoint of a store.
    Checkpoint,
    /// A controller's approval of a proposal.
    Approval,
    /// An owner's request to whoever holds the object.
    OwnerRequest,
    /// An owner's word that an object may begin.
    Ticket,
    /// Owners' word that a door founds instances of their class.
    Appointment,
    /// A door's word that one instance may begin.
    FirstWord,
    /// A replay to another machine: where a request is sent that came to the wrong one.
    Replay,
    /// An identity token that the agent socket hands out: a plain JWS, so without prefix of ours. Its signing input
    /// begins with base64 of `{"`, which is the beginning of no other domain.
    IdentityToken,
}

impl Domain {
    const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Record => b"suijuris/v1/record\0",
            Self::Checkpoint => b"suijuris/v1/checkpoint\0",
            Self::Approval => b"suijuris/v1/approval\0",
            Self::OwnerRequest => b"suijuris/v1/owner-request\0",
            Self::Ticket => b"suijuris/v1/ticket\0",
            Self::Appointment => b"suijuris/v1/appointment\0",
            Self::FirstWord => b"suijuris/v1/first-word\0",
            Self::Replay => b"suijuris/v1/replay\0",
            Self::IdentityToken => b"",
        }
    }

    fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.prefix(), bytes].concat()
    }
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            /// Lower-case hexadecimal.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                let digit = |byte: u8| match byte {
                    b'0'..=b'9' => Some(byte - b'0'),
                    b'a'..=b'f' => Some(byte - b'a' + 10),
                    _ => None,
                };
                let pair = |pair: &[u8]| match pair {
                    [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                    _ => None,
                };
                let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
                bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(NotHex(2 * $len))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serde_bytes::Bytes::new(&self.0).serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    return String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom);
                }
                let bytes = serde_bytes::ByteArray::<$len>::deserialize(deserializer)?;
                Ok(Self(bytes.into_array()))
            }
        }
    };
}

bytes_type!(
    /// An Ed25519 public key, 32 bytes.
    PublicKey, 32
);
bytes_type!(
    /// An Ed25519 signature, 64 bytes.
    Signature, 64
);

/// A text that is not the wanted number of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0} lower-case hexadecimal digits")]
pub struct NotHex(usize);

impl PublicKey {
    /// The commitment to this key that a record carries before the key is shown.
    #[must_use]
    pub fn commitment(&self) -> Digest {
        Digest::of_parts(&[b"suijuris/v1/next-key\0", &self.0])
    }

    /// Whether `signature` over `bytes` for `domain` is by this key.
    #[must_use]
    pub fn verifies(&self, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        ed25519_dalek::VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(&domain.message(bytes), &signature))
            .is_ok()
    }
}

/// An Ed25519 private key; wiped when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(<redacted>)")
    }
}

impl SecretKey {
    /// The key of a 32-byte seed, which a shell draws from the operating system.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, for a file of mode 0600.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` for `domain`.
    #[must_use]
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&domain.message(bytes)).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_domain_bytes_and_key_only() {
        let key = SecretKey::from_seed(&[1; 32]);
        let signature = key.sign(Domain::Record, b"abc");
        assert!(key.public().verifies(Domain::Record, b"abc", &signature));
        assert!(!key.public().verifies(Domain::Checkpoint, b"abc", &signature));
        assert!(!key.public().verifies(Domain::Record, b"abd", &signature));
        assert!(
            !SecretKey::from_seed(&[2; 32])
                .public()
                .verifies(Domain::Record, b"abc", &signature)
        );
    }

    // proves B10
    #[test]
    fn a_secret_key_is_never_printed() {
        let key = SecretKey::from_seed(&[0xab; 32]);
        assert_eq!(format!("{key:?}"), "SecretKey(<redacted>)");
    }

    #[test]
    fn keys_read_back_from_their_text() {
        let public = SecretKey::from_seed(&[3; 32]).public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!("00".parse::<PublicKey>().is_err());
        assert!("G".repeat(64).parse::<PublicKey>().is_err());
    }
}
