//! The history that a directory holds already, beside the one that comes.

use suijuris_core::lineage::Stored;

use super::fault::LandingError;
use crate::chain::{Step, Walk};
use crate::home::{Home, OpenError};

/// The records that are there already, walked beside those that come.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    home: &'a Home,
    walk: Option<Walk<'a>>,
}

impl<'a> Known<'a> {
    /// The records in `home`, if there are any.
    pub(super) fn of(home: &'a Home, any: bool) -> Result<Self, OpenError> {
        let walk = if any { Some(Walk::from_start(home)?) } else { None };
        Ok(Self { home, walk })
    }

    /// The record that is there in the place of `stored` must be the same.
    pub(super) fn compare(&mut self, stored: &Stored) -> Result<(), LandingError> {
        let Some(walk) = &mut self.walk else { return Ok(()) };
        let dir = || self.home.path().to_owned();
        match walk.step()? {
            Step::Record(_, there) if there.id == stored.id => Ok(()),
            Step::Record(_, there) if stored.record.seq == 0 => Err(LandingError::OtherObject {
                dir: dir(),
                there: there.id.into(),
            }),
            _ => Err(LandingError::Diverged {
                dir: dir(),
                seq: stored.record.seq,
            }),
        }
    }
}
