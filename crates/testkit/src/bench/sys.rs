//! The one place of this crate with `unsafe`: descriptors that nix returns as numbers.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Owns what `accept` or `recvmsg` has just returned.
pub(super) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed it for this process, and the callers give each number away once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
