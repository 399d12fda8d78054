//! Counters: numbers that are only added to, and that begin anew by the clock.
//!
//! Windows follow the clock from 1970-01-01T00:00Z, whatever the object does: one of `24h` begins at midnight UTC, one of
//! `1h` at the full hour. So a cell is what any other is, a number and the instant of its last write, and what it counts now
//! follows from both; nothing has to happen for a counter to begin anew.

use super::cells::Cell;
use super::schema::SchemaError;
use super::value::Value;
use crate::time::{Span, Timestamp};

/// The shortest window.
const MIN_WINDOW: Span = Span(1_000);

/// The longest window: a leap year.
const MAX_WINDOW: Span = Span(366 * 86_400_000);

pub(super) fn check(window: Span) -> Result<(), SchemaError> {
    if (MIN_WINDOW..=MAX_WINDOW).contains(&window) {
        Ok(())
    } else {
        Err(SchemaError::CounterWindow)
    }
}

/// Which window of this length an instant lies in.
const fn index(window: Span, at: Timestamp) -> Option<i64> {
    at.0.checked_div_euclid(window.0)
}

/// What a cell counts at `now`: what was added in the window that `now` lies in.
pub(super) fn count(window: Span, cell: &Cell, now: Timestamp) -> i64 {
    match (&cell.value, cell.as_of) {
        (Some(Value::Int(count)), Some(at)) if index(window, at) == index(window, now) => *count,
        _ => 0,
    }
}

/// When a cell that counts something at `now` begins anew.
pub(super) fn reset(window: Span, cell: &Cell, now: Timestamp) -> Option<Timestamp> {
    let next = index(window, now)?.checked_add(1)?.checked_mul(window.0)?;
    (count(window, cell, now) != 0).then_some(Timestamp(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Span = Span(86_400_000);

    fn cell(count: i64, at: i64) -> Cell {
        Cell {
            value: Some(Value::Int(count)),
            as_of: Some(Timestamp(at)),
        }
    }

    #[test]
    fn a_counter_counts_within_its_window_and_begins_anew_with_the_next() {
        let check =
            |at, now, expect| assert_eq!(count(DAY, &cell(7, at), Timestamp(now)), expect, "{at} {now}");
        check(0, 0, 7);
        check(0, DAY.0 - 1, 7);
        check(0, DAY.0, 0);
        check(DAY.0 - 1, DAY.0, 0);
        check(-1, 0, 0);
        check(-DAY.0, -1, 7);
        check(i64::MAX, i64::MAX, 7);
        check(i64::MIN, i64::MAX, 0);
        assert_eq!(count(DAY, &Cell::default(), Timestamp(0)), 0);
        let reset_of = |count, now| reset(DAY, &cell(count, 0), Timestamp(now));
        assert_eq!(reset_of(7, 5), Some(Timestamp(DAY.0)));
        assert_eq!(reset_of(0, 5), None);
        assert_eq!(reset_of(7, DAY.0), None);
        assert_eq!(reset(DAY, &cell(7, i64::MAX), Timestamp(i64::MAX)), None);
    }

    #[test]
    fn windows_have_bounds() {
        for (ms, fine) in [
            (999, false),
            (1_000, true),
            (MAX_WINDOW.0, true),
            (MAX_WINDOW.0 + 1, false),
            (-5, false),
        ] {
            assert_eq!(check(Span(ms)).is_ok(), fine, "{ms}");
        }
    }
}
