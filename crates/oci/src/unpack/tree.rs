//! A directory that is filled from a foreign list of paths, and cannot be left.
//!
//! Safe by construction: each system call is given the descriptor of a directory and one name in it, which is never
//! `..` (see [`EntryPath`]), and never follows a link. So a path reaches only what was made here as a directory, whatever
//! links stand in the tree, and no look before a leap is needed. `openat2` would spare some calls and ask for a kernel and
//! a sandbox that have it; the last directory is kept open instead, since archives come directory by directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::entry::{Entry, Kind};
use super::metadata::Kept;
use super::path::EntryPath;

/// How a directory is opened to work in it: no link, and not more rights than a name needs.
const STEP: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Why something cannot be made in a tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The way leads through a symbolic link.
    #[error("the way to it leads through the symbolic link `{0}`")]
    ThroughLink(EntryPath),
    /// The way leads through a file.
    #[error("the way to it leads through `{0}`, which is no directory")]
    ThroughFile(EntryPath),
    /// The operating system refuses.
    #[error("the operating system refuses it")]
    System(#[source] io::Error),
}

impl From<Errno> for TreeError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// A tree that is being filled.
pub(crate) struct Tree {
    root: OwnedFd,
    /// Owners, devices and special bits are given to files.
    pub(super) as_root: bool,
    /// The directory that was worked in last.
    last: Option<(EntryPath, OwnedFd)>,
}

impl Tree {
    /// A tree in an existing directory.
    pub(crate) fn open(dir: &Path, as_root: bool) -> Result<Self, TreeError> {
        let root = rustix::fs::open(dir, STEP, Mode::empty())?;
        Ok(Self {
            root,
            as_root,
            last: None,
        })
    }

