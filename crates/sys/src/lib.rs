//! The room for `unsafe`: system calls that several crates need and that neither `std` nor `nix` offers safely.
//!
//! Every function here is safe to call and decides nothing: descriptors over sockets, processes named by
//! descriptors, the process table, the way from a fork to an exec. Used by `link`, `vehicle` and `runtime`.

pub mod children;
pub mod clock;
pub mod confine;
pub mod descriptors;
pub mod environment;
pub mod exhaustion;
pub mod fork;
pub mod kvm;
pub mod link;
pub mod mounts;
pub mod namespaces;
pub mod netlink;
pub mod network;
pub mod peers;
pub mod places;
pub mod processes;
pub mod random;
pub mod signals;
pub mod sockets;
pub mod spawn;
pub mod terminals;
pub mod userfault;
pub mod view;

use std::io;

pub use children::{ChildSelector, Ended, ended_child};
pub use descriptors::watch;
pub use processes::{Pidfd, Process};
pub use signals::kill;

/// The result of a system call, or the error that the kernel left.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A new descriptor that a system call returned as a number.
fn owned(number: libc::c_long) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the callers pass what the kernel has just made for this process, and nobody else owns it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}
