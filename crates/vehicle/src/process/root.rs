//! Puts the file system of an image together and goes into it, from inside the machine's fresh mount namespace.
//!
//! What the machine is to see of the host is taken before the host goes out of sight, and put in place afterwards, when
//! every link in a path of the image leads back into the image. Runs in the single-threaded child just before exec, as
//! `mounts` does for machines with the host's files.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use suijuris_guest::assignment::MountOrder;
use suijuris_sys::{mounts, places};

use super::scratch::{EMPTY, ROOT, UPPER, WORK};
use super::wire::{Fault, RootOrder, Step};

/// What says how names are resolved.
const RESOLVER: [&str; 2] = ["resolv.conf", "hosts"];
/// What of `/proc` reaches beyond a machine; only root could write there.
const SETTINGS: [&CStr; 5] = [
    c"proc/sys",
    c"proc/irq",
    c"proc/bus",
    c"proc/fs",
    c"proc/sysrq-trigger",
];

/// Leaves the host's file system for that of the image.
pub(super) fn enter(root: &RootOrder, orders: &[MountOrder], in_user_namespace: bool) -> Result<(), Fault> {
    let of_host = |error: nix::Error| Fault::new(Step::Mounts, "/", &error.into());
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(of_host)?;
    let taken = orders.iter().map(take).collect::<Result<Vec<_>, Fault>>()?;
    let devices = places::devices();
    let system = read_only(c"/sys");
    let resolver = if root.resolver { resolver() } else { Vec::new() };
    let at = path(&root.scratch).join(ROOT);
    let failed = |error: io::Error| Fault::new(Step::Root, at.display().to_string(), &error);
    mount_image(root, &at, in_user_namespace).map_err(failed)?;
    chdir(&at).map_err(|error| failed(error.into()))?;
    places::provide(&devices, system.as_ref(), &resolver).map_err(|failed| {
        let step = if failed.name == "proc" {
            Step::Proc
        } else {
            Step::Mounts
        };
        Fault::new(step, format!("/{}", failed.name), &failed.error)
    })?;
    if root.is_strange {
        settings_read_only().map_err(|error| Fault::new(Step::Proc, "/proc", &error))?;
    }
    pivot_root(".", ".").map_err(|error| failed(error.into()))?;
    // The host's lies on top, and is let go.
    umount2(".", MntFlags::MNT_DETACH).map_err(|error| failed(error.into()))?;
    chdir("/").map_err(|error| failed(error.into()))?;
    for (file, uid, gid) in &root.owners {
        give(file, (*uid, *gid)).map_err(|error| {
            let subject = format!("/{}", path(file).display());
            Fault::new(Step::Root, subject, &error)
        })?;
    }
    for (order, taken) in orders.iter().zip(&taken) {
        let subject = || path(order.target()).display().to_string();
        put(order, taken.as_ref()).map_err(|error| Fault::new(Step::Mounts, subject(), &error))?;
    }
    Ok(())
}

/// A file of the image, which is the root now, to its owner.
fn give(file: &CStr, (uid, gid): (u32, u32)) -> io::Result<()> {
    let file = Path::new("/").join(path(file));
    match std::os::unix::fs::lchown(file, Some(uid), Some(gid)) {
        // A number that is nobody's here.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        // What the machine has of its own lies over it.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(())
        }
        given => given,
    }
}

fn path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// The tree of the host that goes into the image.
fn take(order: &MountOrder) -> Result<Option<OwnedFd>, Fault> {
    let MountOrder::Bind { from, read_only, .. } = order else {
        return Ok(None);
    };
    let tree = mounts::take(from).and_then(|tree| {
        if *read_only {
            mounts::make_read_only(tree.as_fd())?;
        }
        Ok(tree)
    });
    let fault = |error: io::Error| Fault::new(Step::Mounts, path(from).display().to_string(), &error);
    tree.map(Some).map_err(fault)
}

fn resolver() -> Vec<(&'static str, OwnedFd)> {
    let one = |name: &&'static str| {
        let file = CString::new(format!("/etc/{name}")).ok()?;
        Some((*name, read_only(&file)?))
    };
    RESOLVER.iter().filter_map(one).collect()
}

fn read_only(path: &CStr) -> Option<OwnedFd> {
    let tree = mounts::take(path).ok()?;
    mounts::make_read_only(tree.as_fd()).ok()?;
    Some(tree)
}

fn mount_image(root: &RootOrder, at: &Path, in_user_namespace: bool) -> io::Result<()> {
    if !root.overlay {
        let copy = root.layers.first().ok_or(io::ErrorKind::NotFound)?;
        let none = None::<&str>;
        return Ok(mount(Some(path(copy)), at, none, MsFlags::MS_BIND, none)?);
    }
    let scratch = path(&root.scratch);
    let open = |directory: &Path| {
        File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory)
    };
    let empty = open(&scratch.join(EMPTY))?;
    let layers = root.layers.iter().rev().map(|layer| open(path(layer)));
    let mut layers = layers.collect::<io::Result<Vec<File>>>()?;
    if layers.is_empty() {
        layers.push(empty);
    }
    let (upper, work) = (open(&scratch.join(UPPER))?, open(&scratch.join(WORK))?);
    // By numbers of open files: the paths of many layers do not fit into the one page that options may take.
    let numbers: Vec<String> = layers.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        numbers.join(":"),
        upper.as_raw_fd(),
        work.as_raw_fd()
    );
    // What is thrown away does not have to reach the disk.
    if !root.keeps {
        options.push_str(",volatile");
    }
    if in_user_namespace {
        options.push_str(",userxattr");
    }
    chdir("/proc/self/fd")?;
    let kind = Some("overlay");
    let mounted = mount(kind, at, kind, MsFlags::MS_NODEV, Some(options.as_str()));
    chdir("/")?;
    Ok(mounted?)
}

/// In the working directory, whose `proc` was mounted just now.
fn settings_read_only() -> io::Result<()> {
    for path in SETTINGS {
        let tree = match mounts::take(path) {
            // Not every kernel has each.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            tree => tree?,
        };
        mounts::make_read_only(tree.as_fd())?;
        mounts::put(tree.as_fd(), path)?;
    }
    Ok(())
}

/// Performs `order` in the image, whose root is the root now.
fn put(order: &MountOrder, taken: Option<&OwnedFd>) -> io::Result<()> {
    let to = path(order.target());
    match (order, taken) {
        (MountOrder::Bind { .. }, Some(tree)) => places::put(tree, to),
        (MountOrder::Tmpfs { size_bytes, .. }, _) => places::memory(to, "0755", *size_bytes),
        (MountOrder::Bind { .. }, None) => Ok(()),
    }
}
