//! What a machine's fresh namespaces need and `nix` does not offer. Called by `vehicle`, before an exec.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::checked;

/// Makes the mount at `path`, and those below it, refuse writes.
///
/// # Errors
/// When it is no mount, or the kernel refuses.
pub fn read_only(path: &CStr) -> io::Result<()> {
    let attributes = MountAttributes::changing(libc::MOUNT_ATTR_RDONLY, 0);
    // SAFETY: path and attributes outlive the call, and the length given is that of the structure.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}

/// What is mounted at `path`, with all below it, taken along to be attached elsewhere: it outlives the view it is taken from.
///
/// # Errors
/// When there is nothing, or the kernel refuses.
pub fn take(path: &CStr) -> io::Result<OwnedFd> {
    let tree = crate::view::clone_tree(path)?;
    // SAFETY: the number was made just now and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(tree) })
}

/// Makes a taken tree refuse writes.
///
/// # Errors
/// When the kernel refuses.
pub fn make_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    crate::view::attributes(tree.as_raw_fd(), c"", true, libc::MOUNT_ATTR_RDONLY, 0)
}

/// Mounts a taken tree at `to`.
///
/// # Errors
/// When `to` is not there or of another kind, or the kernel refuses.
pub fn put(tree: BorrowedFd<'_>, to: &CStr) -> io::Result<()> {
    crate::view::attach(tree.as_raw_fd(), to)
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
pub(crate) struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_ns: u64,
}

impl MountAttributes {
    pub(crate) const fn changing(set: u64, clear: u64) -> Self {
        Self {
            set,
            clear,
            propagation: 0,
            user_ns: 0,
        }
    }
}

/// Brings the loopback interface of the current network namespace up.
///
/// # Errors
/// When the kernel refuses.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain integers and unions of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = IFF_UP_RUNNING;
    // SAFETY: the request outlives the call and is what SIOCSIFFLAGS reads.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into())?;
    Ok(())
}

/// `IFF_UP | IFF_RUNNING` of `net/if.h` in the width of the request's field.
const IFF_UP_RUNNING: libc::c_short = 0x1 | 0x40;
