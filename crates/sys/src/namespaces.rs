//! Going into the namespaces of another process. Called by `vehicle`, for commands that run in a machine.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;

use crate::checked;

/// Goes into the namespace that `file` (`/proc/PID/ns/…`) names. One for processes takes in those that are forked from now on.
///
/// # Errors
/// The kernel's answer; for users and mounts also where this process has several threads.
pub fn join(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers.
    checked(unsafe { libc::setns(file.as_raw_fd(), 0) }.into()).map(drop)
}

/// Closes every file from number `least` on, whoever owns it: for a process of one thread that goes on without any of them.
pub fn close_from(least: RawFd) {
    // SAFETY: passes no memory. The only caller uses no file afterwards, and ends without closing any.
    unsafe { libc::syscall(libc::SYS_close_range, least, u32::MAX, 0) };
}

/// The namespace for users that owns the namespace `file`, as one of the network's.
///
/// # Errors
/// The kernel's answer; `PermissionDenied` where it lies above the caller's own.
pub fn owner(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `NS_GET_USERNS` of `linux/nsfs.h`.
    const OWNER: libc::c_ulong = 0xb701;
    // SAFETY: this request takes no memory.
    crate::owned(checked(
        unsafe { libc::ioctl(file.as_raw_fd(), OWNER as _) }.into(),
    )?)
}

/// The namespaces to enter before those of process `pid`, where its network is not owned by its own users but by some above them:
/// these users, unless they are the caller's, and the network; else none.
///
/// # Errors
/// The process is gone, or the kernel's answer.
pub fn above(pid: u32) -> io::Result<Vec<OwnedFd>> {
    let node = |file: &File| file.metadata().map(|found| found.ino());
    let network = File::open(format!("/proc/{pid}/ns/net"))?;
    let owner = File::from(owner(network.as_fd())?);
    let node_of_owner = node(&owner)?;
    Ok(
        if node_of_owner == node(&File::open(format!("/proc/{pid}/ns/user"))?)? {
            Vec::new()
        } else if node_of_owner == node(&File::open("/proc/self/ns/user")?)? {
            vec![network.into()]
        } else {
            vec![owner.into(), network.into()]
        },
    )
}
