//! What a file is given besides its content: owner, attributes, rights, time; and what of it we may not give.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::entry::Entry;
use super::tree::{Tree, TreeError};

/// What of an entry could not be given to its file, and holds in its record only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    pub(crate) owner: bool,
    pub(crate) special_bits: bool,
    pub(crate) xattrs: bool,
}

impl Tree {
    /// Owner, attributes, rights and time of an open file. `ours` are rights that we keep where we are not root, since
    /// the tree must stay readable to us.
    pub(super) fn finish(&self, file: BorrowedFd<'_>, entry: &Entry, ours: Mode) -> Result<Kept, TreeError> {
        // Changing the owner takes special bits and capabilities away, so it comes first.
        let owner = self.owner(
            || {
                let (uid, gid) = ids(entry);
                rustix::fs::fchown(file, Some(uid), Some(gid))
            },
            entry,
        )?;
        let mut kept = Kept {
            owner: !owner,
            ..Kept::default()
        };
        for (name, value) in &entry.xattrs {
            let wanted = name.starts_with("user.") && !name.starts_with("user.overlay.")
                || self.as_root && name == "security.capability";
            let set =
                wanted && rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()).is_ok();
            kept.xattrs |= !set;
        }
        let (mode, special) = self.mode(entry, ours);
        kept.special_bits = special;
        rustix::fs::fchmod(file, mode)?;
        rustix::fs::futimens(file, &times(entry))?;
        Ok(kept)
    }

    /// The same for what cannot be opened.
    pub(super) fn finish_named(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        has_mode: bool,
    ) -> Result<Kept, TreeError> {
        let owner = self.owner(
            || {
                let (uid, gid) = ids(entry);
                rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            },
            entry,
        )?;
        let mut kept = Kept {
            owner: !owner,
            xattrs: !entry.xattrs.is_empty(),
            ..Kept::default()
        };
        if has_mode {
            let (mode, special) = self.mode(entry, Mode::empty());
            kept.special_bits = special;
            // Follows links where the kernel cannot do otherwise, but what we just made is none.
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(kept)
    }

    /// Whether the owner is as it should be; in a user namespace some owners cannot be given.
    fn owner(&self, give: impl FnOnce() -> Result<(), Errno>, entry: &Entry) -> Result<bool, TreeError> {
        if !self.as_root {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            return Ok((uid.as_raw(), gid.as_raw()) == (entry.uid, entry.gid));
        }
        match give() {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::PERM) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The rights to set, and whether special bits were left out. Not as root they are: a set-user bit on a file of
    /// ours would lend our rights to others.
    fn mode(&self, entry: &Entry, ours: Mode) -> (Mode, bool) {
        if self.as_root {
            return (Mode::from_raw_mode(entry.mode), false);
        }
        (
            Mode::from_raw_mode(entry.mode & 0o777) | ours,
            entry.mode & 0o7000 != 0,
        )
    }
}

fn ids(entry: &Entry) -> (rustix::process::Uid, rustix::process::Gid) {
    (
        rustix::process::Uid::from_raw(entry.uid),
        rustix::process::Gid::from_raw(entry.gid),
    )
}

fn times(entry: &Entry) -> Timestamps {
    let at = Timespec {
        tv_sec: entry.mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}
