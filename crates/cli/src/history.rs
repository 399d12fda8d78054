//! An object's recorded past: opening it without its lock, following it. What is asked of it answers
//! `suijuris_supervisor::history`.
//!
//! Reading never changes a file, never takes the lock and never wakes anything.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use suijuris_store::{OpenError, Reader};

use crate::object_paths::ObjectPaths;

/// Time between two looks of who follows.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The object as it stands, read from its last checkpoint on.
pub(crate) fn open(place: &ObjectPaths) -> Result<Reader, OpenError> {
    suijuris_supervisor::history::open(&place.home())
}

/// Waits for records that are not there yet.
#[derive(Debug)]
pub(crate) struct Follow {
    lineage: PathBuf,
    seen: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Follow {
    /// Everything up to now counts as seen. Take it before opening a reader, so that nothing falls between.
    pub(crate) fn new(place: &ObjectPaths) -> Self {
        let lineage = place.data.join("lineage");
        Self {
            seen: files(&lineage),
            lineage,
        }
    }

    /// Returns when something was written.
    pub(crate) fn wait(&mut self) {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = files(&self.lineage);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

fn files(lineage: &std::path::Path) -> Vec<(PathBuf, Option<SystemTime>)> {
    let entries = std::fs::read_dir(lineage).into_iter().flatten().flatten();
    let changed = |entry: &std::fs::DirEntry| entry.metadata().and_then(|data| data.modified()).ok();
    let mut files: Vec<_> = entries.map(|entry| (entry.path(), changed(&entry))).collect();
    files.sort();
    files
}
