//! The directory in which one driver keeps its detached machines: a lock, a key, and a directory for each machine.
//!
//! ```text
//! STATE/       0700
//!   lock       held by the one driver that uses it, as long as its process lives
//!   key        0600, 32 random bytes from which every machine's secret is derived
//!   ID/        0700, see `record`
//! ```

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::keeper::random;
use super::record::RECORD;
use crate::error::ListError;
use crate::machine::MachineId;
use crate::secret::{BYTES, Bytes, Secret};

/// Why a directory cannot be used for detached machines.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another driver uses it.
    #[error("{} is in use by another process: one supervisor at a time keeps its machines there", .0.display())]
    InUse(PathBuf),
    /// Others may look into it.
    #[error("{} belongs to another user or can be read by others: make it your own, `chmod 700`", .0.display())]
    Open(PathBuf),
    /// What is in it is not what this driver writes.
    #[error("{} is damaged: stop what runs there and remove it", .0.display())]
    Damaged(PathBuf),
    /// It cannot be read or made.
    #[error("cannot use {}", place.display())]
    Io {
        /// Where.
        place: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The directory, in use.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    key: Secret,
    /// Machines that have a handle or are being started: nobody else may take them over.
    held: Arc<Mutex<BTreeSet<MachineId>>>,
    /// Locked as long as it is open.
    _lock: File,
}

/// The right to one machine's directory within this process. Dropped while the machine's end is known, or before it
/// came to be, it takes the directory along.
#[derive(Debug)]
pub(super) struct Slot {
    id: MachineId,
    path: PathBuf,
    held: Arc<Mutex<BTreeSet<MachineId>>>,
    /// Whether nothing is to be left of the directory.
    pub(super) is_over: bool,
}

impl StateDir {
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Io {
            place: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        let path = fs::canonicalize(path).map_err(io)?;
        let metadata = fs::metadata(&path).map_err(io)?;
        let own = metadata.uid() == nix::unistd::geteuid().as_raw();
        if !own || metadata.permissions().mode() & 0o077 != 0 {
            return Err(StateError::Open(path));
        }
        let lock = private(&path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StateError::InUse(path)),
            Err(fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        let key = key(&path)
            .map_err(io)?
            .ok_or_else(|| StateError::Damaged(path.join("key")))?;
        let state = Self {
            path,
            key,
            held: Arc::default(),
            _lock: lock,
        };
        state.sweep();
        Ok(state)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The secret of machine `id` with this nonce.
    pub(super) fn secret(&self, id: &MachineId, nonce: &Bytes) -> Secret {
        Secret::derive(&self.key, id, nonce)
    }

    /// Makes the directory of a new machine.
    pub(super) fn create(&self, id: &MachineId) -> io::Result<(Slot, OwnedFd)> {
        let mut place = self.hold(id).ok_or(io::ErrorKind::AlreadyExists)?;
        DirBuilder::new().mode(0o700).create(&place.path)?;
        place.is_over = true;
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&place.path)?;
        Ok((place, directory.into()))
    }

    /// The directory of a machine that nobody in this process holds.
    pub(super) fn hold(&self, id: &MachineId) -> Option<Slot> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(id.clone()).then(|| Slot {
            id: id.clone(),
            path: self.path.join(id.as_str()),
            held: Arc::clone(&self.held),
            is_over: false,
        })
    }

    /// The machines that are written down.
    pub(super) fn list(&self) -> Result<Vec<MachineId>, ListError> {
        let failed = |source| ListError {
            place: self.path.clone(),
            source,
        };
        let mut found: Vec<MachineId> = fs::read_dir(&self.path)
            .map_err(failed)?
            .flatten()
            .filter(|entry| entry.path().join(RECORD).exists())
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        found.sort();
        Ok(found)
    }

    /// Removes what was left by starts that their driver did not survive: directories without a record.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_machine = name
                .to_str()
                .is_some_and(|name| name.parse::<MachineId>().is_ok());
            let path = entry.path();
            if is_machine && path.is_dir() && !path.join(RECORD).exists() {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

impl Slot {
    /// The machine's directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_over {
            let _ = fs::remove_dir_all(&self.path);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.id);
    }
}

/// A file that only its owner reads, made if missing.
fn private(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// The key in `dir`, made if there is none; `None` if it is damaged. Called with the lock held.
fn key(dir: &Path) -> io::Result<Option<Secret>> {
    let path = dir.join("key");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let new = random()?;
            let draft = dir.join("key.new");
            private(&draft)?.write_all(&new)?;
            fs::rename(draft, path)?;
            return Ok(Some(Secret::from(new)));
        }
        Err(error) => return Err(error),
    };
    Ok(Bytes::try_from(bytes).ok().map(Secret::from))
}
