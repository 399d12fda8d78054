//! The one place of this crate with `unsafe`: descriptors that tokio polls.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has tokio watch `fd`, which must be in non-blocking mode if it is read or written.
pub(crate) fn polled(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is a valid, open descriptor, and it stays open and unchanged while the `AsyncFd` owns it:
    // nothing here takes it out or hands out more than a borrow.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}
