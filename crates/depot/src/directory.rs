//! The name table of classes: which instance has which key. One entry a key, changed only by compare-and-swap.
//!
//! What an entry means, who may replace one and in which order an instance is founded is `core::class::founding`.

use std::fmt;

use suijuris_core::ClassId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::Entry;

use crate::{Answer, Version};

/// Entries that one call lists at most.
pub const MAX_NAMES: usize = 10_000;

/// The outcome of a compare-and-swap of an entry that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameSwap {
    /// The entry is now the new one.
    Done(Version),
    /// The entry was another; it was not changed. This is the present one, if there is any.
    Conflict(Option<(Entry, Version)>),
}

/// The outcome of a removal that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameRemoval {
    /// The entry is gone, and its key free.
    Done,
    /// The entry was another; it was not removed. This is the present one; none where the key was free already.
    Conflict(Option<(Entry, Version)>),
}

/// The name tables of classes.
pub trait Directory: fmt::Debug + Send + Sync {
    /// The entry under `key`, where there is one.
    fn name<'a>(&'a self, class: ClassId, key: &'a Key) -> Answer<'a, Option<(Entry, Version)>>;

    /// Puts `entry` under `key` if the version there still is `expected` (`None`: there is none yet). Of any number that do so
    /// at once exactly one succeeds. Never repeated by the backend unless it can tell its own success apart.
    fn swap_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        entry: &'a Entry,
        expected: Option<&'a Version>,
    ) -> Answer<'a, NameSwap>;

    /// Removes the entry under `key` if its version still is `expected`: where its owner frees a tombstone, or a founding is
    /// discarded.
    fn remove_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, NameRemoval>;

    /// Entries of a class, in the order of their keys, after `after`, at most `limit` and [`MAX_NAMES`].
    fn names<'a>(
        &'a self,
        class: ClassId,
        after: Option<&'a Key>,
        limit: usize,
    ) -> Answer<'a, Vec<(Key, Entry)>>;

    /// How many entries of a class are no tombstones: founding or founded, or garbage of which nobody knows. Exact, but in a
    /// bucket, which may be some seconds behind what other processes do.
    fn count_names(&self, class: ClassId) -> Answer<'_, u64>;
}
