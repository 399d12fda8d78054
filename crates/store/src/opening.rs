//! From files to a verified state: the fold that readers and writers both begin with.

use suijuris_core::lineage::{ChainError, Checkpoint, CheckpointError, Fault, State, Stored};

use crate::bundle_store::BundleStore;
use crate::disk;
use crate::frame::FRAME_BYTES;
use crate::lineage_reader::{MAX_FRAME_BYTES, Step, Walk};
use crate::object_dir::{Damage, ObjectDir, OpenError, Position};

/// Size of a checkpoint file at most, bytes.
const MAX_CHECKPOINT_BYTES: u64 = 64 << 20;
/// Bits of a checkpoint's position that hold the byte; the rest hold the size of the frame before it.
const OFFSET_BITS: u32 = 40;

/// How much of the history is read at opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What came after the checkpoint, and the record it stands on: time does not grow with the history. Damage further
    /// back is found by the next whole reading.
    Tail,
    /// Every record from inception, with every signature; the checkpoint must agree.
    Whole,
}

/// A state and where it ends.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) state: State,
    pub(crate) end: Position,
    /// Size of the last frame, bytes.
    pub(crate) last_frame_bytes: u64,
    /// Records read.
    pub(crate) read: u64,
    /// Whether the bytes at the end are those of a group that the writer's death cut short.
    pub(crate) torn: bool,
    pub(crate) checkpointed: Option<u64>,
}

/// The position that a checkpoint carries.
pub(crate) const fn position(offset: u64, last_frame_bytes: u64) -> u64 {
    last_frame_bytes << OFFSET_BITS | offset
}

/// Opens the object in `object_dir`. `live` says whether a writer is at work: then bytes at the end that are no frame yet
/// are not judged. It is asked only where there are such bytes.
///
/// # Errors
/// [`OpenError`].
pub(crate) fn open(
    object_dir: &ObjectDir,
    bundles: &BundleStore,
    depth: Depth,
    live: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(Position),
) -> Result<Opened, OpenError> {
    let checkpoint = checkpoint(object_dir, bundles)?;
    let mut fold = match (&checkpoint, depth) {
        (Some((state, position)), Depth::Tail) => {
            Fold::behind(object_dir, bundles, state.clone(), *position)?
        }
        _ => Fold::new(object_dir, bundles)?,
    };
    let expected = checkpoint.as_ref().map(|(state, _)| state);
    let (end, torn) = fold.run(expected, live, progress)?;
    if let Some(expected) = expected.filter(|expected| expected.head().seq >= end.seq) {
        let damage = Damage::Cut(expected.head().seq);
        return Err(OpenError::Damaged { place: end, damage });
    }
    let state = fold
        .state
        .ok_or_else(|| OpenError::NotAnObject(object_dir.path().to_owned()))?;
    Ok(Opened {
        state,
        end,
        last_frame_bytes: fold.last_frame_bytes,
        read: fold.read,
        torn,
        checkpointed: expected.map(|state| state.head().seq),
    })
}

fn checkpoint(object_dir: &ObjectDir, bundles: &BundleStore) -> Result<Option<(State, u64)>, OpenError> {
    let path = object_dir.checkpoint();
    let read = disk::optional(disk::read(&*object_dir.disk, &path, MAX_CHECKPOINT_BYTES));
    let Some(bytes) = read.map_err(OpenError::disk("read", &path))? else {
        return Ok(None);
    };
    let missing = std::cell::Cell::new(None);
    let schemas = |id: &_| {
        missing.set(Some(*id));
        suijuris_core::lineage::Bundles::schema(bundles, id)
    };
    match (Checkpoint::open(&bytes, &schemas), missing.get()) {
        (Ok(opened), _) => Ok(Some(opened)),
        // An earlier program made it: the whole chain is read, and the next one is of this format.
        (Err(CheckpointError::Older), _) => Ok(None),
        (Err(CheckpointError::NoBundle), Some(id)) => Err(no_bundle(bundles, id)),
        (Err(unusable), _) => Err(unusable.into()),
    }
}

