//! Following a history as it grows, and memory as it changes: for the control API, and for commands that read files.

use std::collections::BTreeMap;
use std::time::Duration;

use suijuris_api::agent::{Field, Memory};
use suijuris_api::history::MemoryChange;
use suijuris_core::lineage::Body;
use suijuris_core::time::{Ratchet, Reading};
use suijuris_store::{ObjectDir, Reader, Stamps};

use super::HistoryError;

/// Between two looks at the files of a history.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What of a history was seen, by its files.
#[derive(Debug)]
pub struct Follow {
    seen: Option<Stamps>,
    /// Something was written within one tick of the clock that files are stamped by, perhaps after it was read.
    again: bool,
}

impl Follow {
    /// Nothing was seen.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            seen: None,
            again: true,
        }
    }

    /// Everything up to now counts as seen. Take it before the first reading, so that nothing falls between.
    #[must_use]
    pub fn new(home: &ObjectDir) -> Self {
        Self {
            seen: Stamps::of(home).ok(),
            again: true,
        }
    }

    /// Whether something may have been written since it was asked last.
    pub fn has_grown(&mut self, home: &ObjectDir) -> bool {
        let now = Stamps::of(home).ok();
        let changed = now != self.seen;
        self.seen = now;
        std::mem::replace(&mut self.again, changed) || changed
    }
}

/// Memory as it stands.
#[must_use]
pub fn memory(reader: &Reader, reading: Reading) -> Memory {
    let now = Ratchet::new(reader.state().head().at).observe(reading);
    suijuris_words::memory::memory(reader.state(), now)
}

/// What was written between two looks: another value, or the same written again. Nothing where nothing was.
#[must_use]
pub fn changed(before: &Memory, now: &Memory) -> Option<MemoryChange> {
    let is_new = |(name, field): &(&String, &Field)| {
        let old = before.fields.get(*name);
        old.is_none_or(|old| old.value != field.value || old.as_of != field.as_of)
    };
    let fields = now.fields.iter().filter(is_new);
    let fields: BTreeMap<_, _> = fields
        .map(|(name, field)| (name.clone(), field.clone()))
        .collect();
    (!fields.is_empty()).then_some(MemoryChange { seq: now.seq, fields })
}

/// Fields that were written behind the record `after`, as they stand; where the definition was amended all of them.
///
/// # Errors
/// [`HistoryError`].
pub fn changed_since(
    reader: &Reader,
    after: u64,
    now: &Memory,
) -> Result<Option<MemoryChange>, HistoryError> {
    let mut fields = BTreeMap::new();
    for stored in reader.records(after.saturating_add(1)..u64::MAX)? {
        match stored?.record.body {
            Body::Mutated(mutated) => {
                let names = mutated.change.keys();
                let found = names.filter_map(|name| now.fields.get_key_value(name.as_str()));
                fields.extend(found.map(|(name, field)| (name.clone(), field.clone())));
            }
            Body::Amended(_) | Body::Inception(_) => fields = now.fields.clone(),
            _ => {}
        }
    }
    Ok((!fields.is_empty()).then_some(MemoryChange { seq: now.seq, fields }))
}
