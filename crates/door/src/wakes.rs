//! One wake for an object at a time, however many ask; after a failure the object is left alone for a while, longer
//! each time. Bounded in objects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use suijuris_core::ObjectId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::waker::pause;

/// How a wake ended, for everybody who waited for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The object is awake, or was.
    Woke,
    /// The object refused, though the door did not.
    Refused,
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
    Under(watch::Receiver<Option<Ended>>, u32),
    Rests { until: Instant, failures: u32 },
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
        let failures = match flights.get(&object) {
            Some(Flight::Under(receiver, _)) => return Turn::Waits(receiver.clone()),
            Some(Flight::Rests { until, .. }) if *until > now => return Turn::Rests { until: *until },
            Some(Flight::Rests { failures, .. }) => *failures,
            None => 0,
        };
        if flights.len() >= self.max && !flights.contains_key(&object) {
            // Those whose pause is over are forgotten, and with them how often they failed.
            flights.retain(|_, flight| !matches!(flight, Flight::Rests { until, .. } if *until <= now));
            if flights.len() >= self.max {
                return Turn::Full;
            }
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(object, Flight::Under(receiver.clone(), failures));
        Turn::First(sender, receiver)
    }

    /// Notes how the wake of `object` ended, before those who wait are told.
    pub(crate) fn end(&self, object: ObjectId, ended: &Ended, now: Instant) {
        let mut flights = self.flights();
        let Some(Flight::Under(_, failures)) = flights.remove(&object) else {
            return;
        };
        if *ended != Ended::Woke {
            let failures = failures.saturating_add(1);
            let until = now + pause(failures);
            flights.insert(object, Flight::Rests { until, failures });
        }
    }

    /// Objects that rest after a failure.
    pub(crate) fn resting(&self, now: Instant) -> usize {
        let rests = |flight: &&Flight| matches!(flight, Flight::Rests { until, .. } if *until > now);
        self.flights().values().filter(rests).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            wakes.end(object, &Ended::Refused, now);
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
    fn the_table_is_bounded_and_forgets_pauses_that_are_over() {
        let wakes = Wakes::new(2);
        let (objects, now) = ([b"a", b"b", b"c"].map(|name| ObjectId::of(name)), Instant::now());
        for object in &objects[..2] {
            assert!(first(&wakes, *object, now));
            wakes.end(*object, &Ended::Refused, now);
        }
        assert!(matches!(wakes.ask(objects[2], now), Turn::Full));
        assert!(first(&wakes, objects[2], now + Duration::from_secs(2)));
    }
}
