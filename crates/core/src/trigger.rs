//! What proposes a wake: requests, messages, time, memory changes. And when timers are due.
//!
//! Pure: the shell asks when the next timer is due and says what time it is. What has fired is recorded in lineage
//! (`fired` of `woke`, `refused` and `seal`), so that a clock that steps back never fires an occurrence twice.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};

use crate::memory::Name;
use crate::time::{Span, Timestamp};

/// Occurrences of a timer handled one by one at most, when many were missed; older ones are counted.
pub const MAX_CATCH_UP: usize = 1_000;

/// When a timer is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Once, at an instant.
    At(Timestamp),
    /// Again and again after this span, counted from the object's birth.
    Every(Span),
    /// By a cron expression in the civil time of a zone.
    Cron {
        /// Five fields: minute, hour, day of month, month, day of week.
        expression: String,
        /// IANA time zone, as in `Europe/Berlin`.
        zone: String,
    },
}

/// What happens to occurrences that came due while nobody ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// One firing stands for all of them.
    #[default]
    Once,
    /// Each fires, in order, at most [`MAX_CATCH_UP`].
    All,
    /// None fires; the next one in the future does.
    Skip,
}

/// A declared timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// When it is due.
    pub schedule: Schedule,
    /// What happens to missed occurrences.
    #[serde(default)]
    pub missed: Missed,
}

/// The declared triggers of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Triggers {
    /// A request at the gate proposes `wake`.
    pub request: bool,
    /// Message topics that propose `wake`.
    #[serde(default)]
    pub topics: std::collections::BTreeSet<String>,
    /// Timers by name.
    #[serde(default)]
    pub timers: BTreeMap<Name, Timer>,
}

impl Default for Triggers {
    fn default() -> Self {
        Self {
            request: true,
            topics: Default::default(),
            timers: BTreeMap::new(),
        }
    }
}

/// Why a schedule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a cron expression.
    #[error("`{expression}` is not a cron expression ({why}): five fields, as in `0 9 * * MON-FRI`")]
    Cron {
        /// The text found.
        expression: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a zone of the IANA database.
    #[error("`{0}` is not an IANA time zone: write one as in `Europe/Berlin` or `UTC`")]
    Zone(String),
    /// An interval below a second.
    #[error("an interval must be a second or longer, not {0}")]
    TooShort(Span),
}

/// A schedule whose parts were checked; the form that can be asked.
#[derive(Debug, Clone)]
pub struct Checked(Inner);

#[derive(Debug, Clone)]
enum Inner {
    At(Timestamp),
    Every(Span),
    /// Of elapsed time: each hour, or each so many.
    Cron(Box<cronexpr::Crontab>),
    /// At times of the day, read as if its zone had no changes of clocks.
    Civil(Box<cronexpr::Crontab>, jiff::tz::TimeZone),
}

impl Schedule {
    /// Checks expression and zone.
    ///
    /// # Errors
    /// [`ScheduleError`] names the part that is wrong.
    pub fn check(&self) -> Result<Checked, ScheduleError> {
        Ok(Checked(match self {
            Self::At(instant) => Inner::At(*instant),
            Self::Every(span) if span.0 < 1_000 => return Err(ScheduleError::TooShort(*span)),
            Self::Every(span) => Inner::Every(*span),
            Self::Cron { expression, zone } => check_cron(expression, zone)?,
        }))
    }
}

fn check_cron(expression: &str, zone: &str) -> Result<Inner, ScheduleError> {
    let wrong = |why: String| ScheduleError::Cron {
        expression: expression.to_owned(),
        why,
    };
    if expression.len() > 256 || expression.split_whitespace().count() != 5 {
        return Err(wrong("five fields are needed".to_owned()));
    }
    let known = (!zone.contains(char::is_whitespace)).then(|| jiff::tz::TimeZone::get(zone).ok());
    let Some(known) = known.flatten() else {
        return Err(ScheduleError::Zone(zone.to_owned()));
    };
    let read = |zone: &str| {
        let crontab = cronexpr::Crontab::from_str(&format!("{expression} {zone}"));
        crontab.map(Box::new).map_err(|error| wrong(error.to_string()))
    };
    // As crond has it: with `*` for the hour, intervals are meant, else times of the day.
    let hour = expression.split_whitespace().nth(1);
    Ok(if hour.is_some_and(|hour| hour.starts_with('*')) {
        Inner::Cron(read(zone)?)
    } else {
        Inner::Civil(read("UTC")?, known)
    })
}

