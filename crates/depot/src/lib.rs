//! Shared storage outside the object: marks of the witness, announcements of sleeping objects, lineage segments, bundles,
//! messages, due times. One trait, several backends, one conformance suite.
//!
//! [`open`] turns a URL into a depot. Every backend runs under any executor, or none: what blocks, and what needs an event
//! loop, has threads of its own. Features: `object` and `etcd` add servers, for programs outside machines; `testing` adds
//! a depot in memory and faults in front of any. Without features there is no network and no TLS.
//!
//! A depot keeps bytes and compares versions; it takes no part in what they mean. Not here: when a mark may be changed
//! (`core::witness`, the runtime), what a message wakes (door).

mod directory;
#[cfg(any(feature = "object", feature = "etcd"))]
mod driver;
mod entry;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "testing")]
pub mod faults;
mod frame;
#[cfg(any(feature = "object", feature = "etcd"))]
mod http;
mod inbox_watch;
pub mod local;
#[cfg(feature = "testing")]
pub mod memory;
#[cfg(feature = "object")]
mod object;
mod open;
mod pass;
mod pool;
pub mod relay;
mod segment;
mod session;

use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ObjectId};

pub use self::directory::{Directory, MAX_NAMES, NameRemoval, NameSwap};
pub use self::inbox_watch::InboxWatch;
pub use self::open::{Environment, default_directory, open};
pub use self::segment::row;
pub use self::session::Session;

/// What a depot answers, some time later. Dropping it gives up waiting; the operation may still happen.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Size of a lineage segment in a depot at most, bytes.
pub const MAX_SEGMENT: usize = 16 << 20;

/// Size of a bundle (all its files) in a depot at most, bytes.
pub const MAX_BUNDLE: usize = 16 << 20;

/// Bytes of messages that one look into an inbox returns at most, if it is more than one message.
pub const MAX_READ: usize = 8 << 20;

/// Messages that wait for one object at most.
pub const MAX_WAITING: usize = 10_000;

/// Why a depot did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not answer in time, or cannot be reached. **Whether a write happened is unknown.**
    #[error("the depot {0} does not answer; what was asked may have happened: look again")]
    Unreachable(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// It takes no writes: read-only, no permission, quota. Nothing was changed.
    #[error("the depot {0} takes no writes; check its permissions and space")]
    ReadOnly(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// There is no space left. Nothing was changed.
    #[error("the depot {0} is full; make room, nothing was changed")]
    Full(String),
    /// What it holds cannot be read as what it should be.
    #[error("the depot holds something at {place} that cannot be used: {why}")]
    Garbage {
        /// Where, in the backend's own terms.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Something immutable is there already, with other content: two histories have been written.
    #[error("the depot already holds another {0}; two copies of one object have written")]
    Different(String),
    /// Too many messages wait for the object.
    #[error("{MAX_WAITING} messages wait for the object already; try again when it has worked on them")]
    InboxFull,
    /// What was given is too large or not allowed. Nothing was changed.
    #[error("not stored: {0}")]
    NotAllowed(String),
    /// The URL names no depot.
    #[error("`{url}` names no depot: {why}")]
    Url {
        /// As given, without secrets.
        url: String,
        /// What is wrong, and what to write.
        why: String,
    },
}

impl Error {
    /// Whether asking again later may help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(..) | Self::InboxFull | Self::Full(_))
    }
}

/// A backend's name for the present content of a mark: an ETag, a revision, a digest. At most 256 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(pub Vec<u8>);

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// The outcome of a compare-and-swap that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The mark is now the new one.
    Done(Version),
    /// The mark was another; it was not changed. This is the present one, if there is any.
    Conflict(Option<(Mark, Version)>),
}

/// What a depot knows of a holder beyond the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Presence {
    /// It runs: it holds something that ends with it.
    Here,
    /// It is known to have ended; nobody needs to wait for its lease.
    Gone,
    /// The depot cannot tell: only waiting for the lease says.
    Unknown,
}

/// Something held as long as a holder runs; dropping it, or the end of every process that has it, ends the presence.
pub trait PresenceGuard: fmt::Debug + Send + Sync {
    /// A descriptor that, inherited by a machine, keeps the presence until the machine ends too. Close-on-exec must stay set
    /// towards workloads.
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// A message and its place in the inbox: later ones have greater places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Orders messages of one object; opaque, at most 64 bytes, printable.
    pub place: String,
    /// The message.
    pub message: Message,
}

/// The outcome of posting a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is stored durably.
    Stored,
    /// A message with the same source and id was accepted before; nothing was changed.
    Duplicate,
}

/// Shared storage. Every method may be called from any thread, concurrently; whatever is acknowledged is durable.
///
/// A lost answer ([`Error::Unreachable`]) leaves open whether a write happened: the caller reads and compares. A backend
/// never repeats a compare-and-swap by itself unless it can tell its own success apart.
pub trait Depot: Directory + fmt::Debug + Send + Sync {
    /// Its URL, without secrets.
    fn describe(&self) -> String;

    /// Shortest reasonable time between two writes of one mark; zero where writes cost nothing.
    fn pace(&self) -> Duration;

    /// Whether presence is a lock of one system: whoever holds it lives, and nobody takes what they hold.
    fn presence_is_a_lock(&self) -> bool {
        false
    }

    // The witness.

    /// The mark of `object`, where there is one.
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>>;

    /// Replaces the mark of `mark.object` if its version still is `expected` (`None`: there is none yet).
    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap>;

    /// Says that `holder` of `object` runs, until what is returned is dropped. `None` where the backend has no means.
    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>>;

    /// Gives the presence of `former`, which `held` holds, to `holder`: whoever inherited it keeps that one up. Nobody is
    /// called `former` then. A backend whose presence nobody inherits takes a new one.
    fn rename(
        &self,
        object: ObjectId,
        former: HolderId,
        held: Arc<dyn PresenceGuard>,
        holder: HolderId,
    ) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        let _ = (former, held);
        self.register(object, holder)
    }

    /// Whether this copy of the object sent that mark, as far as it remembers. A backend remembers nothing: see [`Session`].
    fn is_own_write<'a>(&'a self, mark: &'a Mark) -> Answer<'a, bool> {
        let _ = mark;
        Box::pin(std::future::ready(Ok(false)))
    }

    /// What is known of `holder` of `object`.
    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence>;

    // What doors and importers read.

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

    // The inbox.

    /// Stores a message for `object`, once.
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted>;

    /// Waiting messages of `object`, oldest first, at most `limit` and about [`MAX_READ`] bytes.
    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>>;

    /// Takes messages out of the inbox for good; their keys are remembered, so that duplicates stay dropped. Keys that are
    /// not there are no error.
    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()>;

    /// Resolves when the inbox of `object` may have changed since this was first polled, or after `at_most`. Whoever looks
    /// and then waits misses what comes between: poll this, look, then await it, which [`InboxWatch`] does. Nothing more is
    /// asked of the backend for an answer that was dropped.
    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()>;
}
