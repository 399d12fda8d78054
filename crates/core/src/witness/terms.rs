//! Times of the protocol: how long a lease holds, when it is renewed, how long another's is waited for.
//!
//! All of them are lengths by one's own monotonic clock. Wall clocks are never compared, and two clocks need not agree on
//! the time, only on how long a second is: [`Terms::outlives`] leaves room for rates that differ by a tenth.

use std::time::Duration;

use crate::manifest::{self, Manifest};
use crate::time::{Span, Timestamp};

/// How long a depot may stay silent before a claim goes without it.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(5);

/// Renewals in the time of a lease: two may be lost.
const RENEWALS: u32 = 3;

/// Looks at another's mark in the time of its lease, while waiting for its end.
const LOOKS: u32 = 5;

/// Added to the five quarters of another's lease: two clocks that tick coarsely, a read that was slow to come back.
const MARGIN: Duration = Duration::from_millis(250);

/// Bounds of the time between two tries of what the depot did not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Bounds of the time that one question to the depot may take.
const WITHIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A reading of a clock that never goes back and goes on while the machine is suspended (`CLOCK_BOOTTIME`), nanoseconds.
/// It means nothing in another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// This instant, later by `length`; stops at the end of the range.
    #[must_use]
    pub fn after(self, length: Duration) -> Self {
        let ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ns))
    }

    /// Time from `earlier` to this instant; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One look at the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// What everything is timed by.
    pub mono: Mono,
    /// What is written into marks, for people.
    pub wall: Timestamp,
}

/// What a copy holds its object on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    strength: manifest::Witness,
    lease: Duration,
    grace: Duration,
    pace: Duration,
    locks: bool,
}

fn length(span: Span) -> Duration {
    Duration::from_millis(u64::try_from(span.0).unwrap_or(0))
}

impl Terms {
    /// Terms of an object with this manifest, in a depot that wants `pace` between two writes of one mark.
    #[must_use]
    pub fn of(manifest: &Manifest, pace: Duration) -> Self {
        Self::new(manifest.witness, manifest.lease, manifest.grace, pace)
    }

    /// Terms of these lengths. Grace counts with [`manifest::Witness::Optional`] only.
    #[must_use]
    pub fn new(strength: manifest::Witness, lease: Span, grace: Span, pace: Duration) -> Self {
        let lease = length(lease).max(Duration::from_millis(1));
        let grace = match strength {
            manifest::Witness::Optional => length(grace),
            manifest::Witness::Required => Duration::ZERO,
        };
        // Marks follow records at least as often as the lease is renewed.
        let pace = pace.min(lease / RENEWALS);
        Self {
            strength,
            lease,
            grace,
            pace,
            locks: false,
        }
    }

    /// The depot knows by a lock who runs: whoever rests renews nothing, for nobody takes what a living copy holds.
    #[must_use]
    pub const fn where_presence_is_a_lock(mut self, locks: bool) -> Self {
        self.locks = locks;
        self
    }

    /// Whether an object at rest is held by presence alone.
    pub(super) const fn rests_on_presence(&self) -> bool {
        self.locks
    }

    /// How much the object relies on the witness.
    #[must_use]
    pub const fn strength(&self) -> manifest::Witness {
        self.strength
    }

    /// How long a renewal holds.
    pub(super) const fn lease(&self) -> Duration {
        self.lease
    }

    /// How long a renewal lets the object serve: the lease and the grace behind it.
    pub(super) fn serves(&self) -> Duration {
        self.lease.saturating_add(self.grace)
    }

    /// What others have to wait for: [`Terms::serves`], as it stands in the mark.
    pub(super) fn stated(&self) -> Span {
        Span(i64::try_from(self.serves().as_millis()).unwrap_or(i64::MAX))
    }

    /// Time from one renewal to the next.
    pub(super) fn renewal(&self) -> Duration {
        self.lease / RENEWALS
    }

    /// Shortest time between two marks that only follow records.
    pub(super) const fn pace(&self) -> Duration {
        self.pace
    }

    /// How long serving has been over when the machine leaves: time for one more try, so that a process that was paused
    /// finds out first whether its lease is still there to be had.
    pub(super) fn last_try(&self) -> Duration {
        self.renewal()
    }

    /// Time to the next try of what the depot did not answer `failures` times in a row: short at first, for an answer that
    /// was only lost, and then a share of the lease.
    pub(super) fn retry(&self, failures: u32) -> Duration {
        let patient = (self.lease / 12).clamp(RETRY.0, RETRY.1);
        RETRY.0.saturating_mul(1 << failures.min(16)).min(patient)
    }

    /// How long one question to the depot may take.
    pub(super) fn within(&self) -> Duration {
        self.renewal().clamp(WITHIN.0, WITHIN.1)
    }

    /// How long a mark with this lease must stand unchanged until its holder can no longer be serving.
    pub(super) fn outlives(lease: Span) -> Duration {
        let lease = length(lease);
        lease.saturating_add(lease / 4).saturating_add(MARGIN)
    }

    /// Time between two looks at a mark with this lease.
    pub(super) fn look(lease: Span) -> Duration {
        (length(lease) / LOOKS).clamp(RETRY.0, RETRY.1)
    }
}