fn no_bundle(bundles: &BundleStore, id: suijuris_core::id::BundleId) -> OpenError {
    match bundles.bundle(&id) {
        Err(source) => OpenError::Bundle { id, source },
        Ok(_) => OpenError::Checkpoint(CheckpointError::NoBundle),
    }
}

struct Fold<'a> {
    walk: Walk<'a>,
    bundles: &'a BundleStore,
    state: Option<State>,
    last_frame_bytes: u64,
    read: u64,
}

impl<'a> Fold<'a> {
    fn new(object_dir: &'a ObjectDir, bundles: &'a BundleStore) -> Result<Self, OpenError> {
        Ok(Self {
            walk: Walk::from_start(object_dir)?,
            bundles,
            state: None,
            last_frame_bytes: 0,
            read: 0,
        })
    }

    /// Begins behind a checkpoint, once the record it stands on is seen to be there.
    fn behind(
        object_dir: &'a ObjectDir,
        bundles: &'a BundleStore,
        state: State,
        position: u64,
    ) -> Result<Self, OpenError> {
        let head = state.head();
        let offset = position & ((1 << OFFSET_BITS) - 1);
        let last_frame_bytes = position >> OFFSET_BITS;
        let before = offset.saturating_sub(last_frame_bytes.min(MAX_FRAME_BYTES));
        let mut walk =
            Walk::from_record(object_dir, head.object, head.seq, before).map_err(|error| match error {
                OpenError::Damaged {
                    place,
                    damage: Damage::OtherObject(_),
                } => OpenError::Damaged {
                    place,
                    damage: Damage::OtherCheckpoint,
                },
                other => other,
            })?;
        match walk.step()? {
            Step::Record(_, stored) if stored.id == head.record => {}
            Step::Record(..) => return Err(walk.damaged(Damage::OtherCheckpoint)),
            Step::End(_) => return Err(walk.damaged(Damage::Cut(head.seq))),
            Step::Bad(_) => return Err(walk.damaged(Damage::Altered)),
        }
        Ok(Self {
            walk,
            bundles,
            state: Some(state),
            last_frame_bytes,
            read: 0,
        })
    }

    fn run(
        &mut self,
        expected: Option<&State>,
        live: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(Position),
    ) -> Result<(Position, bool), OpenError> {
        loop {
            match self.walk.step()? {
                Step::Record(place, stored) => {
                    self.take(&stored, place)?;
                    self.agree(expected, place)?;
                    progress(place);
                }
                Step::End(place) | Step::Bad(place) => {
                    return match self.walk.assess() {
                        Ok(false) => Ok((place, false)),
                        _ if live() => Ok((place, false)),
                        verdict => Ok((place, verdict?)),
                    };
                }
            }
        }
    }

    fn take(&mut self, stored: &Stored, place: Position) -> Result<(), OpenError> {
        let taken = match &mut self.state {
            Some(state) => state.apply(stored, self.bundles),
            None => State::begin(stored, self.bundles).map(|state| self.state = Some(state)),
        };
        self.read += 1;
        self.last_frame_bytes = (FRAME_BYTES + stored.bytes.len()) as u64;
        taken.map_err(|broken| self.broken(broken, place))
    }

    fn broken(&self, broken: ChainError, place: Position) -> OpenError {
        match broken.fault {
            Fault::NoBundle(id) => no_bundle(self.bundles, id),
            _ => OpenError::Damaged {
                place,
                damage: broken.into(),
            },
        }
    }

    /// The checkpoint must say of its record what the history says.
    fn agree(&self, expected: Option<&State>, place: Position) -> Result<(), OpenError> {
        let (Some(expected), Some(state)) = (expected, &self.state) else {
            return Ok(());
        };
        let later = expected.head().object == state.head().object && expected.head().seq != state.head().seq;
        let same =
            later || (expected.head() == state.head() && expected.memory().root() == state.memory().root());
        if same {
            return Ok(());
        }
        let damage = Damage::OtherCheckpoint;
        Err(OpenError::Damaged { place, damage })
    }
}
