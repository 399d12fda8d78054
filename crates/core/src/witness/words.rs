//! What a keeper is told, what it asks for, and what it says.

use std::time::Duration;

use super::mark::{HolderId, Mark};
use crate::id::RecordId;
use crate::inputs::Witnessed;
use crate::lineage::Head;

/// A place in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Position of the record.
    pub seq: u64,
    /// The record.
    pub record: RecordId,
    /// The activation it belongs to.
    pub epoch: u64,
}

impl From<&Head> for Point {
    fn from(head: &Head) -> Self {
        Self {
            seq: head.seq,
            record: head.record,
            epoch: head.epoch,
        }
    }
}

/// What a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Holding the object, asleep.
    Rest,
    /// Waking it: the mark's epoch is raised.
    Wake,
}

/// Number of a question; its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask(pub(super) u64);

/// Why a question to the depot got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// None came. What was asked may have happened, or may happen yet.
    Unknown,
    /// The depot says that it did nothing and will not: asking again soon is of no use.
    Denied,
}

/// Answer to a compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swapped<V> {
    /// The mark is now the new one, of this version.
    Done(V),
    /// The mark was of another version, this one; it was not changed.
    Conflict(Option<(Mark, V)>),
}

/// What a keeper is told.
#[derive(Debug, Clone)]
pub enum Input<V> {
    /// Somebody wants the object for this; answered by one [`Notice::Verdict`].
    Claim(Purpose),
    /// This record is durable, and so are all before it.
    Note(Point),
    /// The process had been paused, or its memory copied. What was held counts no more, and a new claim decides. It goes
    /// on under this name: a fresh one if another copy of its memory may run on, and then its shell forgets what was
    /// [`Written`](super::Written) before.
    Resumed(HolderId),
    /// Another process goes on with the mark, and with what was [`Written`](super::Written); this one leaves it as it is.
    HandOver,
    /// Give the object up, the newest head in the mark; answered by one [`Notice::Released`] within this time.
    Release(Duration),
    /// Time passed.
    Tick,
    /// Answer to [`Effect::Read`].
    Read(Ask, Result<Option<(Mark, V)>, Failure>),
    /// Answer to [`Effect::Swap`].
    Swapped(Ask, Result<Swapped<V>, Failure>),
    /// Answer to [`Effect::Recall`]: whether this copy wrote that mark.
    Recalled(Ask, bool),
    /// Answer to [`Effect::Look`]: whether the holder is known to run (`Some(true)`) or to have ended (`Some(false)`).
    Looked(Ask, Option<bool>),
    /// Answer to [`Effect::Find`]: whether the history holds that record there, or has a `restored` that gives it up.
    Found(Ask, bool),
}

/// What a shell has to do, in this order. Questions that are not answered in time are answered with
/// [`Failure::Unknown`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<V> {
    /// Read the mark.
    Read(Ask, Duration),
    /// Replace the mark, if its version is still this one.
    Swap(Ask, Box<Mark>, Option<V>, Duration),
    /// Look whether this copy wrote this mark, itself or as those from whom it took over: in what was
    /// [`Written`](super::Written).
    Recall(Ask, Box<Mark>, Duration),
    /// Ask what is known of this holder.
    Look(Ask, HolderId, Duration),
    /// Look into our own history.
    Find(Ask, u64, RecordId),
    /// Say this to whoever runs the object.
    Say(Notice),
}

/// What whoever runs the object has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Answer to a claim.
    Verdict(Verdict),
    /// The mark covers the history up to this position: what is at or below it is in every copy that will be accepted.
    Covered(u64),
    /// The lease ran out, and the grace behind it: nothing may be served.
    Expired,
    /// The lease holds again, or for the first time after a start without a witness.
    Renewed,
    /// Serving has been over for a while: leave.
    Over,
    /// Another copy has the object. Serve nothing and write nothing more; no claim will succeed.
    Lost(Box<Evidence>),
    /// The object was given up; whether the mark says so, or the lease has to run out.
    Released(bool),
}

/// Why a copy was refused, for people: both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The newest record of this copy.
    pub ours: Point,
    /// The mark; absent where one that was there has vanished.
    pub witnessed: Option<Mark>,
}

/// Answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This copy holds the object, and the mark has this epoch.
    Agrees(u64),
    /// No depot answers, and none is required.
    Absent,
    /// No depot answers, and one is required.
    Missing,
    /// The witness knows a newer history.
    Newer(Box<Evidence>),
    /// The witnessed head is not in this history: there are two.
    Diverged(Box<Evidence>),
    /// This history is sound, but another copy holds the object.
    Live(Box<Evidence>),
}

impl Verdict {
    /// The fact that decisions look at.
    #[must_use]
    pub const fn witnessed(&self) -> Witnessed {
        match self {
            Self::Agrees(_) => Witnessed::Agrees,
            Self::Absent => Witnessed::Absent,
            Self::Missing => Witnessed::Missing,
            Self::Newer(_) => Witnessed::Newer,
            Self::Diverged(_) | Self::Live(_) => Witnessed::Twin,
        }
    }

    /// Both sides, where this copy was refused for another.
    #[must_use]
    pub const fn evidence(&self) -> Option<&Evidence> {
        match self {
            Self::Newer(evidence) | Self::Diverged(evidence) | Self::Live(evidence) => Some(evidence),
            Self::Agrees(_) | Self::Absent | Self::Missing => None,
        }
    }

    /// Whether this copy can never be the object again without its controllers: its history lacks what was witnessed.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Newer(_) | Self::Diverged(_))
    }
}
