//! What names one activation, what its two ends share, and what each draws anew.
//!
//! Values only; `handshake` proves with them, `launch` carries them.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// One activation: a fresh number for each launch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActivationId(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl ActivationId {
    /// A random one.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn fresh() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }
}

impl fmt::Display for ActivationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ActivationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the two ends of one activation share.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(#[serde(with = "serde_bytes")] [u8; 32]);

impl Secret {
    /// A random one.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn fresh() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }

    /// As it was kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be kept where only the supervisor reads.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A number that is used once, drawn by each end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

impl Nonce {
    /// A random one.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn fresh() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }
}