impl Checked {
    /// The first occurrence after `instant`, for an object born at `born`; none when there is no more.
    #[must_use]
    pub fn next_after(&self, instant: Timestamp, born: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Inner::At(due) => Some(*due).filter(|due| *due > instant),
            Inner::Every(span) => {
                let periods = instant.since(born).0.max(0).div_euclid(span.0).checked_add(1)?;
                periods
                    .checked_mul(span.0)
                    .map(|passed| born.saturating_add(Span(passed)))
            }
            Inner::Cron(crontab) => {
                let from = jiff::Timestamp::from_millisecond(instant.0).ok()?;
                let next = crontab.find_next(from).ok()?;
                Some(Timestamp(next.timestamp().as_millisecond()))
            }
            Inner::Civil(crontab, zone) => next_civil(crontab, zone, instant),
        }
    }
}

/// Times of the day that a change of clocks repeats at most: each minute of two hours.
const MAX_REPEATED: usize = 120;

/// The first instant after `instant` that a clock in `zone` shows such a time: one that is skipped comes when the clocks have
/// gone on, one that is repeated the first time only.
fn next_civil(
    crontab: &cronexpr::Crontab,
    zone: &jiff::tz::TimeZone,
    instant: Timestamp,
) -> Option<Timestamp> {
    let utc = jiff::tz::TimeZone::UTC;
    let mut shown = zone.to_datetime(jiff::Timestamp::from_millisecond(instant.0).ok()?);
    for _ in 0..=MAX_REPEATED {
        let from = utc.to_timestamp(shown).ok()?;
        shown = utc.to_datetime(crontab.find_next(from).ok()?.timestamp());
        let ambiguous = zone.to_ambiguous_timestamp(shown);
        let next = match ambiguous.offset() {
            jiff::tz::AmbiguousOffset::Gap { before, .. } => {
                // As the clock before the change would show it; the change is the last one until then.
                let late = before.to_timestamp(shown).ok()?;
                zone.preceding(late.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?)
                    .next()?
                    .timestamp()
            }
            _ => ambiguous.earlier().ok()?,
        };
        let next = Timestamp(next.as_millisecond());
        // In a repeated hour the clock shows again what has been.
        if next > instant {
            return Some(next);
        }
    }
    None
}

/// Occurrences of one timer that are due now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Occurrences to fire, oldest first; empty when all are skipped.
    pub fire: Vec<Timestamp>,
    /// Occurrences that came due and do not fire.
    pub missed: u64,
    /// What to record as the latest occurrence dealt with.
    pub up_to: Timestamp,
}

/// Timers of a bundle, checked and ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Timers(Vec<(Name, Checked, Missed)>);

/// What the timers of an object want now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    /// Timers with occurrences that came due, by name.
    pub due: Vec<(Name, Due)>,
    /// The next instant at which one comes due.
    pub next: Option<Timestamp>,
}

impl Timers {
    /// Checks all schedules.
    ///
    /// # Errors
    /// The first schedule that cannot be used; a decoded manifest has none.
    pub fn new(timers: &BTreeMap<Name, Timer>) -> Result<Self, ScheduleError> {
        let check =
            |(name, timer): (&Name, &Timer)| Ok((name.clone(), timer.schedule.check()?, timer.missed));
        timers.iter().map(check).collect::<Result<_, _>>().map(Self)
    }

    /// What is due at `now` and what comes next, for an object born at `born` that has dealt with `fired`.
    #[must_use]
    pub fn pending(&self, fired: &BTreeMap<Name, Timestamp>, born: Timestamp, now: Timestamp) -> Pending {
        let mut pending = Pending::default();
        for (name, schedule, missed) in &self.0 {
            let done = fired.get(name).copied().unwrap_or(born);
            if let Some(due) = due(schedule, *missed, done, born, now) {
                pending.due.push((name.clone(), due));
            }
            let next = schedule.next_after(now.max(done), born);
            pending.next = [pending.next, next].into_iter().flatten().min();
        }
        pending
    }
}

/// How late an occurrence may be and still count as on time under [`Missed::Skip`].
pub const ON_TIME: Span = Span(60_000);

/// What is due at `now`, where `done` is the latest occurrence dealt with (or the birth of the object).
#[must_use]
pub fn due(
    schedule: &Checked,
    missed: Missed,
    done: Timestamp,
    born: Timestamp,
    now: Timestamp,
) -> Option<Due> {
    let mut all = Vec::new();
    let mut count = 0u64;
    let mut last = done;
    while let Some(next) = schedule.next_after(last, born).filter(|next| *next <= now) {
        count += 1;
        last = next;
        if all.len() == MAX_CATCH_UP {
            all.remove(0);
        }
        all.push(next);
        // An interval of a second missed for a year is 31 million steps: jump to the end, counting by division.
        if all.len() == MAX_CATCH_UP
            && let Some((jump, skipped)) = jump(schedule, last, born, now)
        {
            last = jump;
            count = count.saturating_add(skipped);
        }
    }
    let latest = *all.last()?;
    let fire = match missed {
        Missed::All => all,
        Missed::Once => vec![latest],
        Missed::Skip if now.since(latest) <= ON_TIME => vec![latest],
        Missed::Skip => Vec::new(),
    };
    let fired = u64::try_from(fire.len()).unwrap_or(u64::MAX);
    Some(Due {
        missed: count.saturating_sub(fired),
        up_to: latest,
        fire,
    })
}

