//! One wake for an object at a time, however many ask; after a failure the object is left alone for a while, longer
//! each time ([`BackOff`], which `up` asks for its one object). Bounded in objects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use suijuris_core::ObjectId;
use tokio::sync::watch;
use tokio::time::Instant;

/// Shortest and longest pause between two tries of what failed or was refused.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How long to leave an object alone that failed or refused to wake: a second, then two, up to five minutes.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackOff {
    failures: u32,
    until: Option<Instant>,
}

impl BackOff {
    /// It failed or refused once more; when to try again. What the rules say of it (`@retry_after`) goes before, within
    /// the same bounds.
    pub fn failed(&mut self, now: Instant, retry_after: Option<Duration>) -> Instant {
        let doubled = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = retry_after.unwrap_or_else(|| PAUSE.0.saturating_mul(doubled));
        let until = now + wait.clamp(PAUSE.0, PAUSE.1);
        self.until = Some(until);
        until
    }

    /// It woke: the next failure is the first.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// When it may be tried again, where that is later than `now`.
    #[must_use]
    pub fn rests(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

/// How a wake ended, for everybody who waited for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The object is awake, or was.
    Woke,
    /// Its rules refuse: at the door, or inside though the door did not. Where they say when to ask again, they are heard.
    Refused(Option<Duration>),
    /// No machine came up, for this reason.
    Failed(Arc<str>),
}

/// What somebody who asks for a wake gets.
#[derive(Debug)]
pub(crate) enum Turn {
    /// They are the first: the wake is theirs to perform.
    First(watch::Sender<Option<Ended>>, watch::Receiver<Option<Ended>>),
    /// One is under way.
    Waits(watch::Receiver<Option<Ended>>),
    /// One failed lately.
    Rests {
        /// When to ask again.
        until: Instant,
    },
    /// Too many objects wake or rest.
    Full,
}

#[derive(Debug)]
enum Flight {
    Under(watch::Receiver<Option<Ended>>, BackOff),
    Rests(BackOff),
}

/// Wakes under way, and pauses after failures.
#[derive(Debug)]
pub(crate) struct Wakes {
    flights: Mutex<HashMap<ObjectId, Flight>>,
    max: usize,
}

impl Wakes {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            flights: Mutex::default(),
            max,
        }
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the wake of `object`.
    pub(crate) fn ask(&self, object: ObjectId, now: Instant) -> Turn {
        let mut flights = self.flights();
        let back_off = match flights.get(&object) {
            Some(Flight::Under(receiver, _)) => return Turn::Waits(receiver.clone()),
            Some(Flight::Rests(back_off)) => match back_off.rests(now) {
                Some(until) => return Turn::Rests { until },
                None => *back_off,
            },
            None => BackOff::default(),
        };
        if flights.len() >= self.max && !flights.contains_key(&object) {
            // Those whose pause is over are forgotten, and with them how often they failed.
            flights.retain(
                |_, flight| !matches!(flight, Flight::Rests(back_off) if back_off.rests(now).is_none()),
            );
            if flights.len() >= self.max {
                return Turn::Full;
            }
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(object, Flight::Under(receiver.clone(), back_off));
        Turn::First(sender, receiver)
    }

    /// Notes how the wake of `object` ended, before those who wait are told.
    pub(crate) fn end(&self, object: ObjectId, ended: &Ended, now: Instant) {
        let mut flights = self.flights();
        let Some(Flight::Under(_, mut back_off)) = flights.remove(&object) else {
            return;
        };
        let retry_after = match ended {
            Ended::Woke => return,
            Ended::Refused(retry_after) => *retry_after,
            Ended::Failed(_) => None,
        };
        back_off.failed(now, retry_after);
        flights.insert(object, Flight::Rests(back_off));
    }

    /// Objects that rest after a failure.
    pub(crate) fn resting(&self, now: Instant) -> usize {
        let rests =
            |flight: &&Flight| matches!(flight, Flight::Rests(back_off) if back_off.rests(now).is_some());
        self.flights().values().filter(rests).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(wakes: &Wakes, object: ObjectId, now: Instant) -> bool {
        matches!(wakes.ask(object, now), Turn::First(..))
    }

    #[test]
    fn many_who_ask_share_one_wake_and_a_failure_is_followed_by_longer_and_longer_pauses() {
        let wakes = Wakes::new(10);
        let (object, mut now) = (ObjectId::of(b"a"), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert!(first(&wakes, object, now));
            assert!(matches!(wakes.ask(object, now), Turn::Waits(_)));
            wakes.end(object, &Ended::Refused(None), now);
            let Turn::Rests { until } = wakes.ask(object, now) else {
                panic!("it rests");
            };
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert!(first(&wakes, object, now));
        wakes.end(object, &Ended::Woke, now);
        assert!(first(&wakes, object, now), "a wake that succeeds ends the pauses");
    }

    #[test]
    fn when_to_ask_again_is_what_the_rules_say_within_bounds() {
        let mut back_off = BackOff::default();
        let now = Instant::now();
        let mut after = |s: u64| (back_off.failed(now, Some(Duration::from_secs(s))) - now).as_secs();
        assert_eq!([after(0), after(90), after(86_400)], [1, 90, 300]);
        assert_eq!(
            (back_off.failed(now, None) - now).as_secs(),
            8,
            "the fourth failure"
        );
        back_off.succeeded();
        assert_eq!(back_off.rests(now), None);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_pauses_that_are_over() {
        let wakes = Wakes::new(2);
        let (objects, now) = ([b"a", b"b", b"c"].map(|name| ObjectId::of(name)), Instant::now());
        for object in &objects[..2] {
            assert!(first(&wakes, *object, now));
            wakes.end(*object, &Ended::Refused(None), now);
        }
        assert!(matches!(wakes.ask(objects[2], now), Turn::Full));
        assert!(first(&wakes, objects[2], now + Duration::from_secs(2)));
    }
}
