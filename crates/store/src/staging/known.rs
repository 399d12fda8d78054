//! The history that a directory holds already, beside the one that comes.

use suijuris_core::lineage::Stored;

use super::fault::StagingError;
use crate::lineage_reader::{Step, Walk};
use crate::object_dir::{ObjectDir, OpenError};

/// The records that are there already, walked beside those that come.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    object_dir: &'a ObjectDir,
    walk: Option<Walk<'a>>,
}

impl<'a> Known<'a> {
    /// The records in `object_dir`, if there are any.
    pub(super) fn of(object_dir: &'a ObjectDir, any: bool) -> Result<Self, OpenError> {
        let walk = if any {
            Some(Walk::from_start(object_dir)?)
        } else {
            None
        };
        Ok(Self { object_dir, walk })
    }

    /// The record that is there in the place of `stored` must be the same.
    pub(super) fn compare(&mut self, stored: &Stored) -> Result<(), StagingError> {
        let Some(walk) = &mut self.walk else { return Ok(()) };
        let dir = || self.object_dir.path().to_owned();
        match walk.step()? {
            Step::Record(_, there) if there.id == stored.id => Ok(()),
            Step::Record(_, there) if stored.record.seq == 0 => Err(StagingError::OtherObject {
                dir: dir(),
                there: there.id.into(),
            }),
            _ => Err(StagingError::Diverged {
                dir: dir(),
                seq: stored.record.seq,
            }),
        }
    }
}
