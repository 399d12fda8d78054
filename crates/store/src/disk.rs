//! The file operations that durability rests on, behind two small traits: [`Real`] performs them, the tests' faulty disk
//! loses what was not synced. Not a file system abstraction: only what the store needs is here.

use std::any::Any;
use std::fmt::Debug;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new, empty file of mode 0600; an older one of that name is emptied.
    Create,
}

/// What [`Disk::lock`] found.
#[derive(Debug)]
pub enum Lock {
    /// Ours until the value is dropped.
    Held(Box<dyn Any + Send + Sync>),
    /// Somebody else's; what the holder wrote about itself.
    Taken(String),
}

/// A disk. A name is durable once its directory is synced, content once its file is.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// As the operating system.
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>>;
    /// Names in a directory, in any order.
    ///
    /// # Errors
    /// As the operating system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name, replacing what had it; or a directory, replacing an empty one.
    ///
    /// # Errors
    /// As the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory of mode 0700; an existing one is left as it is.
    ///
    /// # Errors
    /// As the operating system.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    ///
    /// # Errors
    /// As the operating system.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the operating system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock at `path` without waiting; `whoami` is for the message that others will see.
    ///
    /// # Errors
    /// As the operating system.
    fn lock(&self, path: &Path, whoami: &str) -> io::Result<Lock>;
    /// Whether a link stands at `path`, wherever it leads.
    ///
    /// # Errors
    /// As the operating system.
    fn is_link(&self, path: &Path) -> io::Result<bool> {
        let _no_links = path;
        Ok(false)
    }
    /// Whether somebody holds the lock at `path`.
    ///
    /// # Errors
    /// As the operating system.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// Size, bytes.
    ///
    /// # Errors
    /// As the operating system.
    fn size(&self) -> io::Result<u64>;
    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// As the operating system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As the operating system.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes content durable, and size where it changed.
    ///
    /// # Errors
    /// As the operating system.
    fn sync(&self) -> io::Result<()>;
    /// Begins to make content durable: of several files that were begun and are then synced, the later ones cost little.
    fn begin_sync(&self) {}
}

/// The machine's own disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Real;

impl Disk for Real {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        match how {
            How::Read => options.read(true),
            How::Write => options.read(true).write(true),
            How::Create => {
                // What stands there may be a link, and what it leads to is none of ours: a new file takes its place.
                optional(fs::remove_file(path))?;
                options.read(true).write(true).create_new(true).mode(0o600)
            }
        };
        Ok(Box::new(options.open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(dir)?.map(name).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, whoami: &str) -> io::Result<Lock> {
        if self.is_link(path)? {
            let why = format!("`{}` is a link: remove it", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.nlink() > 1 {
            let why = format!(
                "`{}` has another name elsewhere (a hard link): remove this one",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        match file.try_lock() {
            Ok(()) => {
                // Not emptied first: ext4 takes that for the replacing of a file, and closing it waits for the disk.
                file.write_all(whoami.as_bytes())?;
                file.set_len(whoami.len() as u64)?;
                Ok(Lock::Held(Box::new(file)))
            }
            Err(fs::TryLockError::WouldBlock) => {
                Ok(Lock::Taken(fs::read_to_string(path).unwrap_or_default()))
            }
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        Ok(optional(fs::symlink_metadata(path))?.is_some_and(|found| found.is_symlink()))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        match fs::File::open(path)?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl File for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            match std::os::unix::fs::FileExt::read_at(self, rest, at) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn begin_sync(&self) {
        // Asking for the pages to be dropped begins to write them, with the space that they need: one transaction of the file
        // system then has that of several files. What fails is only slower.
        let _ = posix_fadvise(self, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Writes zeros from `from` to `to` and makes them durable: later writes there change neither size nor allocation, so
/// that syncing them costs no metadata, and cannot meet a full disk.
pub(crate) fn reserve(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_at(ZEROS.get(..len).unwrap_or_default(), at)?;
        at += len as u64;
    }
    file.sync()
}

/// The whole content of a file of at most `max` bytes.
pub(crate) fn read(disk: &dyn Disk, path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, How::Read)?;
    let size = file.size()?;
    if size > max {
        let text = format!("{size} bytes; at most {max} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file whole: after a crash it has the old content or the new.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let file = disk.open(&beside, How::Create)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&beside, path)?;
    disk.sync_dir(path.parent().unwrap_or(path))
}

/// Files that are written first and made durable together, which costs the disk less than one after the other. Whoever reads
/// them meanwhile may find parts.
#[derive(Debug)]
pub(crate) struct Together<'a> {
    disk: &'a dyn Disk,
    files: Vec<Box<dyn File>>,
    dirs: Vec<PathBuf>,
}

impl<'a> Together<'a> {
    pub(crate) fn on(disk: &'a dyn Disk) -> Self {
        Self {
            disk,
            files: Vec::new(),
            dirs: Vec::new(),
        }
    }

    /// Makes a directory, if it is not there.
    pub(crate) fn dir(&mut self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)?;
        self.note(path);
        Ok(())
    }

    /// Writes a file, in place of an older one.
    pub(crate) fn file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.open(path, How::Create)?;
        file.write_at(bytes, 0)?;
        file.begin_sync();
        self.files.push(file);
        self.note(path);
        Ok(())
    }

    fn note(&mut self, named: &Path) {
        let dir = named.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        if !self.dirs.iter().any(|noted| noted == dir) {
            self.dirs.push(dir.to_owned());
        }
    }

    /// Makes all of it durable: content, then names.
    pub(crate) fn sync(self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync())?;
        self.dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir))
    }
}

/// `value`, or nothing where the file does not exist.
pub(crate) fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
