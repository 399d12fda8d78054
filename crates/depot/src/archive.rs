//! What doors, importers and readers of histories find of objects that they do not have: announcements, due times, segments
//! of lineages, bundles.

use std::fmt;
use std::ops::RangeInclusive;

use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ObjectId};

use crate::Answer;
#[cfg(doc)]
use crate::Error;

/// Size of a lineage segment in a depot at most, bytes.
pub const MAX_SEGMENT: usize = 16 << 20;

/// Size of a bundle (all its files) in a depot at most, bytes.
pub const MAX_BUNDLE: usize = 16 << 20;

/// Announcements, due times, segments and bundles.
pub trait Archive: fmt::Debug + Send + Sync {
    /// Replaces the announcement of `object` (bytes of a `core::lineage::Announcement`), and its due time with it:
    /// the instant at which a timer wants it woken.
    fn announce<'a>(&'a self, object: ObjectId, bytes: &'a [u8], due: Option<Timestamp>) -> Answer<'a, ()>;

    /// The announcement of `object`.
    fn announcement(&self, object: ObjectId) -> Answer<'_, Option<Vec<u8>>>;

    /// Objects that have an announcement, in the order of the texts of their ids, after `after`, at most `limit`.
    fn announced(&self, after: Option<ObjectId>, limit: usize) -> Answer<'_, Vec<ObjectId>>;

    /// Objects whose due time is at or before `until`, earliest first, at most `limit`.
    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>>;

    /// Keeps the records at `positions`, as [`suijuris_core::lineage::segment`] writes them; never changed afterwards. The
    /// same bytes again are no error, others are [`Error::Different`].
    fn put_segment<'a>(
        &'a self,
        object: ObjectId,
        positions: RangeInclusive<u64>,
        bytes: &'a [u8],
    ) -> Answer<'a, ()>;

    /// Positions of the segments of `object`, ascending.
    fn segments(&self, object: ObjectId) -> Answer<'_, Vec<RangeInclusive<u64>>>;

    /// One segment.
    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>>;

    /// Removes a segment, one whose records the object gave up, or that stands in a longer one as well. One that is not
    /// there is no error. Only whoever publishes the object removes.
    fn remove_segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, ()>;

    /// Keeps a bundle, as one byte string of the caller's making.
    fn put_bundle<'a>(&'a self, id: BundleId, bytes: &'a [u8]) -> Answer<'a, ()>;

    /// A bundle.
    fn bundle(&self, id: BundleId) -> Answer<'_, Option<Vec<u8>>>;
}
