//! Holds: expiring requests to stay awake, by name.
//!
//! A hold is no promise: `remain` sees the names in force and the rules say what they count for. They live in RAM,
//! since whoever held on is gone when the machine is.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Holds at most; a workload that leaks names is told so instead of growing the runtime.
pub const MAX_HOLDS: usize = 256;

/// Length of a hold at most: it is prolonged, not forgotten.
pub const MAX_LENGTH: Duration = Duration::from_secs(3_600);

/// Length of a name at most, bytes.
const MAX_NAME_BYTES: usize = 128;

/// Why a hold was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Empty or too long.
    #[error("a hold has a name of 1 to {MAX_NAME_BYTES} characters")]
    Name,
    /// Nothing or too long.
    #[error("a hold lasts from 1ms to 1h; prolong it by taking it again")]
    Length,
    /// Too many.
    #[error("{MAX_HOLDS} holds are in force; release some")]
    TooMany,
}

/// The holds in force.
#[derive(Debug, Default)]
pub struct Holds(RefCell<BTreeMap<String, Instant>>);

impl Holds {
    /// Takes or prolongs hold `name` for `length` from `now`.
    ///
    /// # Errors
    /// [`Error`] says what to do instead.
    pub fn take(&self, name: &str, length: Duration, now: Instant) -> Result<(), Error> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(Error::Name);
        }
        if length.is_zero() || length > MAX_LENGTH {
            return Err(Error::Length);
        }
        let mut holds = self.0.borrow_mut();
        holds.retain(|_, until| *until > now);
        if holds.len() >= MAX_HOLDS && !holds.contains_key(name) {
            return Err(Error::TooMany);
        }
        holds.insert(name.to_owned(), now + length);
        Ok(())
    }

    /// Releases hold `name`; whether it was in force.
    pub fn release(&self, name: &str, now: Instant) -> bool {
        self.0.borrow_mut().remove(name).is_some_and(|until| until > now)
    }

    /// Names in force.
    #[must_use]
    pub fn names(&self, now: Instant) -> BTreeSet<String> {
        self.0
            .borrow()
            .iter()
            .filter(|(_, until)| **until > now)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Names in force with the time they have left.
    #[must_use]
    pub fn left(&self, now: Instant) -> BTreeMap<String, Duration> {
        let holds = self.0.borrow();
        let left = |(name, until): (&String, &Instant)| {
            let left = until.checked_duration_since(now).filter(|left| !left.is_zero())?;
            Some((name.clone(), left))
        };
        holds.iter().filter_map(left).collect()
    }

    /// When the next one ends.
    #[must_use]
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        self.0
            .borrow()
            .values()
            .filter(|until| **until > now)
            .min()
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_by_itself_or_when_released() {
        let (holds, now) = (Holds::default(), Instant::now());
        let second = Duration::from_secs(1);
        holds.take("a", second, now).unwrap();
        holds.take("b", 2 * second, now).unwrap();
        assert_eq!(holds.names(now).len(), 2);
        assert_eq!(holds.next_end(now), Some(now + second));
        assert_eq!(holds.names(now + second), ["b".to_owned()].into());
        assert!(holds.release("b", now));
        assert!(!holds.release("b", now));
        assert!(holds.names(now + second).is_empty());
    }

    #[test]
    fn holds_are_bounded() {
        let (holds, now) = (Holds::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(holds.take("", second, now), Err(Error::Name));
        assert_eq!(holds.take("a", Duration::ZERO, now), Err(Error::Length));
        assert_eq!(holds.take("a", MAX_LENGTH + second, now), Err(Error::Length));
        for n in 0..MAX_HOLDS {
            holds.take(&n.to_string(), second, now).unwrap();
        }
        assert_eq!(holds.take("more", second, now), Err(Error::TooMany));
        assert_eq!(holds.take("7", second, now), Ok(()), "an old one is prolonged");
        assert_eq!(
            holds.take("more", second, now + second),
            Ok(()),
            "ended ones make room"
        );
    }
}
