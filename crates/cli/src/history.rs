//! An object's recorded past: opening it without its lock, following it. What is asked of it answers
//! `suijuris_supervisor::history`.
//!
//! Reading never changes a file, never takes the lock and never wakes anything.

use suijuris_store::{ObjectDir, OpenError, Reader};
use suijuris_supervisor::history::follow::{self, LOOK_EVERY};

use crate::object_paths::ObjectPaths;

/// The object as it stands, read from its last checkpoint on.
pub(crate) fn open(place: &ObjectPaths) -> Result<Reader, OpenError> {
    suijuris_supervisor::history::open(&place.home())
}

/// Waits for records that are not there yet.
#[derive(Debug)]
pub(crate) struct Follow {
    home: ObjectDir,
    seen: follow::Follow,
}

impl Follow {
    /// Everything up to now counts as seen. Take it before opening a reader, so that nothing falls between.
    pub(crate) fn new(place: &ObjectPaths) -> Self {
        let home = place.home();
        Self {
            seen: follow::Follow::new(&home),
            home,
        }
    }

    /// Returns when something may have been written.
    pub(crate) fn wait(&mut self) {
        loop {
            std::thread::sleep(LOOK_EVERY);
            if self.seen.has_grown(&self.home) {
                return;
            }
        }
    }
}
