//! A file that is put aside when it is full: `FILE`, the newest lines, and `FILE.1`, those before.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where what came before `newest` is.
#[must_use]
pub(crate) fn before(newest: &Path) -> PathBuf {
    let mut name = OsString::from(newest);
    name.push(".1");
    name.into()
}

/// How such a file is opened: what is written is added, and only this user reads it.
#[must_use]
pub(crate) fn appending() -> OpenOptions {
    let mut options = File::options();
    options.create(true).append(true).mode(0o600);
    options
}

/// An open file of this kind.
#[derive(Debug)]
pub(crate) struct RotatedFile {
    path: PathBuf,
    options: OpenOptions,
    file: File,
    size: u64,
    max: u64,
}

impl RotatedFile {
    /// Opens or makes it. It is put aside at `max` bytes, unless it is no regular file.
    pub(crate) fn open(path: PathBuf, options: OpenOptions, max: u64) -> io::Result<Self> {
        let file = options.open(&path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            max: if metadata.is_file() { max } else { u64::MAX },
            path,
            options,
            file,
        })
    }

    /// Adds whole lines.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size >= self.max {
            fs::rename(&self.path, before(&self.path))?;
            self.reopen()?;
        }
        self.file.write_all(lines)?;
        self.size = self.size.saturating_add(lines.len() as u64);
        Ok(())
    }

    /// Goes on in a new file where somebody else has put this one aside, or removed it.
    pub(crate) fn follow(&mut self) -> io::Result<()> {
        let here = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (here.dev(), here.ino()) => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => self.reopen(),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = self.options.open(&self.path)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }
}
