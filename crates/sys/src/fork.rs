//! From one process to two, and from a child to another program. For single-threaded processes: `vehicle`'s shim.

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::processes::Pidfd;
use crate::{checked, owned};

/// Which side of [`fork`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// The new process's number.
        pid: u32,
        /// What names it beyond its death.
        pidfd: Pidfd,
    },
}

/// Forks with namespace `flags` (`CLONE_NEW*`), the child being born in `cgroup` where one is given.
///
/// # Errors
/// `EBUSY` unless the caller has one thread: the child goes on with a copy of the caller's memory, in which the locks
/// of other threads would stay taken for ever. Others as of clone3(2).
pub fn fork(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    one_thread()?;
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
        checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    Ok(Fork::Parent {
        pid: u32::try_from(pid).map_err(io::Error::other)?,
        // With CLONE_PIDFD a successful clone3 stored a new descriptor there.
        pidfd: Pidfd::from(owned(pidfd.into())?),
    })
}

/// `EBUSY` unless this process has one thread.
pub(crate) fn one_thread() -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() == 1 {
        Ok(())
    } else {
        Err(Errno::EBUSY.into())
    }
}

/// `CLONE_INTO_CGROUP` of `linux/sched.h`; libc declares it as an int that it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Executes `exe` with `files` under their numbers and no other file open, or tells `failed` why not and
/// ends this process. The sources must lie above all numbers; so must whatever `failed` writes to.
///
/// It does not return because files that others own may have been replaced by then.
pub fn execute(
    files: &[(OwnedFd, RawFd)],
    (exe, argv, env): (&CStr, &[CString], &[CString]),
    failed: impl FnOnce(Option<RawFd>, io::Error),
) -> ! {
    // SAFETY: no memory is passed, and no descriptor is closed before the exec.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    let error = match checked(marked) {
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
    checked(placed.into())
        .map(drop)
        .map_err(|error| (Some(number), error))
}

/// Ends this process without running anything of its memory's former owner.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit runs no handlers and does not return.
    unsafe { libc::_exit(code) }
}
