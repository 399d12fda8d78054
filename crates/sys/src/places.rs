//! The places that every program expects around the files of an image: `/proc`, `/dev`, `/run`, `/tmp`, `/sys`. Used from inside a
//! fresh mount namespace, by the process driver and by the first process of a virtual machine.
//!
//! An image is a stranger's: nothing here follows a link of it out of its root.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::mounts;

/// Devices that programs expect and that reach no hardware.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Most bytes of `/tmp` and `/dev/shm`; they are memory.
const TEMPORARY_BYTES: u64 = 1 << 30;
/// Most bytes of `/run`.
const RUN_BYTES: u64 = 64 << 20;
/// A place that cannot be provided.
#[derive(Debug)]
pub struct Failed {
    /// Its name below the root.
    pub name: &'static str,
    /// Why.
    pub error: io::Error,
}

/// What there is here of the devices that programs expect.
#[must_use]
pub fn devices() -> Vec<(&'static str, OwnedFd)> {
    let one = |name: &&'static str| {
        let device = CString::new(format!("/dev/{name}")).ok()?;
        Some((*name, mounts::take(&device).ok()?))
    };
    DEVICES.iter().filter_map(one).collect()
}

/// Provides them in the working directory, which is the image's root; names lead nowhere else. `system` is put at `/sys`, and
/// `resolver` into `/etc`.
///
/// # Errors
/// [`Failed`] names the place.
pub fn provide(
    devices: &[(&str, OwnedFd)],
    system: Option<&OwnedFd>,
    resolver: &[(&str, OwnedFd)],
) -> Result<(), Failed> {
    let at = |name: &'static str| move |error: io::Error| Failed { name, error };
    directory("proc").map_err(at("proc"))?;
    let closed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // While the host's is still in sight: without one the kernel gives none.
    mount(Some("proc"), "proc", Some("proc"), closed, None::<&str>)
        .map_err(|error| at("proc")(error.into()))?;
    directory_in_memory("run", "0755", RUN_BYTES).map_err(at("run"))?;
    directory_in_memory("tmp", "1777", TEMPORARY_BYTES).map_err(at("tmp"))?;
    provide_devices(devices).map_err(at("dev"))?;
    if let Some(system) = system {
        let put = directory("sys").and_then(|()| mounts::put(system.as_fd(), c"sys"));
        put.map_err(at("sys"))?;
    }
    for (name, tree) in resolver {
        let put = || {
            directory("etc")?;
            let place = Path::new("etc").join(name);
            plain_file(&place)?;
            mounts::put(tree.as_fd(), &CString::new(place.as_os_str().as_bytes())?)
        };
        put().map_err(at("etc"))?;
    }
    Ok(())
}

fn provide_devices(devices: &[(&str, OwnedFd)]) -> io::Result<()> {
    directory_in_memory("dev", "0755", RUN_BYTES)?;
    for (name, tree) in devices {
        let place = Path::new("dev").join(name);
        File::create(&place)?;
        mounts::put(tree.as_fd(), &CString::new(place.as_os_str().as_bytes())?)?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(Path::new("dev").join(name))?;
    }
    let terminals = Some("newinstance,ptmxmode=0666,mode=0620");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), "dev/pts", Some("devpts"), flags, terminals)?;
    tmpfs(Path::new("dev/shm"), "1777", TEMPORARY_BYTES)?;
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, Path::new("dev").join(name))?;
    }
    Ok(())
}

/// A directory in memory at `name` of the working directory.
fn directory_in_memory(name: &str, mode: &str, size_bytes: u64) -> io::Result<()> {
    directory(name)?;
    tmpfs(Path::new(name), mode, size_bytes)
}

fn tmpfs(at: &Path, mode: &str, size_bytes: u64) -> io::Result<()> {
    let options = format!("mode={mode},size={size_bytes}");
    let kind = Some("tmpfs");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(kind, at, kind, flags, Some(options.as_str()))?)
}

/// Sees to it that `name` of the working directory is a directory: an image may have a link there, or a file.
fn directory(name: &str) -> io::Result<()> {
    let name = Path::new(name);
    match name.symlink_metadata() {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(name)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    DirBuilder::new().mode(0o755).create(name)
}

/// Sees to it that there is a plain file at `place`.
fn plain_file(place: &Path) -> io::Result<()> {
    match place.symlink_metadata() {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(found) if found.is_dir() => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(_) => fs::remove_file(place)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    File::create(place).map(drop)
}

/// An empty directory in memory at `to`, made where it is missing. The image's root is the root now.
///
/// # Errors
/// The kernel's answer.
pub fn memory(to: &Path, mode: &str, size_bytes: u64) -> io::Result<()> {
    fs::create_dir_all(to)?;
    tmpfs(to, mode, size_bytes)
}

/// Puts `tree`, a directory or a file, at `to`, made where it is missing. The image's root is the root now.
///
/// # Errors
/// The kernel's answer.
pub fn put(tree: &OwnedFd, to: &Path) -> io::Result<()> {
    if File::from(tree.try_clone()?).metadata()?.is_dir() {
        fs::create_dir_all(to)?;
    } else if !to.exists() {
        if let Some(above) = to.parent() {
            fs::create_dir_all(above)?;
        }
        // A link that leads nowhere, as images have one to a resolver of systemd, gives way.
        if to.is_symlink() {
            fs::remove_file(to)?;
        }
        File::create(to)?;
    }
    mounts::put(tree.as_fd(), &CString::new(to.as_os_str().as_bytes())?)
}
