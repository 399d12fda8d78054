//! The log, a page at a time.

use std::collections::VecDeque;

use suijuris_api::history::{KINDS, Log};
use suijuris_core::lineage::Stored;
use suijuris_store::Reader;

use super::{HistoryError, words};

/// Records of a page at most.
pub const MAX_PAGE: usize = 1_000;

/// Records that are looked at for one page at most; a page may come back empty, and say where to go on.
const MAX_LOOKED_AT: u64 = 100_000;

/// Which records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Kinds; all where empty.
    pub kinds: Vec<String>,
    /// The first position to look at.
    pub from: u64,
    /// At most so many, [`MAX_PAGE`] at most.
    pub limit: usize,
    /// The last ones of those that there are, not the first.
    pub last: bool,
}

/// Refuses what is no kind of record.
///
/// # Errors
/// [`HistoryError::Asked`].
pub fn known(kinds: &[String]) -> Result<(), HistoryError> {
    match kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            let known = KINDS.join(", ");
            let why = format!("`{unknown}` is no kind of record; they are {known}");
            Err(HistoryError::Asked(why))
        }
    }
}

/// A page of records.
///
/// # Errors
/// [`HistoryError`].
pub fn page(reader: &Reader, wanted: &Wanted) -> Result<Log, HistoryError> {
    known(&wanted.kinds)?;
    let end = reader.state().head().seq.saturating_add(1);
    let limit = wanted.limit.clamp(1, MAX_PAGE);
    let (kept, next) = if wanted.last {
        (last(reader, wanted, limit)?, end)
    } else {
        first(reader, wanted, limit)?
    };
    let records = kept.iter().map(words::record).collect::<Result<_, _>>()?;
    Ok(Log {
        records,
        next,
        more: next < end,
    })
}

fn is_wanted(wanted: &Wanted, stored: &Stored) -> bool {
    wanted.kinds.is_empty() || wanted.kinds.iter().any(|kind| kind == stored.record.body.kind())
}

fn first(reader: &Reader, wanted: &Wanted, limit: usize) -> Result<(VecDeque<Stored>, u64), HistoryError> {
    let mut kept = VecDeque::new();
    let mut next = wanted.from;
    let until = wanted.from.saturating_add(MAX_LOOKED_AT);
    for stored in reader.records(wanted.from..until)? {
        if kept.len() >= limit {
            break;
        }
        let stored = stored?;
        next = stored.record.seq.saturating_add(1);
        if is_wanted(wanted, &stored) {
            kept.push_back(stored);
        }
    }
    Ok((kept, next))
}

fn last(reader: &Reader, wanted: &Wanted, limit: usize) -> Result<VecDeque<Stored>, HistoryError> {
    let mut kept = VecDeque::new();
    for stored in reader.records(wanted.from..u64::MAX)? {
        let stored = stored?;
        if !is_wanted(wanted, &stored) {
            continue;
        }
        if kept.len() >= limit {
            kept.pop_front();
        }
        kept.push_back(stored);
    }
    Ok(kept)
}
