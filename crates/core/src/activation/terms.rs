//! How long each step of an activation may take, and how much may wait for it.

use std::time::Duration;

use super::pace;
use crate::witness::Mono;

/// Lengths and bounds. All lengths are by the monotonic clock of [`Mono`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// From the order to start or resume a machine until its runtime has said that the object woke.
    pub wake_within: Duration,
    /// For a machine to be suspended, and the object to be claimed for resting in it.
    pub suspend_within: Duration,
    /// From the runtime's last word until its machine has ended.
    pub leave_within: Duration,
    /// From the signal that asks a machine to end until it is killed.
    pub term_within: Duration,
    /// Between two tries to kill a machine that does not end.
    pub kill_within: Duration,
    /// Between two words of a runtime, before it is asked whether it is there.
    pub beat_within: Duration,
    /// For the answer to that.
    pub probe_within: Duration,
    /// For attaching to a machine that an earlier process left.
    pub attach_within: Duration,
    /// How long proposals wait for the end of a machine to be recorded.
    pub record_within: Duration,
    /// From the deadline of a host's stop until the activation is over, whatever is missing.
    pub end_within: Duration,
    /// Pauses up to this long are waited out by callers, new ones and those that a machine left behind.
    pub hold_within: Duration,
    /// Proposals that wait or are on their way to a gate, at most.
    pub max_waiting: usize,
    /// Machines that one proposal is tried with, at most.
    pub max_tries: u8,
    /// The pauses after failures.
    pub pace: pace::Terms,
}

impl Terms {
    /// The terms of a host on which nothing was configured.
    pub const DEFAULT: Self = Self {
        // A claim may have to outwait the lease of a copy that is gone.
        wake_within: Duration::from_secs(60),
        suspend_within: Duration::from_secs(30),
        leave_within: Duration::from_secs(30),
        term_within: Duration::from_secs(10),
        kill_within: Duration::from_secs(5),
        beat_within: Duration::from_secs(10),
        probe_within: Duration::from_secs(5),
        attach_within: Duration::from_secs(10),
        record_within: Duration::from_secs(30),
        end_within: Duration::from_secs(10),
        hold_within: Duration::from_secs(5),
        max_waiting: 1_024,
        max_tries: 3,
        pace: pace::Terms::DEFAULT,
    };
}

/// What a transition looks at besides the event.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The time.
    pub now: Mono,
    /// The terms.
    pub terms: &'a Terms,
}
