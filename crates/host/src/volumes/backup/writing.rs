//! A listing and its blocks become a tree again. Both are foreign: paths are gone along by descriptor, below the new root and over no
//! link; nothing is written over; and directories get their modes last, when all is in them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, mkdirat, mknodat, openat2, symlinkat, utimensat,
};

use super::format::{BadFormat, Bytes, Entry, Line, Manifest, Name, Piece, What};
use crate::vault::VaultError;

/// Why a tree could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Format(#[from] BadFormat),
    #[error("{0}")]
    Io(String),
}

/// What gives blocks by name, each checked.
pub(super) type Fetch<'a> = dyn FnMut(&Name) -> Result<Arc<Vec<u8>>, WriteError> + 'a;

/// Writes the tree of `manifest` to `root`, an empty directory.
pub(super) fn write(root: &Path, manifest: &Manifest, fetch: &mut Fetch<'_>) -> Result<(), WriteError> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(root, flags, Mode::empty()).map_err(|error| WriteError::Io(error.to_string()))?;
    let mut writer = Writer {
        root,
        is_root: rustix::process::geteuid().is_root(),
        file: None,
    };
    for name in &manifest.listing {
        for line in Line::decode_all(&fetch(name)?)? {
            match line {
                Line::Entry(entry) => writer.begin(entry)?,
                Line::Pieces(pieces) => writer.pieces(&pieces, fetch)?,
            }
        }
    }
    writer.finish()?;
    // From the last to the first: whoever may not enter a directory has been below it by then.
    for name in manifest.listing.iter().rev() {
        for line in Line::decode_all(&fetch(name)?)?.into_iter().rev() {
            if let Line::Entry(entry) = line
                && entry.what == What::Directory
            {
                writer.directory(&entry)?;
            }
        }
    }
    Ok(())
}

struct Writer {
    root: OwnedFd,
    is_root: bool,
    /// The file whose pieces come.
    file: Option<(Entry, File)>,
}

/// The directory of a path, and the name in it.
fn split(path: &Bytes) -> (&[u8], &[u8]) {
    match path.0.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (
            path.0.get(..slash).unwrap_or_default(),
            path.0.get(slash.saturating_add(1)..).unwrap_or_default(),
        ),
        None => (&[], &path.0),
    }
}

impl Writer {
    /// Opens something below the root, over no link.
    fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, resolve)
    }

    fn parent<'a>(&self, path: &'a Bytes) -> Result<(OwnedFd, &'a [u8]), WriteError> {
        let (parent, name) = split(path);
        let opened = self.open(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        Ok((opened.map_err(|error| failed(path, error))?, name))
    }

    fn begin(&mut self, entry: Entry) -> Result<(), WriteError> {
        self.finish()?;
        let failed = |error: rustix::io::Errno| failed(&entry.path, error);
        if entry.path.0.is_empty() {
            return match entry.what {
                What::Directory => Ok(()),
                _ => Err(BadFormat("its root is no directory".to_owned()).into()),
            };
        }
        let (parent, name) = self.parent(&entry.path)?;
        match &entry.what {
            What::Directory => mkdirat(&parent, name, Mode::RWXU).map_err(failed)?,
            What::File { size } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = File::from(
                    self.open(&entry.path.0, flags, Mode::RUSR | Mode::WUSR)
                        .map_err(failed)?,
                );
                file.set_len(*size).map_err(|error| told(&entry.path, &error))?;
                self.file = Some((entry, file));
            }
            What::SameAs(other) => {
                let (from, first) = self.parent(other)?;
                linkat(&from, first, &parent, name, AtFlags::empty()).map_err(failed)?;
            }
            What::Symlink(to) => {
                symlinkat(to.0.as_slice(), &parent, name).map_err(failed)?;
                let owned = self.owner(&entry);
                if self.is_root {
                    chownat(&parent, name, owned.0, owned.1, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                }
                utimensat(&parent, name, &times(&entry), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            }
            What::Pipe => {
                let mode = Mode::from_raw_mode(entry.mode);
                mknodat(&parent, name, rustix::fs::FileType::Fifo, mode, 0).map_err(failed)?;
                if self.is_root {
                    let (user, group) = self.owner(&entry);
                    chownat(&parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                }
                utimensat(&parent, name, &times(&entry), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn owner(&self, entry: &Entry) -> (Option<Uid>, Option<Gid>) {
        // Numbers that no kernel has would mean "as it is".
        let is_known = |id: u32| id != u32::MAX && self.is_root;
        (
            is_known(entry.uid).then(|| Uid::from_raw(entry.uid)),
            is_known(entry.gid).then(|| Gid::from_raw(entry.gid)),
        )
    }

    fn pieces(&self, pieces: &[Piece], fetch: &mut Fetch<'_>) -> Result<(), WriteError> {
        let misplaced = || BadFormat("its listing has content that belongs to no file".to_owned());
        let (entry, file) = self.file.as_ref().ok_or_else(misplaced)?;
        let What::File { size } = entry.what else {
            return Err(misplaced().into());
        };
        for piece in pieces {
            let block = fetch(&piece.block)?;
            let from = usize::try_from(piece.from).unwrap_or(usize::MAX);
            let end = from.saturating_add(usize::try_from(piece.len).unwrap_or(usize::MAX));
            let outside = || BadFormat("its listing has a piece that is not in its block or file".to_owned());
            let bytes = block.get(from..end).ok_or_else(outside)?;
            if piece.at.saturating_add(bytes.len() as u64) > size {
                return Err(outside().into());
            }
            file.write_all_at(bytes, piece.at)
                .map_err(|error| told(&entry.path, &error))?;
        }
        Ok(())
    }

    /// Ends the file whose pieces came.
    fn finish(&mut self) -> Result<(), WriteError> {
        let Some((entry, file)) = self.file.take() else {
            return Ok(());
        };
        self.dress(&entry, &file)
            .map_err(|error| failed(&entry.path, error))
    }

    /// A directory gets what it had, once all is in it.
    fn directory(&self, entry: &Entry) -> Result<(), WriteError> {
        let opened = self.open(&entry.path.0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let dressed = opened.and_then(|opened| self.dress(entry, &File::from(opened)));
        dressed.map_err(|error| failed(&entry.path, error))
    }

    /// Owner, mode, attributes and time, in the order in which none takes back another.
    fn dress(&self, entry: &Entry, file: &File) -> rustix::io::Result<()> {
        let file = file.as_fd();
        for (name, value) in &entry.attributes {
            // A file system without them has none, and the content is there all the same.
            match fsetxattr(file, name.0.as_slice(), &value.0, XattrFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
                Err(error) => return Err(error),
            }
        }
        if self.is_root {
            let (user, group) = self.owner(entry);
            fchown(file, user, group)?;
        }
        fchmod(file, Mode::from_raw_mode(entry.mode & 0o7777))?;
        futimens(file, &times(entry))
    }
}

fn times(entry: &Entry) -> Timestamps {
    let at = Timespec {
        tv_sec: entry.modified.0,
        tv_nsec: i64::from(entry.modified.1.min(999_999_999)),
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

fn failed(path: &Bytes, error: rustix::io::Errno) -> WriteError {
    told(path, &error.into())
}

fn told(path: &Bytes, error: &io::Error) -> WriteError {
    let path = String::from_utf8_lossy(&path.0);
    WriteError::Io(format!("{:?} cannot be written: {error}", path))
}
