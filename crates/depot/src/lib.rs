//! Shared storage outside the object, in four parts: marks of the witness ([`Marks`]), what is kept of objects that lie
//! elsewhere ([`Archive`]), messages ([`Inbox`]), the name tables of classes ([`Directory`]). Several backends have all four
//! ([`Depot`]), one conformance suite holds them to it.
//!
//! [`open`] turns a URL into a depot. Every backend runs under any executor, or none: what blocks, and what needs an event
//! loop, has threads of its own. Features: `object` and `etcd` add servers, for programs outside machines; `testing` adds
//! a depot in memory and faults in front of any. Without features there is no network and no TLS.
//!
//! A depot keeps bytes and compares versions; it takes no part in what they mean. Not here: when a mark may be changed
//! (`core::witness`, the runtime), what a message wakes (door).

mod archive;
mod directory;
#[cfg(any(feature = "object", feature = "etcd"))]
mod driver;
mod entry;
mod epoch;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "testing")]
pub mod faults;
mod frame;
#[cfg(any(feature = "object", feature = "etcd"))]
mod http;
mod inbox;
pub mod local;
mod marks;
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
use std::pin::Pin;
use std::time::Duration;

use suijuris_core::ObjectId;

pub use self::archive::{Archive, MAX_BUNDLE, MAX_SEGMENT};
pub use self::directory::{Directory, MAX_NAMES, NameRemoval, NameSwap};
pub use self::epoch::Epoch;
pub use self::inbox::{Inbox, InboxWatch, MAX_READ, MAX_WAITING, Posted, Waiting};
pub use self::marks::{Marks, Presence, PresenceGuard, Swap};
#[cfg(feature = "object")]
pub use self::object::Bucket;
pub use self::open::{Environment, default_directory, open};
pub use self::pass::Call;
pub use self::segment::row;
pub use self::session::Session;

/// What a depot answers, some time later. Dropping it gives up waiting; the operation may still happen.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

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

/// Shared storage, all four parts of it. Every method may be called from any thread, concurrently; whatever is acknowledged
/// is durable.
///
/// A lost answer ([`Error::Unreachable`]) leaves open whether a write happened: the caller reads and compares. A backend
/// never repeats a compare-and-swap by itself unless it can tell its own success apart.
pub trait Depot: Marks + Archive + Inbox + Directory {
    /// Its URL, without secrets.
    fn describe(&self) -> String;

    /// Shortest reasonable time between two writes of one mark; zero where writes cost nothing.
    fn pace(&self) -> Duration;

    /// Whether presence is a lock of one system: whoever holds it lives, and nobody takes what they hold.
    fn presence_is_a_lock(&self) -> bool {
        false
    }

    /// Whether another process asks the depot for this one, and verifies what it says of other objects.
    fn is_relayed(&self) -> bool {
        false
    }

    /// The epoch that `object` is in, whose key signs its identity tokens: verified from the first record of its history in
    /// the depot. None where it does not show that.
    fn epoch(&self, object: ObjectId) -> Answer<'_, Option<Epoch>> {
        Box::pin(epoch::of(self, object))
    }
}
