//! Files of a store: written whole, synced, locked.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ImageStore, StoreError, disk};

/// A lock of the whole store; ends when dropped.
#[derive(Debug)]
pub(super) struct StoreLock {
    _file: File,
}

impl ImageStore {
    /// Beside others of its kind: what is registered or written now is seen by whoever comes alone later.
    pub(super) fn lock_shared(&self) -> Result<StoreLock, StoreError> {
        self.lock(File::lock_shared)
    }

    /// Without any other.
    pub(super) fn lock_alone(&self) -> Result<StoreLock, StoreError> {
        self.lock(File::lock)
    }

    /// Waits; everybody holds it for a few small files only.
    fn lock(&self, how: impl Fn(&File) -> io::Result<()>) -> Result<StoreLock, StoreError> {
        let path = self.at("lock");
        let file = open_or_create(&path).map_err(disk(&path))?;
        loop {
            match how(&file) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    done.map_err(disk(&path))?;
                    return Ok(StoreLock { _file: file });
                }
            }
        }
    }
}

pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// A file with its lock, or none where another one has it. Another may have unlinked it while we waited, so that what is
/// locked must still be what stands there.
pub(super) fn try_own(path: &Path) -> Result<Option<File>, StoreError> {
    let file = open_or_create(path).map_err(disk(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(disk(path)(error)),
    }
    let ours = file.metadata().map_err(disk(path))?;
    match fs::symlink_metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(Some(file)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(path)(error)),
        _ => Ok(None),
    }
}

/// Whether the lock of an existing file is free, so that whoever made it is gone.
pub(super) fn is_abandoned(path: &Path) -> Result<bool, StoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file.map_err(disk(path))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(disk(path)(error)),
    }
}

/// The files and directories in a directory.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(disk(dir))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(disk(dir)))
        .collect()
}

pub(super) fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| disk(path)(error.into()))
}

/// Writes a file so that it is there whole and durable or not at all. It is made in `dir`, which is in the same file system.
pub(super) fn write(dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut stage = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(dir)
        .map_err(disk(dir))?;
    stage.write_all(bytes).map_err(disk(path))?;
    stage.as_file().sync_all().map_err(disk(path))?;
    stage.persist(path).map_err(|error| disk(path)(error.error))?;
    path.parent().map_or(Ok(()), sync_dir)
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(disk(dir))
}

/// Removes a file, and is content where there is none.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(path)(error)),
        _ => Ok(()),
    }
}
