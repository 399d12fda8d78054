//! Names of lineage segments: their first and last position. Called by the backends.

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

#[cfg(test)]
mod tests {
    use super::*;

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
