//! Files that are whole or not there: read with a limit, replaced or created at once, durable when a call returns.
//!
//! Everything is written into `tmp` first and moved; a crash leaves the old content or the new, and at worst a file in
//! `tmp`, which is swept a day later. Called by the other files of this backend.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::{Error, frame};

/// How long a lock of an object is waited for: it is held for a few syncs, unless its holder is frozen.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// First and longest pause between two tries of a lock.
const LOCK_PAUSES: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// Files in `tmp` older than this were left by a crash.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Entries of `tmp` that one sweep looks at.
const SWEEP: usize = 1_000;

/// The directory of a depot, and how its errors are called.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) root: PathBuf,
    pub(crate) url: String,
}

/// Whether something create-only was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Created {
    New,
    Exists,
}

impl Files {
    /// What an error of reading means.
    pub(crate) fn unreadable(&self, error: io::Error) -> Error {
        Error::Unreachable(self.url.clone(), Some(error.into()))
    }

    /// What an error of writing means, where nothing has been changed yet.
    fn unwritten(&self, error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Error::Full(self.url.clone())
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Error::ReadOnly(self.url.clone(), Some(error.into()))
            }
            _ => self.unreadable(error),
        }
    }

    /// `path` as errors name it.
    pub(crate) fn place(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        format!("{}/{}", self.url, inside.display())
    }

    /// The bytes of a file of at most `max` bytes; `None` where there is none.
    pub(crate) fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.open(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(max as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.unreadable(error))?;
        if bytes.len() > max {
            let why = format!("it has more than {max} bytes");
            return Err(frame::garbage(&self.place(path), &why));
        }
        Ok(Some(bytes))
    }

    /// The first `len` bytes of a file, or all where it has less.
    pub(crate) fn read_start(&self, path: &Path, len: usize) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.open(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::with_capacity(len);
        file.take(len as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| self.unreadable(error))?;
        Ok(Some(bytes))
    }

    fn open(&self, path: &Path) -> Result<Option<File>, Error> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits())
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                return Err(frame::garbage(&self.place(path), "it is a symbolic link"));
            }
            Err(error) => return Err(self.unreadable(error)),
        };
        let metadata = file.metadata().map_err(|error| self.unreadable(error))?;
        if metadata.is_file() {
            Ok(Some(file))
        } else {
            Err(frame::garbage(&self.place(path), "it is not a file"))
        }
    }

    /// Names in a directory without those that begin with a dot, unsorted; none where there is no directory. At most
    /// `max` may be there.
    pub(crate) fn names(&self, directory: &Path, max: usize) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.each_name(directory, |name| {
            if names.len() == max {
                let why = format!("it has more than {max} entries");
                return Err(frame::garbage(&self.place(directory), &why));
            }
            names.push(name);
            Ok(())
        })?;
        Ok(names)
    }

    /// The same one by one, where there may be any number.
    pub(crate) fn each_name(
        &self,
        directory: &Path,
        mut take: impl FnMut(String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.unreadable(error)),
        };
        for entry in entries {
            let name = entry.map_err(|error| self.unreadable(error))?.file_name();
            let Ok(name) = name.into_string() else {
                return Err(frame::garbage(&self.place(directory), "a name in it is not text"));
            };
            if !name.starts_with('.') {
                take(name)?;
            }
        }
        Ok(())
    }

    /// Puts `bytes` in place of `path`, whose directory exists.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let draft = self.draft(bytes)?;
        self.place_draft(&draft, path)
    }

    /// Bytes written and synced, that belong nowhere yet. Of no bytes there is nothing to sync.
    pub(crate) fn draft(&self, bytes: &[u8]) -> Result<Draft, Error> {
        let draft = Draft(self.fresh()?);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft.0)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                if bytes.is_empty() {
                    Ok(())
                } else {
                    file.sync_data()
                }
            });
        written.map_err(|error| self.unwritten(error))?;
        Ok(draft)
    }

    /// Moves a draft to `path`, over what is there.
    pub(crate) fn place_draft(&self, draft: &Draft, path: &Path) -> Result<(), Error> {
        self.rename_unsynced(&draft.0, path)?;
        self.sync_parent(path)
    }

    /// Writes `bytes`, at least one, into a file in place of what is there. Nothing is durable, and whoever reads may find a
    /// part.
    pub(crate) fn overwrite_unsynced(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            // Not emptied first: ext4 takes that for the replacing of a file, and closing it begins to write it out.
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.set_len(bytes.len() as u64)
            });
        written.map_err(|error| self.unwritten(error))
    }

    /// Creates `path` with `bytes`, unless it exists.
    pub(crate) fn create(&self, path: &Path, bytes: &[u8]) -> Result<Created, Error> {
        let draft = self.draft(bytes)?;
        match fs::hard_link(&draft.0, path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Whoever made it may have crashed before it was durable, and we are about to say that it is there.
                self.sync_parent(path)?;
                return Ok(Created::Exists);
            }
            Err(error) => return Err(self.unwritten(error)),
        }
        self.sync_parent(path)?;
        Ok(Created::New)
    }

    /// Puts a link to `from` in place of `to`, in one step. Nothing is durable.
    pub(crate) fn link_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        let link = Draft(self.fresh().map_err(io::Error::other)?);
        fs::hard_link(from, &link.0)?;
        fs::rename(&link.0, to)
    }

    /// A path in `tmp` at which nothing is.
    fn fresh(&self) -> Result<PathBuf, Error> {
        let name = frame::random::<16>()?
            .iter()
            .fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        Ok(self.root.join("tmp").join(name))
    }

    /// Moves a file that is there; the caller makes both directories durable.
    pub(crate) fn rename_unsynced(&self, from: &Path, to: &Path) -> Result<(), Error> {
        fs::rename(from, to).map_err(|error| self.unwritten(error))
    }

    /// Removes a file, durably; one that is not there is no error.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Ok(()) => self.sync_parent(path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.unwritten(error)),
        }
    }

    /// Makes the entries of the directory of `path` durable. After a failure nobody knows whether they are.
    pub(crate) fn sync_parent(&self, path: &Path) -> Result<(), Error> {
        path.parent().map_or(Ok(()), |parent| self.sync(parent))
    }

    /// Makes the entries of a directory durable.
    pub(crate) fn sync(&self, directory: &Path) -> Result<(), Error> {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.unreadable(error))
    }

    /// Makes a directory below the root, and those above it, durably.
    pub(crate) fn directory(&self, path: &Path) -> Result<(), Error> {
        let mut missing: Vec<_> = path
            .ancestors()
            .take_while(|path| path.starts_with(&self.root) && !path.is_dir())
            .collect();
        missing.reverse();
        for path in &missing {
            match DirBuilder::new().mode(0o700).create(path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.unwritten(error)),
            }
        }
        // After all are made: one transaction of the file system has them all, and the later syncs find nothing to do.
        missing.into_iter().try_for_each(|path| self.sync_parent(path))
    }

    /// Waits for the lock at `path`, a bounded time. Whoever has it is the only one to change what it guards; it ends
    /// with the file that is returned.
    pub(crate) fn lock(&self, path: &Path) -> Result<File, Error> {
        let file = self.lock_file(path)?;
        let until = Instant::now() + LOCK_WAIT;
        let (mut pause, longest) = LOCK_PAUSES;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(self.unreadable(error)),
            }
            if Instant::now() >= until {
                let why = format!("{} stays locked by another process", self.place(path));
                return Err(Error::Unreachable(self.url.clone(), Some(why.into())));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    /// Opens the file of a lock, making it where there is none.
    fn lock_file(&self, path: &Path) -> Result<File, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(|error| self.unwritten(error))
    }

    /// Removes what crashes left in `tmp`.
    pub(crate) fn sweep(&self) {
        let entries = fs::read_dir(self.root.join("tmp"))
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries.take(SWEEP) {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            if age
                .and_then(|made| made.elapsed().ok())
                .is_some_and(|age| age > STALE)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A file in `tmp`; removed when it was not moved.
#[derive(Debug)]
pub(crate) struct Draft(PathBuf);

impl Draft {
    /// Where it is until it is moved.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