    /// The directory that contains `path`, and the name there. Directories on the way are made, and told to `made`.
    fn parent<'a>(
        &mut self,
        path: &'a EntryPath,
        made: &mut dyn FnMut(EntryPath),
    ) -> Result<(OwnedFd, &'a OsStr), TreeError> {
        let Some((directory, name)) = path.split() else {
            return Err(TreeError::System(io::ErrorKind::InvalidInput.into()));
        };
        Ok((self.directory(&directory, Some(made))?, name))
    }

    /// A directory, step by step from the root; with `made`, what is missing is made.
    fn directory(
        &mut self,
        path: &EntryPath,
        mut made: Option<&mut dyn FnMut(EntryPath)>,
    ) -> Result<OwnedFd, TreeError> {
        if let Some((last, descriptor)) = &self.last
            && last == path
        {
            return descriptor.try_clone().map_err(TreeError::System);
        }
        let mut here = self.root.try_clone().map_err(TreeError::System)?;
        let mut length = 0_usize;
        for name in path.names() {
            length = length
                .saturating_add(name.len())
                .saturating_add(usize::from(length > 0));
            let so_far =
                || EntryPath::parse(path.as_bytes().get(..length).unwrap_or_default()).unwrap_or_default();
            let next = match rustix::fs::openat(&here, name, STEP, Mode::empty()) {
                Err(Errno::NOENT) if made.is_some() => {
                    rustix::fs::mkdirat(&here, name, Mode::RWXU)?;
                    if let Some(made) = &mut made {
                        made(so_far());
                    }
                    rustix::fs::openat(&here, name, STEP, Mode::empty())
                }
                found => found,
            };
            here = match next {
                Ok(next) => next,
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(blocked(&here, name, so_far())),
                Err(error) => return Err(error.into()),
            };
        }
        self.last = Some((path.clone(), here.try_clone().map_err(TreeError::System)?));
        Ok(here)
    }

    /// What stands at `path`; none where nothing does.
    pub(crate) fn kind(&mut self, path: &EntryPath) -> Result<Option<FileType>, TreeError> {
        let Some((directory, name)) = path.split() else {
            return Ok(Some(FileType::Directory));
        };
        match self.directory(&directory, None) {
            Ok(parent) => kind_in(&parent, name),
            Err(TreeError::System(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what stands at `path`, with all that is below it.
    pub(crate) fn remove(&mut self, path: &EntryPath) -> Result<(), TreeError> {
        let Some((directory, name)) = path.split() else {
            return Err(TreeError::System(io::ErrorKind::InvalidInput.into()));
        };
        let parent = self.directory(&directory, None)?;
        // The directory that was worked in may be among what is removed.
        self.last = None;
        remove_in(&parent.as_fd(), name)
    }

    /// A directory at `path`; one that is there stays with its content.
    pub(crate) fn make_directory(
        &mut self,
        path: &EntryPath,
        made: &mut dyn FnMut(EntryPath),
    ) -> Result<(), TreeError> {
        if path.is_root() {
            return Ok(());
        }
        let (parent, name) = self.parent(path, made)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) if kind_in(&parent, name)? == Some(FileType::Directory) => Ok(()),
            other => Ok(other?),
        }
    }

    /// A new file at `path`, filled by `fill`; nothing may stand there.
    pub(crate) fn make_file(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
        made: &mut dyn FnMut(EntryPath),
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Kept, TreeError> {
        let (parent, name) = self.parent(path, made)?;
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&parent, name, new, Mode::RUSR | Mode::WUSR)?);
        fill(&mut file).map_err(TreeError::System)?;
        self.finish(file.as_fd(), entry, Mode::RUSR)
    }

    /// A new symbolic link, device or pipe at `path`; nothing may stand there. False where it takes rights that we do
    /// not have, and nothing was made.
    pub(crate) fn make_special(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
        made: &mut dyn FnMut(EntryPath),
    ) -> Result<Option<Kept>, TreeError> {
        let (parent, name) = self.parent(path, made)?;
        let (file_type, device) = match &entry.kind {
            Kind::Symlink { target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name)?;
                return Ok(Some(self.finish_named(&parent, name, entry, false)?));
            }
            Kind::Whiteout => (FileType::CharacterDevice, 0),
            _ if !self.as_root => return Ok(None),
            // Overlayfs takes this device for a whiteout, which the layer did not write as one.
            Kind::Device {
                block: false,
                major: 0,
                minor: 0,
            } => return Ok(None),
            Kind::Device { block, major, minor } => {
                let kind = if *block {
                    FileType::BlockDevice
                } else {
                    FileType::CharacterDevice
                };
                (kind, rustix::fs::makedev(*major, *minor))
            }
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::File { .. } | Kind::Directory { .. } => {
                return Err(TreeError::System(io::ErrorKind::InvalidInput.into()));
            }
        };
        match rustix::fs::mknodat(&parent, name, file_type, Mode::RUSR | Mode::WUSR, device) {
            Err(Errno::PERM | Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(()) if entry.kind == Kind::Whiteout => Ok(Some(Kept::default())),
            Ok(()) => Ok(Some(self.finish_named(&parent, name, entry, true)?)),
        }
    }

    /// A second name at `path` for what stands at `target`, which is no directory; nothing may stand at `path`.
    pub(crate) fn make_link(
        &mut self,
        path: &EntryPath,
        target: &EntryPath,
        made: &mut dyn FnMut(EntryPath),
    ) -> Result<(), TreeError> {
        let Some((directory, old)) = target.split() else {
            return Err(TreeError::System(io::ErrorKind::InvalidInput.into()));
        };
        let from = self.directory(&directory, None)?;
        let (parent, name) = self.parent(path, made)?;
        // Without AT_SYMLINK_FOLLOW a link is itself linked, never what it leads to.
        Ok(rustix::fs::linkat(&from, old, &parent, name, AtFlags::empty())?)
    }

    /// Gives a directory what its entry says, at the end: times change and rights vanish while it is filled.
    pub(crate) fn finish_directory(&mut self, path: &EntryPath, entry: &Entry) -> Result<Kept, TreeError> {
        let directory = self.open_directory(path)?;
        self.finish(directory.as_fd(), entry, Mode::RWXU)
    }

    /// Marks a directory as hiding what lower layers have in it, for overlayfs. False where the file system has no
    /// attributes for it.
    pub(crate) fn mark_opaque(&mut self, path: &EntryPath) -> Result<bool, TreeError> {
        let directory = self.open_directory(path)?;
        let mark = |name: &str| rustix::fs::fsetxattr(&directory, name, b"y", XattrFlags::empty()).is_ok();
        let user = mark("user.overlay.opaque");
        Ok((!self.as_root || mark("trusted.overlay.opaque")) && user)
    }

    /// A file of the tree to read.
    pub(crate) fn read_file(&mut self, path: &EntryPath) -> Result<File, TreeError> {
        let Some((directory, name)) = path.split() else {
            return Err(TreeError::System(io::ErrorKind::InvalidInput.into()));
        };
        let parent = self.directory(&directory, None)?;
        // A pipe or device that stands there after all does not keep us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(
            &parent,
            name,
            flags,
            Mode::empty(),
        )?))
    }

    fn open_directory(&mut self, path: &EntryPath) -> Result<OwnedFd, TreeError> {
        let here = self.directory(path, None)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&here, ".", flags, Mode::empty())?)
    }
}

fn kind_in(parent: &OwnedFd, name: &OsStr) -> Result<Option<FileType>, TreeError> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What stands in the way.
fn blocked(parent: &OwnedFd, name: &OsStr, path: EntryPath) -> TreeError {
    match kind_in(parent, name) {
        Ok(Some(FileType::Symlink)) => TreeError::ThroughLink(path),
        _ => TreeError::ThroughFile(path),
    }
}

/// Removes a name with all below it. As deep as paths are, see [`super::path::MAX_DEPTH`].
fn remove_in(parent: &BorrowedFd<'_>, name: &OsStr) -> Result<(), TreeError> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for found in Dir::read_from(&directory)? {
        let found = found?;
        let inner = found.file_name().to_bytes();
        if inner != b"." && inner != b".." {
            remove_in(&directory.as_fd(), OsStr::from_bytes(inner))?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
