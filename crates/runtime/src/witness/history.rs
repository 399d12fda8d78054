//! Looking into the object's own history for a record that was witnessed.

use suijuris_core::RecordId;
use suijuris_store::{Depth, Home, Reader};

use crate::report::chain;

/// The history of an object, on a disk.
pub trait History: Send + Sync {
    /// Whether record `record` stands at position `seq`. May block.
    ///
    /// # Errors
    /// Why the history cannot be read, in words.
    fn holds(&self, seq: u64, record: &RecordId) -> Result<bool, String>;
}

impl History for Home {
    fn holds(&self, seq: u64, record: &RecordId) -> Result<bool, String> {
        let look = || {
            let reader = Reader::open(self, Depth::Tail)?;
            let found = reader.records(seq..seq.saturating_add(1))?.next().transpose()?;
            Ok(found.is_some_and(|stored| stored.id == *record))
        };
        look().map_err(|error: suijuris_store::OpenError| chain(&error))
    }
}
