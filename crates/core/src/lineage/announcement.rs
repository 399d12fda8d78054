//! What a sleeping object announces: enough for a door to decide for it, and for anybody to see by whom it was made.

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::record::Stored;
use super::state::{Bundles, State};
use crate::codec;
use crate::id::RecordId;
use crate::key::SecretKey;

/// Format version of announcements.
const VERSION: u32 = 1;

/// Size of an encoded announcement at most, bytes. Objects with more memory announce nothing and are woken to decide.
pub const MAX_ANNOUNCEMENT: usize = 1 << 20;

/// A checkpoint of the state at rest, and the record it stands behind, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    v: u32,
    #[serde(with = "serde_bytes")]
    checkpoint: Vec<u8>,
    #[serde(with = "serde_bytes")]
    record: Vec<u8>,
}

/// Why an announcement is not believed.
#[derive(Debug, thiserror::Error)]
pub enum AnnouncementError {
    /// Not the canonical bytes of one, or larger than [`MAX_ANNOUNCEMENT`].
    #[error("it cannot be read")]
    Encoding(#[from] codec::Error),
    /// Of a later format.
    #[error("it has version {0}, this program reads version {VERSION}; use a newer suijuris")]
    Version(u32),
    /// The checkpoint in it.
    #[error("its checkpoint is not valid")]
    Checkpoint(#[from] CheckpointError),
    /// Its record is not the one that the checkpoint stands behind.
    #[error("its record {0} is not the head that its checkpoint names")]
    Record(RecordId),
    /// Its record carries a signature that does not hold.
    #[error("the signature of its record is not valid")]
    Signature,
}

impl Announcement {
    /// The canonical bytes of an announcement of `state`, whose last record is `last`; `waiting` is the next epoch's key.
    ///
    /// # Errors
    /// [`codec::Error::TooLong`] beyond [`MAX_ANNOUNCEMENT`].
    pub fn of(state: &State, last: &Stored, waiting: &SecretKey) -> Result<Vec<u8>, codec::Error> {
        let announcement = Self {
            v: VERSION,
            checkpoint: Checkpoint::of(state, 0, waiting)?,
            record: last.bytes.clone(),
        };
        let bytes = codec::encode(&announcement)?;
        if bytes.len() > MAX_ANNOUNCEMENT {
            return Err(codec::Error::TooLong {
                len: bytes.len(),
                max: MAX_ANNOUNCEMENT,
            });
        }
        Ok(bytes)
    }

    /// Reads an announcement: the state and its last record.
    ///
    /// This says that one maker made both consistently. That the maker is the object, the caller knows from a mark that
    /// names the same head, or by folding the whole chain.
    ///
    /// # Errors
    /// [`AnnouncementError`].
    pub fn open(bytes: &[u8], bundles: &impl Bundles) -> Result<(State, Stored), AnnouncementError> {
        let announcement: Self = codec::decode(bytes, MAX_ANNOUNCEMENT)?;
        if announcement.v != VERSION {
            return Err(AnnouncementError::Version(announcement.v));
        }
        let (state, _) = Checkpoint::open(&announcement.checkpoint, bundles)?;
        let last = Stored::decode(announcement.record)?;
        if last.id != state.head().record {
            return Err(AnnouncementError::Record(last.id));
        }
        if last.record.key.is_some() && !last.record.signature_holds() {
            return Err(AnnouncementError::Signature);
        }
        Ok((state, last))
    }
}
