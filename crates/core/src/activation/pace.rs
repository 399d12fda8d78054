//! One account of the activations of an object that never served or that crashed, whatever triggered them, and the pause
//! after each; and how often a message was delivered to a reader that ended with it.
//!
//! An owner's wake passes the pause: who asks whether it applies is [`Activation`](super::Activation).

use std::time::Duration;

use crate::witness::Mono;

/// Lengths of the pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// After the first failure; each further one doubles it.
    pub first: Duration,
    /// At most.
    pub cap: Duration,
    /// An activation that served this long and then failed counts as the first failure.
    pub enough: Duration,
}

impl Terms {
    /// A second, then two, up to five minutes; a minute of service is enough.
    pub const DEFAULT: Self = Self {
        first: Duration::from_secs(1),
        cap: Duration::from_secs(300),
        enough: Duration::from_secs(60),
    };
}

/// How an activation ended, for the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It served and fell asleep by itself.
    Served,
    /// It ended without having served, or crashed after it had served for this long.
    Failed(Duration),
    /// The object refused inside; when its rules say to ask again, if they do.
    Refused(Option<Duration>),
}

/// The account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    failures: u32,
    until: Option<Mono>,
}

impl Pace {
    /// Enters how an activation ended; the pause that follows, if one does. It lies between [`Terms::first`] and
    /// [`Terms::cap`]; what the rules say of it (`@retry_after`) goes before the doubling.
    pub fn ended(&mut self, now: Mono, outcome: Outcome, terms: &Terms) -> Option<Duration> {
        let retry_after = match outcome {
            Outcome::Served => {
                self.forgive();
                return None;
            }
            Outcome::Failed(served) => {
                if served >= terms.enough {
                    self.failures = 0;
                }
                None
            }
            Outcome::Refused(retry_after) => retry_after,
        };
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = retry_after.unwrap_or_else(|| terms.first.saturating_mul(doubled));
        let pause = pause.max(terms.first).min(terms.cap);
        self.until = Some(now.after(pause));
        Some(pause)
    }

    /// Forgets all failures: the object served, or what made it fail is mended.
    pub const fn forgive(&mut self) {
        *self = Self {
            failures: 0,
            until: None,
        };
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// How long the object is left alone yet; this is what callers are told as `Retry-After`.
    #[must_use]
    pub fn pause(&self, now: Mono) -> Option<Duration> {
        self.until
            .map(|until| until.since(now))
            .filter(|left| !left.is_zero())
    }
}

/// What becomes of a message that its reader did not acknowledge before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waits for the next activation.
    Again,
    /// It killed its readers, or they died of something else while they had it, as often as is allowed: it is set aside,
    /// listed, and delivered again only when an owner says so.
    SetAside,
}

/// What becomes of a message after `deliveries` readers crashed with it in hand, where `limit` are allowed. A limit of
/// zero counts as one.
#[must_use]
pub const fn fate(deliveries: u32, limit: u32) -> Fate {
    let limit = if limit == 0 { 1 } else { limit };
    if deliveries >= limit {
        Fate::SetAside
    } else {
        Fate::Again
    }
}
