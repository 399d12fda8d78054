//! A signed snapshot of a state, so that opening reads only what came after it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::{Bundles, Head, State};
use crate::codec;
use crate::key::{Domain, PublicKey, SecretKey, Signature};
use crate::memory::tree::Root;
use crate::memory::{Cell, Memory, Name};

/// Format version of checkpoints. Version 1 had no `awake` and no `crashes`, version 2 counted only activations that were
/// cut off; the chain is folded in their place.
const VERSION: u32 = 3;

/// Size of an encoded checkpoint at most, bytes.
const MAX_BYTES: usize = 64 << 20;

/// State at some record, signed by the next epoch's key, which only the object holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Format version, 3.
    v: u32,
    head: Head,
    cells: BTreeMap<Name, Cell>,
    root: Root,
    /// Where the next record stands, in the store's own terms.
    position: u64,
    key: PublicKey,
    sig: Option<Signature>,
}

/// Why a checkpoint is not used; the whole chain is read instead.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not the canonical bytes of a checkpoint.
    #[error("it cannot be read")]
    Encoding(#[from] codec::Error),
    /// Of a later format, or signed by a key the state has not committed to, or the signature does not hold.
    #[error("it is not signed by the object")]
    Signature,
    /// Sound, and of an earlier format.
    #[error("it is of an earlier format")]
    Older,
    /// The bundle it needs is missing.
    #[error("its bundle is missing")]
    NoBundle,
    /// Its memory does not hash to its root.
    #[error("its memory is not what it commits to")]
    Memory,
}

impl Checkpoint {
    /// A checkpoint of `state`; `waiting` is the key of the next epoch, `position` where the next record will stand.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn of(state: &State, position: u64, waiting: &SecretKey) -> Result<Vec<u8>, codec::Error> {
        let cells = state
            .memory()
            .iter()
            .map(|(name, _, cell)| (name.clone(), cell.clone()))
            .collect();
        let mut checkpoint = Self {
            v: VERSION,
            head: state.head().clone(),
            cells,
            root: state.memory().root(),
            position,
            key: waiting.public(),
            sig: None,
        };
        let sig = waiting.sign(Domain::Checkpoint, &codec::encode(&checkpoint)?);
        checkpoint.sig = Some(sig);
        codec::encode(&checkpoint)
    }

    /// Reads and verifies a checkpoint: the state, and where the record after it stands.
    ///
    /// This says that whoever holds the key which the head commits to made the checkpoint. That this is the object, the
    /// caller knows by its own key: [`Head::next`] of the state must be its commitment. Without that key fold the chain.
    ///
    /// # Errors
    /// [`CheckpointError`]; a checkpoint is only a short cut, so the caller then folds the whole chain.
    pub fn open(bytes: &[u8], bundles: &impl Bundles) -> Result<(State, u64), CheckpointError> {
        let mut checkpoint: Self = codec::decode(bytes, MAX_BYTES)?;
        let sig = checkpoint.sig.take().ok_or(CheckpointError::Signature)?;
        let signed = codec::encode(&checkpoint)?;
        let ours = checkpoint.v <= VERSION && checkpoint.key.commitment() == checkpoint.head.next;
        if !ours || !checkpoint.key.verifies(Domain::Checkpoint, &signed, &sig) {
            return Err(CheckpointError::Signature);
        }
        if checkpoint.v < VERSION {
            return Err(CheckpointError::Older);
        }
        let schema = bundles
            .schema(&checkpoint.head.bundle)
            .ok_or(CheckpointError::NoBundle)?;
        let memory = Memory::restore(schema, checkpoint.cells);
        if memory.root() != checkpoint.root {
            return Err(CheckpointError::Memory);
        }
        Ok((State::restored(checkpoint.head, memory), checkpoint.position))
    }
}
