//! The system calls that neither `std` nor `nix` offers safely. The only unsafe code of this crate.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most descriptors one message may carry; the kernel's own limit is 253.
pub(crate) const MESSAGE_FDS: usize = 128;

/// Which side of [`fork`] this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The caller, with the new process's number and a descriptor that names it beyond its death.
    Parent { pid: u32, pidfd: OwnedFd },
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Forks with namespace `flags` (`CLONE_NEW*`), the child being born in `cgroup` where one is given.
///
/// Refused (`EBUSY`) unless the caller has one thread: the child goes on with a copy of the caller's memory,
/// in which the locks of other threads would stay taken for ever.
pub(crate) fn fork(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(Errno::EBUSY.into());
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zero is valid and means "none".
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(directory) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(directory.as_raw_fd().cast_unsigned());
    }
    // SAFETY: args and pidfd outlive the call; without CLONE_VM the child has its own copy of the memory
    // and, this being the only thread, may go on as after fork(2).
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: with CLONE_PIDFD a successful clone3 stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent {
        pid: u32::try_from(pid).map_err(io::Error::other)?,
        pidfd,
    })
}

/// `CLONE_INTO_CGROUP` of `linux/sched.h`; libc declares it as an int that it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A descriptor that names process `pid` whatever happens to its number.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a successful pidfd_open returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// Sends signal `number` to the process that `pidfd` names.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed and means "as kill(2) does".
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, info, 0) })?;
    Ok(())
}

/// Executes `exe` with `files` under their numbers and no other file open, or tells `failed` why not and
/// ends this process. The sources must lie above all numbers; so must whatever `failed` writes to.
///
/// It does not return because files that others own may have been replaced by then.
pub(crate) fn execute(
    files: &[(OwnedFd, RawFd)],
    (exe, argv, env): (&CStr, &[CString], &[CString]),
    failed: impl FnOnce(Option<RawFd>, io::Error),
) -> ! {
    // SAFETY: no memory is passed, and no descriptor is closed before the exec.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    let error = match check(marked) {
        Err(error) => (None, error),
        Ok(_) => match files
            .iter()
            .try_for_each(|(source, number)| place(source, *number))
        {
            Err(error) => error,
            Ok(()) => match nix::unistd::execve(exe, argv, env) {
                Err(errno) => (None, errno.into()),
                Ok(never) => match never {},
            },
        },
    };
    failed(error.0, error.1);
    exit_now(1)
}

/// Makes descriptor `number` a copy of `source` that outlives an exec; on failure says which it was.
fn place(source: &OwnedFd, number: RawFd) -> Result<(), (Option<RawFd>, io::Error)> {
    // SAFETY: no memory is passed; the only caller ends the process without using what `number` was.
    let placed = unsafe { libc::dup2(source.as_raw_fd(), number) };
    check(placed.into())
        .map(drop)
        .map_err(|error| (Some(number), error))
}

/// Makes the mount at `path`, and those below it, refuse writes.
pub(crate) fn mount_read_only(path: &CStr) -> io::Result<()> {
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        user_ns: 0,
    };
    // SAFETY: path and attributes outlive the call, and the length given is that of the structure.
    check(unsafe {
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

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_ns: u64,
}

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
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
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into())?;
    Ok(())
}

/// `IFF_UP | IFF_RUNNING` of `net/if.h` in the width of the request's field.
const IFF_UP_RUNNING: libc::c_short = 0x1 | 0x40;

/// Gives every signal its default effect again; exec would keep the ignored ones ignored.
pub(crate) fn default_signals() {
    // `struct sigaction` of the kernel, whose zero is SIG_DFL without flags. The C library would refuse to
    // touch the two signals that it uses itself, which a caller's parent may have left ignored.
    let default = [0_u64; 4];
    let (no_old, mask_bytes) = (std::ptr::null::<u64>(), size_of::<u64>());
    for number in 1..=64 {
        // SAFETY: default outlives the call and is at least as long as the kernel's structure; no code is
        // installed; numbers that cannot be changed are refused without effect.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                &raw const default,
                no_old,
                mask_bytes,
            )
        };
    }
}

/// Ends this process without running anything of its memory's former owner.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit runs no handlers and does not return.
    unsafe { libc::_exit(code) }
}

/// Sends one message with descriptors over a sequenced-packet socket; never blocks, never raises SIGPIPE.
pub(crate) fn send(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() {
        rights.get(1..).unwrap_or_default()
    } else {
        &rights
    };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Receives one message of at most `limit` bytes with its descriptors; `None` when the peer is gone.
pub(crate) fn receive(from: BorrowedFd<'_>, limit: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; limit];
    let mut control = nix::cmsg_space!([RawFd; MESSAGE_FDS]);
    let mut fds = Vec::new();
    let (length, cut) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = match recvmsg::<()>(
            from.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            // The peer left without having read everything.
            Err(Errno::ECONNRESET) => return Ok(None),
            message => message?,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel just installed these descriptors for this message, and nobody else owns them.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (
            message.bytes,
            message
                .flags
                .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC),
        )
    };
    if cut {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message is longer than it may be",
        ));
    }
    bytes.truncate(length);
    Ok((length > 0).then_some((bytes, fds)))
}

/// An owned copy of `file` with a number of at least `least`, closed on exec.
pub(crate) fn copy_above(file: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) }.into())?;
    // SAFETY: F_DUPFD_CLOEXEC returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// An empty file that nothing can be read from and whose writes vanish.
pub(crate) fn null() -> io::Result<OwnedFd> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
}

/// Waits until `fds` have something to read or their peer is gone, at most `limit_ms` (-1: no limit).
pub(crate) fn poll(fds: &[BorrowedFd<'_>], limit_ms: i32) -> io::Result<Vec<bool>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let mut asked: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    let limit = PollTimeout::try_from(limit_ms).map_err(io::Error::other)?;
    match nix::poll::poll(&mut asked, limit) {
        Ok(_) => Ok(asked.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
        Err(Errno::EINTR) => Ok(vec![false; fds.len()]),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets tasks wait until `fd` has something to read; to be called within a tokio runtime.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, and the same, until it is dropped, which the AsyncFd alone can do.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
