//! What stands in the depot: the newest head and who may extend it. Bytes: `spec/witness.md`, section 1.
//!
//! Not here: what a copy does with a mark (`keeper`), where marks are kept (depot).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::{ObjectId, RecordId};
use crate::time::{Span, Timestamp};

/// Format version of marks.
pub const VERSION: u32 = 1;

/// Size of an encoded mark at most, bytes.
pub const MAX_BYTES: usize = 1_024;

/// Longest text about a holder, bytes.
pub const MAX_WHO: usize = 256;

/// Longest lease, with the grace behind it: a mark that asks for more could keep others waiting for ever.
pub const MAX_LEASE: Span = Span(600_000);

/// One running copy of an object, and no other: 16 random bytes, drawn when it starts and again when it finds that it
/// may have been copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HolderId(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who may extend the object now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The copy.
    pub id: HolderId,
    /// For people: host and process; at most [`MAX_WHO`] bytes.
    pub who: String,
    /// How long a renewal holds, by the holder's own monotonic clock from before it asked for it, its grace included;
    /// 1 ms to [`MAX_LEASE`].
    pub lease: Span,
    /// When it renewed last, by its own wall clock: for people and for doors. Nobody's safety rests on it.
    pub at: Timestamp,
    /// Counts renewals, so that each changes the mark.
    pub beat: u64,
}

/// The newest history that the witness knows, and its holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// [`VERSION`].
    pub v: u32,
    /// The object.
    pub object: ObjectId,
    /// Activations begun or claimed so far; never goes back but by a sanctioned restore.
    pub epoch: u64,
    /// Position of the newest witnessed record.
    pub seq: u64,
    /// That record.
    pub head: RecordId,
    /// Who may extend the object; absent when nobody runs it.
    pub holder: Option<Holder>,
}

/// Why bytes are no mark.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the canonical bytes of a mark.
    #[error("the witness's mark cannot be read")]
    Encoding(#[from] codec::Error),
    /// Of a later format.
    #[error("the witness's mark has version {0}, this program reads version {VERSION}; use a newer suijuris")]
    Version(u32),
    /// Its text about the holder is too long, or its lease is no time or longer than [`MAX_LEASE`].
    #[error("the witness's mark names an impossible holder")]
    Holder,
}

impl Mark {
    /// The canonical bytes, at most [`MAX_BYTES`].
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, codec::Error> {
        codec::encode(self)
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// [`Error`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mark: Self = codec::decode(bytes, MAX_BYTES)?;
        if mark.v != VERSION {
            return Err(Error::Version(mark.v));
        }
        let leases = 1..=MAX_LEASE.0;
        let possible = |holder: &Holder| holder.who.len() <= MAX_WHO && leases.contains(&holder.lease.0);
        if mark.holder.as_ref().is_none_or(possible) {
            Ok(mark)
        } else {
            Err(Error::Holder)
        }
    }
}
