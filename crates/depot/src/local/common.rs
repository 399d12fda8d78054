//! One locked file for all objects that rest with this process, so that each needs no descriptor of its own.
//!
//! The file of each of their holders is a link to it: whoever tries that file's lock tries this one's. So readers see no
//! difference, and the kernel ends all of these presences with the process. A machine inherits none of them: before one is
//! lent, its holder gets a locked file of its own again, put in the place of the link in one step, as the link was before.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use suijuris_core::ObjectId;
use suijuris_core::witness::HolderId;

use super::files::Files;
use super::holders::{Held, is_at, try_shared};
use super::layout;
use crate::{Error, PresenceGuard};

/// Files of processes that are looked at, to remove those of dead ones.
const MAX_PROCESSES: usize = 10_000;

/// The locked file of this process, made when the first object rests.
#[derive(Debug, Default)]
pub(crate) struct Commons(Mutex<Option<Arc<Common>>>);

#[derive(Debug)]
struct Common {
    files: Files,
    path: PathBuf,
    /// Locked as long as it is open.
    file: File,
}

impl Drop for Common {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A presence that rests on the common file.
#[derive(Debug)]
pub(crate) struct InCommon {
    common: Arc<Common>,
    path: PathBuf,
    /// Not before whoever asked for it has it: until then it goes on, whatever becomes of the question.
    ends_with_this: AtomicBool,
}

impl PresenceGuard for InCommon {
    fn is_shared(&self) -> bool {
        true
    }
}

impl InCommon {
    /// Whoever asked has it: it ends when this is dropped.
    pub(crate) fn delivered(self) -> Self {
        self.ends_with_this.store(true, Ordering::Relaxed);
        self
    }
}

impl Drop for InCommon {
    fn drop(&mut self) {
        // It may have got a file of its own, or another name.
        if self.ends_with_this.load(Ordering::Relaxed) && is_at(&self.common.file, &self.path) {
            let _ = self.common.files.replace(&self.path, b"");
        }
    }
}

/// A locked file of its own for one that rested; in common again if nobody takes it.
#[derive(Debug)]
pub(crate) struct Parted {
    own: Option<Held>,
    common: Arc<Common>,
    path: PathBuf,
    lock: PathBuf,
}

impl Parted {
    /// Whoever asked has it.
    pub(crate) fn delivered(mut self) -> Option<Held> {
        self.own.take()
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        let Some(Held(own)) = &self.own else { return };
        let files = &self.common.files;
        let _lock = files.lock(&self.lock);
        if is_at(own, &self.path) {
            let _ = files.link_over(&self.common.path, &self.path);
        }
    }
}

impl Common {
    fn make(files: &Files) -> Result<Self, Error> {
        let directory = files.root.join(layout::PROCESSES);
        files.directory(&directory)?;
        for name in files.names(&directory, MAX_PROCESSES)? {
            // One that is there was locked before it came there: its process is dead.
            let path = directory.join(name);
            if try_shared(files, &path)? == Some(true) {
                let _ = fs::remove_file(path);
            }
        }
        let draft = files.draft(b"")?;
        let file = files.lock(draft.path())?;
        let path = directory.join(draft.path().file_name().unwrap_or_default());
        files.place_draft(&draft, &path)?;
        Ok(Self {
            files: files.clone(),
            path,
            file,
        })
    }
}

impl Commons {
    /// The common file; another than `full`, which takes no more links.
    fn common(&self, files: &Files, full: Option<&Arc<Common>>) -> Result<Arc<Common>, Error> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(common) = &*slot
            && full.is_none_or(|full| !Arc::ptr_eq(full, common))
        {
            return Ok(Arc::clone(common));
        }
        let common = Arc::new(Common::make(files)?);
        *slot = Some(Arc::clone(&common));
        Ok(common)
    }

    /// Lets the presence of `holder` rest on the common file; nothing where the file system has no links.
    pub(crate) fn share(
        &self,
        files: &Files,
        object: ObjectId,
        holder: HolderId,
    ) -> Result<Option<InCommon>, Error> {
        let path = layout::holder(&files.root, object, holder);
        let _lock = files.lock(&layout::home(&files.root, object).join(layout::LOCK))?;
        let mut full = None;
        loop {
            let common = self.common(files, full.as_ref())?;
            match files.link_over(&common.path, &path) {
                Ok(()) => {
                    return Ok(Some(InCommon {
                        common,
                        path,
                        ends_with_this: AtomicBool::new(false),
                    }));
                }
                // Most file systems give a file some 65,000 links.
                Err(error) if error.kind() == ErrorKind::TooManyLinks && full.is_none() => {
                    full = Some(common);
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Gives the presence of `holder` a locked file of its own.
    pub(crate) fn part(&self, files: &Files, object: ObjectId, holder: HolderId) -> Result<Parted, Error> {
        let common = self.common(files, None)?;
        let path = layout::holder(&files.root, object, holder);
        let lock = layout::home(&files.root, object).join(layout::LOCK);
        let _lock = files.lock(&lock)?;
        let draft = files.draft(b"")?;
        let own = Held(files.lock(draft.path())?);
        // No sync: a presence lasts no longer than the system runs, and after this nothing may fail.
        files.rename_unsynced(draft.path(), &path)?;
        Ok(Parted {
            own: Some(own),
            common,
            path,
            lock,
        })
    }
}
