//! Who runs: a file for each holder, locked by it (`flock`) and by whatever inherits its descriptor.
//!
//! The kernel gives the lock up when the last process that has the descriptor ends, however it ends; so a lock that can
//! be taken says that its holder is gone, with nothing to wait for. On a network's file system that inference does not
//! hold (a server forgets the locks of a client that it cannot reach), and presence stays unknown.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::statfs::{FsType, statfs};
use suijuris_core::ObjectId;
use suijuris_core::witness::HolderId;

use super::files::Files;
use super::{layout, marks};
use crate::{Error, Presence, PresenceGuard};

/// Files of holders of one object at most.
const MAX_HOLDERS: usize = 10_000;

/// The locked file of a holder.
#[derive(Debug)]
pub(super) struct Held(pub(super) File);

impl PresenceGuard for Held {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// Locks the file of `holder` until what is returned is dropped.
pub(crate) fn register(
    files: &Files,
    object: ObjectId,
    holder: HolderId,
) -> Result<impl PresenceGuard + use<>, Error> {
    let home = layout::home(&files.root, object);
    let directory = home.join(layout::HOLDERS);
    files.directory(&directory)?;
    let _lock = files.lock(&home.join(layout::LOCK))?;
    // Names of the dead are of no use to anybody, but for the one that the mark still speaks of.
    let named = marks::read(files, object).ok().flatten();
    let named = named
        .and_then(|(mark, _)| mark.holder)
        .map(|holder| holder.id.to_string());
    for name in files.names(&directory, MAX_HOLDERS)? {
        let path = directory.join(&name);
        if Some(&name) != named.as_ref() && try_shared(files, &path)? == Some(true) {
            let _ = fs::remove_file(path);
        }
    }
    // A look at the presence may have the lock for a moment: this waits.
    Ok(Held(files.lock(&layout::holder(&files.root, object, holder))?))
}

/// Calls the locked file of `former` by the name `holder`, for all who have its descriptor. Under the old name stands a file
/// that nobody has locked. What to hold instead, where the file system has no links.
pub(crate) fn rename(
    files: &Files,
    object: ObjectId,
    former: HolderId,
    holder: HolderId,
) -> Result<Option<impl PresenceGuard + use<>>, Error> {
    let home = layout::home(&files.root, object);
    let _lock = files.lock(&home.join(layout::LOCK))?;
    let old = layout::holder(&files.root, object, former);
    let new = layout::holder(&files.root, object, holder);
    let held = match fs::hard_link(&old, &new) {
        Ok(()) => None,
        Err(_) => Some(Held(files.lock(&new)?)),
    };
    files.replace(&old, b"")?;
    Ok(held)
}

/// Puts a file that nobody has locked under the name `holder`.
pub(crate) fn leave(files: &Files, object: ObjectId, holder: HolderId) -> Result<(), Error> {
    let _lock = files.lock(&layout::home(&files.root, object).join(layout::LOCK))?;
    files.replace(&layout::holder(&files.root, object, holder), b"")
}

/// Whether anybody has the file of `holder` locked.
pub(crate) fn presence(files: &Files, object: ObjectId, holder: HolderId) -> Result<Presence, Error> {
    Ok(
        match try_shared(files, &layout::holder(&files.root, object, holder))? {
            Some(false) => Presence::Here,
            Some(true) if is_local(&files.root) => Presence::Gone,
            Some(true) | None => Presence::Unknown,
        },
    )
}

/// Whether a shared lock can be had; `None` where there is no file.
pub(super) fn try_shared(files: &Files, path: &Path) -> Result<Option<bool>, Error> {
    loop {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(files.unreadable(error)),
        };
        match file.try_lock_shared() {
            // A locked file may have taken its place since, and let go of its lock: what counts is who has the name.
            Ok(()) if is_at(&file, path) => return Ok(Some(true)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Some(false)),
            Err(TryLockError::Error(error)) => return Err(files.unreadable(error)),
        }
    }
}

/// Whether the file at `path` is this one.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let same =
        |here: fs::Metadata, there: fs::Metadata| (here.dev(), here.ino()) == (there.dev(), there.ino());
    file.metadata()
        .and_then(|here| Ok(same(here, fs::metadata(path)?)))
        .unwrap_or_default()
}

/// Whether the kernel alone keeps the locks of this directory.
pub(crate) fn is_local(root: &Path) -> bool {
    // The type of the numbers is the C library's.
    const REMOTE: &[FsType] = &[
        FsType(0x6969),      // NFS
        FsType(0xff53_4d42), // CIFS
        FsType(0xfe53_4d42), // SMB2
        FsType(0x517b),      // SMB
        FsType(0x0102_1997), // 9p
        FsType(0x6573_5546), // FUSE: whatever is behind it
        FsType(0x00c3_6400), // Ceph
        FsType(0x4750_4653), // GPFS
        FsType(0x0bd0_0bd0), // Lustre
    ];
    statfs(root).is_ok_and(|found| !REMOTE.contains(&found.filesystem_type()))
}
