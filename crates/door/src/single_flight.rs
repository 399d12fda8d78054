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
    pub fn until(&self, now: Instant) -> Option<Instant> {
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
    BackingOff {
        /// When to ask again.
        until: Instant,
    },
    /// Too many objects wake or back off.
    Full,
}

#[derive(Debug)]
enum Attempt {
    UnderWay(watch::Receiver<Option<Ended>>, BackOff),
    BackingOff(BackOff),
}

/// Wakes under way, and pauses after failures.
#[derive(Debug)]
pub(crate) struct SingleFlight {
    attempts: Mutex<HashMap<ObjectId, Attempt>>,
    max: usize,
}

impl SingleFlight {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            attempts: Mutex::default(),
            max,
        }
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the wake of `object`.
    pub(crate) fn ask(&self, object: ObjectId, now: Instant) -> Turn {
        let mut attempts = self.attempts();
        let back_off = match attempts.get(&object) {
            Some(Attempt::UnderWay(receiver, _)) => return Turn::Waits(receiver.clone()),
            Some(Attempt::BackingOff(back_off)) => match back_off.until(now) {
                Some(until) => return Turn::BackingOff { until },
                None => *back_off,
            },
            None => BackOff::default(),
        };
        if attempts.len() >= self.max && !attempts.contains_key(&object) {
            // Those whose pause is over are forgotten, and with them how often they failed.
            attempts.retain(
                |_, attempt| !matches!(attempt, Attempt::BackingOff(back_off) if back_off.until(now).is_none()),
            );
            if attempts.len() >= self.max {
                return Turn::Full;
            }
        }
        let (sender, receiver) = watch::channel(None);
        attempts.insert(object, Attempt::UnderWay(receiver.clone(), back_off));
        Turn::First(sender, receiver)
    }

    /// Notes how the wake of `object` ended, before those who wait are told.
    pub(crate) fn end(&self, object: ObjectId, ended: &Ended, now: Instant) {
        let mut attempts = self.attempts();
        let Some(Attempt::UnderWay(_, mut back_off)) = attempts.remove(&object) else {
            return;
        };
        let retry_after = match ended {
            Ended::Woke => return,
            Ended::Refused(retry_after) => *retry_after,
            Ended::Failed(_) => None,
        };
        back_off.failed(now, retry_after);
        attempts.insert(object, Attempt::BackingOff(back_off));
    }

    /// Objects that are left alone after a failure.
    pub(crate) fn backing_off(&self, now: Instant) -> usize {
        let backing_off = |attempt: &&Attempt| matches!(attempt, Attempt::BackingOff(back_off) if back_off.until(now).is_some());
        self.attempts().values().filter(backing_off).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(wakes: &SingleFlight, object: ObjectId, now: Instant) -> bool {
        matches!(wakes.ask(object, now), Turn::First(..))
    }

    #[test]
    fn many_who_ask_share_one_wake_and_a_failure_is_followed_by_longer_and_longer_pauses() {
        let wakes = SingleFlight::new(10);
        let (object, mut now) = (ObjectId::of(b"a"), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert!(first(&wakes, object, now));
            assert!(matches!(wakes.ask(object, now), Turn::Waits(_)));
            wakes.end(object, &Ended::Refused(None), now);
            let Turn::BackingOff { until } = wakes.ask(object, now) else {
                panic!("it backs off");
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
        assert_eq!(back_off.until(now), None);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_pauses_that_are_over() {
        let wakes = SingleFlight::new(2);
        let (objects, now) = ([b"a", b"b", b"c"].map(|name| ObjectId::of(name)), Instant::now());
        for object in &objects[..2] {
            assert!(first(&wakes, *object, now));
            wakes.end(*object, &Ended::Refused(None), now);
        }
        assert!(matches!(wakes.ask(objects[2], now), Turn::Full));
        assert!(first(&wakes, objects[2], now + Duration::from_secs(2)));
    }
}
