//! Puts the file system of a machine together, from inside its fresh mount namespace.
//!
//! The host's tree as it is, with a `/proc` of the machine's own processes ([`own`]); then the mounts that were asked for
//! (`assemble`). Runs in a single-threaded process: the child that becomes the first program, or a program that stood by.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::assignment::{Failed, MountOrder, Part};

const TMPFS_FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Parts with the host's mounts, and mounts `/proc`.
///
/// # Errors
/// The step that failed, and the kernel's answer.
pub fn own() -> Result<(), Failed> {
    // A slave, not private: what the host unmounts also goes here, so that no machine keeps a disk busy.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    let failed =
        |part, subject: &'static str| move |errno: nix::Error| Failed::new(part, subject, errno.into());
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(failed(Part::Mounts, "/"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(failed(Part::Proc, ""))
}

/// Mounts all of `orders`.
pub(crate) fn assemble(orders: &[MountOrder]) -> Result<(), Failed> {
    let mut ours = HashSet::new();
    for order in orders {
        let subject = || path(order.target()).display().to_string();
        perform(order, &mut ours).map_err(|error| Failed::new(Part::Mounts, subject(), error))?;
    }
    Ok(())
}

fn path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

fn perform(order: &MountOrder, ours: &mut HashSet<PathBuf>) -> io::Result<()> {
    match order {
        MountOrder::Bind { from, to, read_only } => {
            let directory = fs::metadata(path(from))?.is_dir();
            provide(path(to), directory, ours)?;
            bind(path(from), path(to))?;
            ours.retain(|seen| !seen.starts_with(path(to)));
            if *read_only {
                suijuris_sys::mounts::read_only(to)
            } else {
                Ok(())
            }
        }
        MountOrder::Tmpfs { to, size_bytes } => {
            provide(path(to), true, ours)?;
            ours.insert(path(to).to_owned());
            tmpfs(path(to), Some(*size_bytes))
        }
    }
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?)
}

fn tmpfs(to: &Path, size_bytes: Option<u64>) -> io::Result<()> {
    let size = size_bytes
        .map(|bytes| format!(",size={bytes}"))
        .unwrap_or_default();
    let options = format!("mode=0755{size}");
    Ok(mount(
        Some("tmpfs"),
        to,
        Some("tmpfs"),
        TMPFS_FLAGS,
        Some(options.as_str()),
    )?)
}

/// Sees to it that `target` exists, without making anything that the host would see: `ours` are the
/// directories that only this machine has.
fn provide(target: &Path, directory: bool, ours: &mut HashSet<PathBuf>) -> io::Result<()> {
    if target.try_exists()? {
        return Ok(());
    }
    let ground = target.ancestors().skip(1).find(|path| path.is_dir());
    // The root itself cannot be covered: everything hangs on it.
    let ground = ground.filter(|path| *path != Path::new("/"));
    let ground = ground.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    if !ours.contains(ground) {
        mimic(ground)?;
        ours.insert(ground.to_owned());
    }
    match target.parent() {
        _ if directory => fs::create_dir_all(target),
        Some(parent) => fs::create_dir_all(parent).and_then(|()| fs::write(target, "")),
        None => Ok(()),
    }
}

/// Covers directory `ground` by one in memory with the same entries, to which new ones can be added.
fn mimic(ground: &Path) -> io::Result<()> {
    let old = fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(ground)?;
    let below = PathBuf::from(format!("/proc/self/fd/{}", old.as_raw_fd()));
    tmpfs(ground, None)?;
    for entry in fs::read_dir(&below)? {
        let name = entry?.file_name();
        match copy_entry(&below.join(&name), &ground.join(&name)) {
            // Gone since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

fn copy_entry(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
    } else {
        fs::write(to, "")?;
    }
    bind(from, to)
}
