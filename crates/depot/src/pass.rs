//! What stands in front of another depot and passes calls on to it, each method written once for all who do so.
//!
//! Called by `session`, which passes all but marks on as they are, and by `faults`, which may do something to each.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use suijuris_core::class::Key;
use suijuris_core::class::founding::Entry;
use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ClassId, ObjectId};

use crate::{Answer, Archive, Depot, Directory, Inbox, NameRemoval, NameSwap, Posted, Version, Waiting};

/// A method of a depot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as the methods of a depot")]
pub enum Call {
    Mark,
    Swap,
    Register,
    Rename,
    Share,
    Part,
    IsOwnWrite,
    Presence,
    Announce,
    Announcement,
    Announced,
    Due,
    PutSegment,
    Segments,
    Segment,
    RemoveSegment,
    PutBundle,
    Bundle,
    Post,
    Inbox,
    Acknowledge,
    InboxChanged,
    Name,
    SwapName,
    RemoveName,
    Names,
    CountNames,
}

impl Call {
    /// Whether it changes what the depot holds.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(
            self,
            Self::Swap
                | Self::Register
                | Self::Rename
                | Self::Share
                | Self::Part
                | Self::Announce
                | Self::PutSegment
                | Self::RemoveSegment
                | Self::PutBundle
                | Self::Post
                | Self::Acknowledge
                | Self::SwapName
                | Self::RemoveName
        )
    }
}

/// Passes calls on to another depot.
pub(crate) trait Passes: fmt::Debug + Send + Sync {
    /// Performs `run`, which is the method `call`, on the depot behind.
    fn pass<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        run: impl FnOnce(&'a dyn Depot) -> Answer<'a, T> + Send + 'a,
    ) -> Answer<'a, T>;
}

impl<P: Passes> Directory for P {
    fn name<'a>(&'a self, class: ClassId, key: &'a Key) -> Answer<'a, Option<(Entry, Version)>> {
        self.pass(Call::Name, move |depot| depot.name(class, key))
    }

    fn swap_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        entry: &'a Entry,
        expected: Option<&'a Version>,
    ) -> Answer<'a, NameSwap> {
        self.pass(Call::SwapName, move |depot| {
            depot.swap_name(class, key, entry, expected)
        })
    }

    fn remove_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, NameRemoval> {
        self.pass(Call::RemoveName, move |depot| {
            depot.remove_name(class, key, expected)
        })
    }

    fn names<'a>(
        &'a self,
        class: ClassId,
        after: Option<&'a Key>,
        limit: usize,
    ) -> Answer<'a, Vec<(Key, Entry)>> {
        self.pass(Call::Names, move |depot| depot.names(class, after, limit))
    }

    fn count_names(&self, class: ClassId) -> Answer<'_, u64> {
        self.pass(Call::CountNames, move |depot| depot.count_names(class))
    }
}

impl<P: Passes> Archive for P {
    fn announce<'a>(&'a self, object: ObjectId, bytes: &'a [u8], due: Option<Timestamp>) -> Answer<'a, ()> {
        self.pass(Call::Announce, move |depot| depot.announce(object, bytes, due))
    }

    fn announcement(&self, object: ObjectId) -> Answer<'_, Option<Vec<u8>>> {
        self.pass(Call::Announcement, move |depot| depot.announcement(object))
    }

    fn announced(&self, after: Option<ObjectId>, limit: usize) -> Answer<'_, Vec<ObjectId>> {
        self.pass(Call::Announced, move |depot| depot.announced(after, limit))
    }

    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>> {
        self.pass(Call::Due, move |depot| depot.due(until, limit))
    }

    fn put_segment<'a>(
        &'a self,
        object: ObjectId,
        positions: RangeInclusive<u64>,
        bytes: &'a [u8],
    ) -> Answer<'a, ()> {
        self.pass(Call::PutSegment, move |depot| {
            depot.put_segment(object, positions, bytes)
        })
    }

    fn segments(&self, object: ObjectId) -> Answer<'_, Vec<RangeInclusive<u64>>> {
        self.pass(Call::Segments, move |depot| depot.segments(object))
    }

    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>> {
        self.pass(Call::Segment, move |depot| depot.segment(object, positions))
    }

    fn remove_segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, ()> {
        self.pass(Call::RemoveSegment, move |depot| {
            depot.remove_segment(object, positions)
        })
    }

    fn put_bundle<'a>(&'a self, id: BundleId, bytes: &'a [u8]) -> Answer<'a, ()> {
        self.pass(Call::PutBundle, move |depot| depot.put_bundle(id, bytes))
    }

    fn bundle(&self, id: BundleId) -> Answer<'_, Option<Vec<u8>>> {
        self.pass(Call::Bundle, move |depot| depot.bundle(id))
    }
}

impl<P: Passes> Inbox for P {
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted> {
        self.pass(Call::Post, move |depot| depot.post(object, message))
    }

    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>> {
        self.pass(Call::Inbox, move |depot| depot.inbox(object, limit))
    }

    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()> {
        self.pass(Call::Acknowledge, move |depot| {
            depot.acknowledge(object, messages)
        })
    }

    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()> {
        self.pass(Call::InboxChanged, move |depot| {
            depot.inbox_changed(object, at_most)
        })
    }
}
