//! Names of lineage segments: their first and last position. Called by the backends.

use std::cmp::Reverse;
use std::ops::RangeInclusive;

use crate::Error;

/// Segments of one object at most; more are taken for garbage.
pub(crate) const MAX_SEGMENTS: usize = 100_000;

/// Refuses positions that are none.
pub(crate) fn check(positions: &RangeInclusive<u64>) -> Result<(), Error> {
    if positions.is_empty() {
        let why = format!(
            "a segment from record {} to record {} holds nothing",
            positions.start(),
            positions.end()
        );
        return Err(Error::NotAllowed(why));
    }
    Ok(())
}

/// As in `00000000000000000000-00000000000000000041`, which sorts as the positions do.
pub(crate) fn name(positions: &RangeInclusive<u64>) -> String {
    format!("{:020}-{:020}", positions.start(), positions.end())
}

/// Reads [`name`] back.
pub(crate) fn parse(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-')?;
    let positions = first.parse().ok()?..=last.parse().ok()?;
    (!positions.is_empty() && name(&positions) == text).then_some(positions)
}

/// The segments, of those in a depot, that lead from record 0 on, one behind the other. Where several begin at the same
/// record the longest counts, and those that it covers do not: a longer one takes the place of several while they are
/// still there.
///
/// # Errors
/// The first position that no segment holds although a later one is held.
pub fn row(segments: &[RangeInclusive<u64>]) -> Result<Vec<RangeInclusive<u64>>, u64> {
    let mut sorted: Vec<&RangeInclusive<u64>> = segments.iter().collect();
    sorted.sort_unstable_by_key(|positions| (*positions.start(), Reverse(*positions.end())));
    let mut row: Vec<RangeInclusive<u64>> = Vec::new();
    for positions in sorted {
        let next = row.last().map_or(Some(0), |last| last.end().checked_add(1));
        match next {
            Some(next) if *positions.start() == next => row.push(positions.clone()),
            Some(next) if *positions.start() > next => return Err(next),
            // A longer one covers it, or reaches as far as there is anything.
            _ => {}
        }
    }
    let reached = row.last().map(|last| *last.end());
    let beyond = segments.iter().any(|positions| Some(*positions.end()) > reached);
    match reached.and_then(|reached| reached.checked_add(1)) {
        Some(next) if beyond => Err(next),
        _ => Ok(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_takes_the_longest_and_names_a_gap() {
        let parts = [0..=4, 0..=9, 5..=9, 10..=10];
        assert_eq!(row(&parts), Ok(vec![0..=9, 10..=10]));
        assert_eq!(row(&[]), Ok(vec![]));
        assert_eq!(row(&[1..=2]), Err(0));
        assert_eq!(row(&[0..=1, 3..=4]), Err(2));
        // Taken whole, or not at all: records of two segments never mix.
        assert_eq!(row(&[0..=4, 3..=9]), Err(5));
        assert_eq!(row(&[0..=u64::MAX]), Ok(vec![0..=u64::MAX]));
    }

    #[test]
    fn names_read_back_and_other_spellings_do_not() {
        for positions in [0..=0, 7..=41, 0..=u64::MAX] {
            assert_eq!(parse(&name(&positions)), Some(positions));
        }
        let backwards = "00000000000000000009-00000000000000000001";
        for text in ["", "1-2", backwards, "+0000000000000000001-00000000000000000002"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
