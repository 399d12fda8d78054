//! The directory for what a machine with an image writes: emptied before it starts, and removed once it has ended.
//!
//! What is in it was made by a stranger: links are not followed, directories may be closed to us, and may lie within each
//! other deeper than paths go.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use suijuris_guest::assignment::MountOrder;

use super::users::{Subordinate, give_back};
use super::wire::RootOrder;

/// Where overlayfs puts what is written.
pub(super) const UPPER: &str = "upper";
/// Where overlayfs works.
pub(super) const WORK: &str = "work";
/// Where the file system is put together.
pub(super) const ROOT: &str = "root";
/// What lies below an image without layers.
pub(super) const EMPTY: &str = "empty";

/// Removed when dropped.
pub(super) struct Scratch {
    own: Vec<PathBuf>,
    /// What several users of the machine may have written to, and those users.
    shared: Option<(Vec<PathBuf>, Subordinate)>,
}

impl Scratch {
    pub(super) fn of(root: &RootOrder, mounts: &[MountOrder]) -> Self {
        let path = |path: &CString| PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        let copy = root.layers.first().filter(|_| !root.overlay);
        let own = copy.into_iter().chain([&root.scratch]).filter(|_| !root.keeps);
        let written = mounts.iter().filter_map(|mount| match mount {
            MountOrder::Bind {
                from,
                read_only: false,
                ..
            } => Some(path(from)),
            _ => None,
        });
        Self {
            own: own.map(path).collect(),
            shared: root.users.clone().map(|users| (written.collect(), users)),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next start.
        let remove = || self.own.iter().all(|path| remove_strange(path).is_ok());
        match &self.shared {
            None => drop(remove()),
            Some((written, users)) => {
                let _ = users.as_root(|| {
                    written.iter().for_each(|path| give_back(path));
                    remove()
                });
            }
        }
    }
}

/// Removes a directory that strangers wrote to, with all that is in it: no link is followed, and it may be as deep as it is.
///
/// # Errors
/// What the system says; it is not there, for example.
pub fn remove_strange(directory: &Path) -> io::Result<()> {
    if !directory.symlink_metadata()?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    open_up(directory)?;
    clear(directory)?;
    fs::remove_dir(directory)
}

/// Makes the directory with what the machine's root needs in it; empty, unless it `keeps` what was written.
pub(super) fn prepare(scratch: &Path, keeps: bool) -> io::Result<()> {
    let closed = || {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
    };
    match closed().create(scratch) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !scratch.symlink_metadata()?.is_dir() {
                return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
            }
            if keeps {
                for name in [WORK, ROOT, EMPTY] {
                    absent(remove_strange(&scratch.join(name)))?;
                }
            } else {
                clear(scratch)?;
            }
        }
        made => made?,
    }
    // The image's root directory is what everybody in the machine passes through.
    match DirBuilder::new().mode(0o755).create(scratch.join(UPPER)) {
        Err(error) if keeps && error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    [WORK, ROOT, EMPTY]
        .iter()
        .try_for_each(|name| closed().create(scratch.join(name)))
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes all that is in `top`. Directories are moved up before they are emptied, so that paths stay short.
fn clear(top: &Path) -> io::Result<()> {
    let mut number = 0_u64;
    loop {
        let mut is_empty = true;
        for entry in fs::read_dir(top)? {
            is_empty = false;
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                fs::remove_file(&path)?;
                continue;
            }
            open_up(&path)?;
            for inner in fs::read_dir(&path)? {
                let inner = inner?;
                if !inner.file_type()?.is_dir() {
                    fs::remove_file(inner.path())?;
                    continue;
                }
                open_up(&inner.path())?;
                let up = loop {
                    number += 1;
                    let up = top.join(format!(".removing-{number}"));
                    if up.symlink_metadata().is_err() {
                        break up;
                    }
                };
                fs::rename(inner.path(), up)?;
            }
            fs::remove_dir(&path)?;
        }
        if is_empty {
            return Ok(());
        }
    }
}

fn open_up(directory: &Path) -> io::Result<()> {
    if directory.symlink_metadata()?.permissions().mode() & 0o700 == 0o700 {
        return Ok(());
    }
    fs::set_permissions(directory, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_left_is_removed_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let kept = temp.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let scratch = temp.path().join("scratch");
        prepare(&scratch, false).unwrap();
        let upper = scratch.join(UPPER);
        std::os::unix::fs::symlink(&kept, upper.join("link")).unwrap();
        fs::create_dir_all(upper.join("a/b")).unwrap();
        fs::write(upper.join("a/b/.removing-1"), "x").unwrap();
        fs::set_permissions(upper.join("a/b"), Permissions::from_mode(0o0)).unwrap();
        fs::set_permissions(upper.join("a"), Permissions::from_mode(0o0)).unwrap();
        // Deeper than a path can name.
        let deep = upper.join("deep");
        fs::create_dir(&deep).unwrap();
        for _ in 0..30 {
            let within = deep.join("d".repeat(200)).join("e".repeat(200));
            fs::create_dir_all(&within).unwrap();
            let up = upper.join("next");
            fs::create_dir(&up).unwrap();
            fs::rename(&deep, up.join("below")).unwrap();
            fs::rename(&up, &deep).unwrap();
        }
        prepare(&scratch, true).unwrap();
        assert!(upper.join("link").is_symlink(), "what is kept is kept");
        prepare(&scratch, false).unwrap();
        assert_eq!(fs::read_dir(&upper).unwrap().count(), 0);
        clear(&scratch).unwrap();
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        assert!(kept.join("file").exists());
    }
}
