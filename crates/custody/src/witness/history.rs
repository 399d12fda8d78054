//! Looking into the object's own history for a record that was witnessed.

use suijuris_core::RecordId;
use suijuris_core::lineage::Body;
use suijuris_store::{Depth, ObjectDir, Reader};

use crate::chain;

/// The history of an object, on a disk.
pub trait History: Send + Sync {
    /// Whether record `record` stands at position `seq`, or the object's controllers gave it up for this history with a
    /// `restored` record. May block; where the record does not stand there the whole history is read.
    ///
    /// # Errors
    /// Why the history cannot be read, in words.
    fn holds(&self, seq: u64, record: &RecordId) -> Result<bool, String>;
}

impl History for ObjectDir {
    fn holds(&self, seq: u64, record: &RecordId) -> Result<bool, String> {
        let look = || {
            let reader = Reader::open(self, Depth::Tail)?;
            let found = reader.records(seq..seq.saturating_add(1))?.next().transpose()?;
            if found.is_some_and(|stored| stored.id == *record) {
                return Ok(true);
            }
            // Only a copy that would be refused pays for this.
            for stored in reader.records(0..u64::MAX)? {
                if let Body::Restored(body) = &stored?.record.body
                    && (body.seq, &body.abandoned) == (seq, record)
                {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        look().map_err(|error: suijuris_store::OpenError| chain(&error))
    }
}
