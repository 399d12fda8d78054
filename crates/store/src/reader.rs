//! Reading an object without its lock, while a writer works or not.
//!
//! A reader sees a prefix of the history: under a live writer what was written so far, which may be a group that is not
//! yet synced. It never waits and never changes anything.

use std::ops::Range;
use std::sync::Arc;

use suijuris_core::bundle::Bundle;
use suijuris_core::id::{BundleId, RecordId};
use suijuris_core::lineage::{State, Stored};

use crate::bundle_store::{self, BundleStore};
use crate::lineage_reader::{Step, Walk};
use crate::object_dir::{ObjectDir, OpenError, Position};
use crate::opening::{self, Depth, Opened};

/// An object's verified state, as it was when the reader was opened.
#[derive(Debug)]
pub struct Reader {
    object_dir: ObjectDir,
    bundles: BundleStore,
    opened: Opened,
}

/// Progress of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Records verified so far.
    pub records: u64,
    /// The last of them.
    pub place: Position,
}

impl Reader {
    /// Opens the object in `object_dir`, reading as deep as asked.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(object_dir: &ObjectDir, depth: Depth) -> Result<Self, OpenError> {
        Self::open_watched(object_dir, depth, |_| {})
    }

    /// Verifies the whole chain from inception, every signature included; `progress` hears of each record.
    ///
    /// # Errors
    /// [`OpenError`]: the first bad record by segment file, byte and position.
    pub fn verify(object_dir: &ObjectDir, progress: impl FnMut(Verified)) -> Result<Self, OpenError> {
        Self::open_watched(object_dir, Depth::Whole, progress)
    }

    fn open_watched(
        object_dir: &ObjectDir,
        depth: Depth,
        mut progress: impl FnMut(Verified),
    ) -> Result<Self, OpenError> {
        if !object_dir.holds_object()? {
            return Err(OpenError::NotAnObject(object_dir.path().to_owned()));
        }
        let bundles = BundleStore::of(object_dir);
        let mut records = 0;
        let mut hear = |place| {
            records += 1;
            progress(Verified { records, place });
        };
        let opened = opening::open(object_dir, &bundles, depth, &|| object_dir.is_in_use(), &mut hear)?;
        Ok(Self {
            object_dir: object_dir.clone(),
            bundles,
            opened,
        })
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.opened.state
    }

    /// The directory.
    #[must_use]
    pub const fn object_dir(&self) -> &ObjectDir {
        &self.object_dir
    }

    /// The bundles.
    #[must_use]
    pub const fn bundles(&self) -> &BundleStore {
        &self.bundles
    }

    /// Whether the history ends in a group that was cut short; the next writer removes it. Nobody was told of it.
    #[must_use]
    pub const fn is_torn(&self) -> bool {
        self.opened.torn
    }

    /// Records that opening had to read.
    #[must_use]
    pub const fn records_read(&self) -> u64 {
        self.opened.read
    }

    /// A bundle that the history names.
    ///
    /// # Errors
    /// [`bundle_store::Error`].
    pub fn bundle(&self, id: &BundleId) -> Result<Arc<Bundle>, bundle_store::Error> {
        self.bundles.bundle(id)
    }

    /// The records at the positions of `range`, up to the reader's state, in order. Each is intact; that the chain
    /// holds is what opening [`Depth::Whole`] says.
    ///
    /// # Errors
    /// [`OpenError`], here or as an item.
    pub fn records(
        &self,
        range: Range<u64>,
    ) -> Result<impl Iterator<Item = Result<Stored, OpenError>> + '_, OpenError> {
        let mut walk = Walk::from_segment_of(&self.object_dir, self.state().head().object, range.start)?;
        let end = range.end.min(self.state().head().seq + 1);
        let mut over = false;
        let next = move || match walk.step() {
            _ if over => None,
            Ok(Step::Record(place, stored)) if place.seq < end => Some(Ok((place.seq, *stored))),
            Ok(_) => None,
            Err(error) => {
                over = true;
                Some(Err(error))
            }
        };
        let wanted = move |item: Result<(u64, Stored), OpenError>| match item {
            Ok((seq, stored)) => (seq >= range.start).then_some(Ok(stored)),
            Err(error) => Some(Err(error)),
        };
        Ok(std::iter::from_fn(next).filter_map(wanted))
    }

    /// The record `id`, if it is part of the history. Reads from the beginning.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn find(&self, id: &RecordId) -> Result<Option<Stored>, OpenError> {
        let is_it = |item: &Result<Stored, OpenError>| item.as_ref().map_or(true, |stored| stored.id == *id);
        self.records(0..u64::MAX)?.find(is_it).transpose()
    }
}