/// For an interval, the occurrence [`MAX_CATCH_UP`] before the last one due, and how many lie between. A cron
/// expression has at most one occurrence a minute, so that a walk of years stays within seconds; it too is cut by
/// starting again [`MAX_CATCH_UP`] minutes before now.
fn jump(schedule: &Checked, last: Timestamp, born: Timestamp, now: Timestamp) -> Option<(Timestamp, u64)> {
    let step = match &schedule.0 {
        Inner::Every(span) => span.0,
        Inner::Cron(_) | Inner::Civil(..) => 60_000,
        Inner::At(_) => return None,
    };
    let room = i64::try_from(MAX_CATCH_UP).ok()?.checked_mul(step)?;
    let target = Timestamp(now.0.checked_sub(room)?);
    if target <= last {
        return None;
    }
    match &schedule.0 {
        Inner::Every(span) => {
            let aligned = born.0 + target.since(born).0.div_euclid(span.0) * span.0;
            let skipped = u64::try_from((aligned - last.0) / span.0).ok()?;
            Some((Timestamp(aligned), skipped))
        }
        _ => Some((target, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron(expression: &str, zone: &str) -> Result<Checked, ScheduleError> {
        Schedule::Cron {
            expression: expression.into(),
            zone: zone.into(),
        }
        .check()
    }

    // proves D2
    #[test]
    fn cron_follows_the_civil_time_of_its_zone_across_a_change_of_clocks() {
        let nine = cron("0 9 * * *", "Europe/Berlin").unwrap();
        let born = at("2026-01-01T00:00:00Z");
        assert_eq!(
            nine.next_after(at("2026-03-28T12:00:00Z"), born),
            Some(at("2026-03-29T07:00:00Z"))
        );
        assert_eq!(
            nine.next_after(at("2026-03-27T12:00:00Z"), born),
            Some(at("2026-03-28T08:00:00Z"))
        );
    }

    /// All that fires from one instant to another.
    fn fires(expression: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let schedule = cron(expression, zone).unwrap();
        let (mut last, to) = (at(from), at(to));
        let mut fired = Vec::new();
        while let Some(next) = schedule.next_after(last, at(from)).filter(|next| *next <= to) {
            fired.push(next.to_string());
            last = next;
        }
        fired
    }

    // proves D7
    #[test]
    fn a_time_that_a_change_of_clocks_skips_comes_right_after_and_one_that_it_repeats_once() {
        let check = |expression: &str, zone: &str, from: &str, to: &str, expect: &[&str]| {
            let expect: Vec<_> = expect.iter().map(|text| at(text).to_string()).collect();
            assert_eq!(fires(expression, zone, from, to), expect, "{expression} {zone}");
        };
        let york = "America/New_York";
        let spring = ("2027-03-13T00:00:00Z", "2027-03-15T12:00:00Z");
        let times = [
            "2027-03-13T07:30:00Z",
            "2027-03-14T07:00:00Z",
            "2027-03-15T06:30:00Z",
        ];
        check("30 2 * * *", york, spring.0, spring.1, &times);
        // All minutes of the skipped hour come as one.
        let night = ("2027-03-14T05:00:00Z", "2027-03-14T12:00:00Z");
        check("*/15 2 * * *", york, night.0, night.1, &["2027-03-14T07:00:00Z"]);
        check("0 3 * * *", york, night.0, night.1, &["2027-03-14T07:00:00Z"]);
        let autumn = ("2027-11-06T12:00:00Z", "2027-11-08T12:00:00Z");
        check(
            "30 1 * * *",
            york,
            autumn.0,
            autumn.1,
            &["2027-11-07T05:30:00Z", "2027-11-08T06:30:00Z"],
        );
        let berlin = ("2027-03-27T12:00:00Z", "2027-03-28T12:00:00Z");
        check(
            "0 3 * * *",
            "Europe/Berlin",
            berlin.0,
            berlin.1,
            &["2027-03-28T01:00:00Z"],
        );
        // From within the second pass of the repeated hour.
        let again = ("2027-11-07T06:10:00Z", "2027-11-07T12:00:00Z");
        check("* 1 * * *", york, again.0, again.1, &[]);
    }

    // proves D7
    #[test]
    fn intervals_are_of_elapsed_time_whatever_the_clocks_do() {
        let york = "America/New_York";
        for (from, to) in [
            ("2027-03-14T04:07:00Z", "2027-03-14T10:07:00Z"),
            ("2027-11-07T03:07:00Z", "2027-11-07T09:07:00Z"),
        ] {
            assert_eq!(fires("*/15 * * * *", york, from, to).len(), 24, "{from}");
            assert_eq!(fires("15 * * * *", york, from, to).len(), 6, "{from}");
        }
    }

    // proves D7
    #[test]
    fn over_a_change_of_clocks_what_was_missed_fires_as_declared() {
        let daily = cron("30 2 * * *", "America/New_York").unwrap();
        let (born, now) = (at("2027-03-13T00:00:00Z"), at("2027-03-14T07:00:30Z"));
        let fire = |missed| due(&daily, missed, born, born, now).unwrap().fire.len();
        assert_eq!(
            (fire(Missed::Once), fire(Missed::All), fire(Missed::Skip)),
            (1, 2, 1)
        );
    }

    // proves D2
    #[test]
    fn what_came_due_while_nobody_ran_fires_once_all_or_not_at_all() {
        let hourly = Schedule::Every(Span(HOUR)).check().unwrap();
        let (born, now) = (Timestamp(0), Timestamp(3 * HOUR + 10 * 60_000));
        let run = |missed| due(&hourly, missed, born, born, now).unwrap();
        assert_eq!(
            run(Missed::Once),
            Due {
                fire: vec![Timestamp(3 * HOUR)],
                missed: 2,
                up_to: Timestamp(3 * HOUR)
            }
        );
        assert_eq!(run(Missed::All).fire.len(), 3);
        assert_eq!(
            run(Missed::Skip),
            Due {
                fire: vec![],
                missed: 3,
                up_to: Timestamp(3 * HOUR)
            }
        );
    }

    // proves D2
    #[test]
    fn a_clock_that_steps_back_never_fires_an_occurrence_twice() {
        let hourly = Schedule::Every(Span(HOUR)).check().unwrap();
        let first = due(&hourly, Missed::Once, Timestamp(0), Timestamp(0), Timestamp(HOUR)).unwrap();
        assert_eq!(
            due(
                &hourly,
                Missed::Once,
                first.up_to,
                Timestamp(0),
                Timestamp(HOUR / 2)
            ),
            None
        );
        assert_eq!(
            due(&hourly, Missed::Once, first.up_to, Timestamp(0), Timestamp(HOUR)),
            None
        );
        assert!(
            due(
                &hourly,
                Missed::Once,
                first.up_to,
                Timestamp(0),
                Timestamp(2 * HOUR)
            )
            .is_some()
        );
    }

    #[test]
    fn years_of_missed_seconds_are_bounded_work() {
        let often = Schedule::Every(Span(1_000)).check().unwrap();
        let now = Timestamp(5 * 365 * 24 * HOUR);
        let all = due(&often, Missed::All, Timestamp(0), Timestamp(0), now).unwrap();
        assert_eq!((all.fire.len(), all.up_to), (MAX_CATCH_UP, now));
        assert_eq!(all.missed + MAX_CATCH_UP as u64, 5 * 365 * 24 * 3_600);
    }

    #[test]
    fn an_instant_fires_once() {
        let once = Schedule::At(Timestamp(5)).check().unwrap();
        assert_eq!(
            due(&once, Missed::Once, Timestamp(0), Timestamp(0), Timestamp(4)),
            None
        );
        assert!(due(&once, Missed::Once, Timestamp(0), Timestamp(0), Timestamp(9)).is_some());
        assert_eq!(
            due(&once, Missed::Once, Timestamp(5), Timestamp(0), Timestamp(9)),
            None
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_part_that_is_wrong() {
        assert!(matches!(cron("0 9 * *", "UTC"), Err(ScheduleError::Cron { .. })));
        assert!(matches!(
            cron("61 9 * * *", "UTC"),
            Err(ScheduleError::Cron { .. })
        ));
        assert!(matches!(
            cron("0 9 * * *", "Mars/Base"),
            Err(ScheduleError::Zone(_))
        ));
        assert!(matches!(cron("0 9 * * *", "UTC x"), Err(ScheduleError::Zone(_))));
        assert!(matches!(
            Schedule::Every(Span(10)).check(),
            Err(ScheduleError::TooShort(_))
        ));
    }
}
