//! What stands in front of another depot and passes calls on to it, each method written once for all who do so.
//!
//! Called by `session`, which passes all but marks on as they are, and by `faults`, which may do something to each.

use suijuris_core::ClassId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::Entry;

use crate::{Answer, Depot, Directory, NameRemoval, NameSwap, Version};

/// A method of a depot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as the methods of a depot")]
pub enum Call {
    Mark,
    Swap,
    Register,
    Rename,
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
pub(crate) trait Passes: Send + Sync {
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
