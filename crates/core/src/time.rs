//! Time as an argument: instants, spans, clock readings with their quality, and the ratchet.
//!
//! Nothing here reads a clock. A shell takes a [`Reading`]; the [`Ratchet`] turns it into the [`Now`] that decisions
//! use, which never goes back behind what the lineage has already recorded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An instant: milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A length of time in milliseconds; may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub i64);

impl Timestamp {
    /// This instant moved by `span`; stops at the ends of the range instead of wrapping.
    #[must_use]
    pub const fn saturating_add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Time from `earlier` to this instant; negative if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with milliseconds in UTC; the bare number where the calendar does not reach.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// Why a text is not an instant or a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not an instant.
    #[error("`{0}` is not a timestamp: write it as in 2026-11-23T08:00:00Z")]
    Timestamp(String),
    /// Not a length of time.
    #[error("`{0}` is not a duration: write it as in 7d, 1h30m, 45s or 250ms")]
    Span(String),
}

impl FromStr for Timestamp {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse::<jiff::Timestamp>()
            .map(|instant| Self(instant.as_millisecond()))
            .map_err(|_| ParseError::Timestamp(text.to_owned()))
    }
}

impl fmt::Display for Span {
    /// As in `1h 30m`, which [`Span::from_str`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", jiff::SignedDuration::from_millis(self.0))
    }
}

impl FromStr for Span {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parsed = || {
            let duration = match text.parse::<jiff::SignedDuration>() {
                Ok(duration) => duration,
                // Days, which only the longer form knows; all of them have 24 hours. Months and years have no one length.
                Err(_) => {
                    let span: jiff::Span = text.parse().ok()?;
                    span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?
                }
            };
            i64::try_from(duration.as_millis()).ok()
        };
        parsed()
            .map(Self)
            .ok_or_else(|| ParseError::Span(text.to_owned()))
    }
}

/// How far a reading of the wall clock can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// The clock is known to be wrong (behind recorded history) or could not be read.
    Unknown,
    /// The host's clock, with no word on whether it is disciplined.
    Host,
    /// The kernel says that the clock is synchronised.
    Synced,
}

impl Quality {
    /// The word used in rules, records and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Host => "host",
            Self::Synced => "synced",
        }
    }
}

/// One look at the clocks, taken by a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Wall clock.
    pub wall: Timestamp,
    /// What the shell knows about the wall clock.
    pub quality: Quality,
    /// Monotonic clock, nanoseconds; does not advance while the machine is suspended.
    pub mono_ns: u64,
    /// Boot-time clock, nanoseconds; goes on while the machine is suspended.
    pub boot_ns: u64,
}

/// The time that a decision uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Now {
    /// Never earlier than any earlier `Now` of the same ratchet.
    pub at: Timestamp,
    /// [`Quality::Unknown`] while the wall clock stands behind recorded history.
    pub quality: Quality,
}

/// How far the wall clock may stand behind recorded history and still count as the same clock.
///
/// Clock discipline moves a clock by less than this; a machine that booted with a wrong date by more.
pub const STEP_TOLERANCE: Span = Span(2_000);

/// Keeps time from going back: recorded history is the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratchet {
    floor: Timestamp,
}

impl Ratchet {
    /// A ratchet whose floor is the instant of the last record.
    #[must_use]
    pub const fn new(floor: Timestamp) -> Self {
        Self { floor }
    }

    /// The time to decide with. A wall clock behind the floor by more than [`STEP_TOLERANCE`] yields the floor
    /// with unknown quality, so that nothing counts as fresh by a clock that is known to be wrong.
    pub fn observe(&mut self, reading: Reading) -> Now {
        let behind = self.floor.since(reading.wall);
        self.floor = self.floor.max(reading.wall);
        let quality = if behind > STEP_TOLERANCE {
            Quality::Unknown
        } else {
            reading.quality
        };
        Now {
            at: self.floor,
            quality,
        }
    }

    /// The latest instant seen or recorded.
    #[must_use]
    pub const fn floor(&self) -> Timestamp {
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wall: i64) -> Reading {
        Reading {
            wall: Timestamp(wall),
            quality: Quality::Synced,
            mono_ns: 0,
            boot_ns: 0,
        }
    }

    #[test]
    fn time_never_goes_back_and_a_step_back_is_known() {
        let mut ratchet = Ratchet::new(Timestamp(100_000));
        assert_eq!(
            ratchet.observe(reading(100_500)),
            Now {
                at: Timestamp(100_500),
                quality: Quality::Synced
            }
        );
        assert_eq!(
            ratchet.observe(reading(99_000)),
            Now {
                at: Timestamp(100_500),
                quality: Quality::Synced
            }
        );
        assert_eq!(
            ratchet.observe(reading(50_000)),
            Now {
                at: Timestamp(100_500),
                quality: Quality::Unknown
            }
        );
        assert_eq!(
            ratchet.observe(reading(200_000)),
            Now {
                at: Timestamp(200_000),
                quality: Quality::Synced
            }
        );
    }

    #[test]
    fn text_forms_read_back() {
        let instant = Timestamp(1_795_420_800_123);
        assert_eq!(instant.to_string().parse(), Ok(instant));
        for ms in [0, 250, 5_400_000, -1_500, 86_400_000 * 3] {
            assert_eq!(Span(ms).to_string().parse(), Ok(Span(ms)), "{}", Span(ms));
        }
        assert_eq!("1h30m".parse(), Ok(Span(5_400_000)));
        assert_eq!("1d".parse(), Ok(Span(86_400_000)));
        assert_eq!("2d 1h30m".parse(), Ok(Span(2 * 86_400_000 + 5_400_000)));
        assert_eq!("-1d".parse(), Ok(Span(-86_400_000)));
        for text in ["soon", "1mo", "1y", "1d2026", "", "99999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
