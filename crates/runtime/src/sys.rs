//! The system calls that no safe wrapper offers; the one file of this crate with `unsafe`.
//!
//! Called by `workload` and `pid1`. Nothing here decides anything.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use libc::{c_int, c_long, c_uint};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Highest signal number of Linux.
const LAST_SIGNAL: c_int = 64;

/// Descriptors looked at one by one where the kernel has no `close_range`.
const OLD_KERNEL_FDS: RawFd = 4_096;

fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A descriptor that becomes readable when process `pid` ends (Linux 5.3), known to the event loop.
pub(crate) fn watch_end(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Which children to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// Any.
    Any,
    /// The one with this process id.
    Pid(i32),
    /// This one (Linux 5.4).
    Fd(BorrowedFd<'a>),
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Its process id.
    pub(crate) pid: i32,
    /// Exit code, or number of the signal that killed it.
    pub(crate) status: i32,
    /// Whether `status` is an exit code.
    pub(crate) exited: bool,
}

/// An ended child, if there is one; it is taken off the process table if `take`. Never waits.
///
/// # Errors
/// `ECHILD` where there is no such child at all.
pub(crate) fn ended_child(which: Which<'_>, take: bool) -> io::Result<Option<Exit>> {
    let (kind, id) = match which {
        Which::Any => (libc::P_ALL, 0),
        Which::Pid(pid) => (libc::P_PID, pid),
        Which::Fd(fd) => (libc::P_PIDFD, fd.as_raw_fd()),
    };
    let id = libc::id_t::try_from(id).map_err(io::Error::other)?;
    let flags = libc::WEXITED | libc::WNOHANG | if take { 0 } else { libc::WNOWAIT };
    // SAFETY: `siginfo_t` is plain data, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `siginfo_t`.
    checked(unsafe { libc::waitid(kind, id, &raw mut info, flags) }.into())?;
    // SAFETY: waitid fills these fields of the union, or leaves them zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let exited = info.si_code == libc::CLD_EXITED;
    Ok((pid != 0).then_some(Exit { pid, status, exited }))
}

/// Sends a signal by number, real-time ones included; `pid` as in kill(2).
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes two integers and touches no memory of ours.
    checked(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Who the new program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: libc::uid_t,
    pub(crate) gid: libc::gid_t,
    pub(crate) groups: Vec<libc::gid_t>,
}

/// Starts `command` in a session of its own, with default signal handling, no descriptor of ours but 0, 1, 2 and
/// `keep`, killed when the calling thread ends.
pub(crate) fn spawn(
    command: &mut Command,
    credentials: Option<Credentials>,
    keep: Option<RawFd>,
) -> io::Result<Child> {
    let parent = std::process::id();
    let enter = move || {
        own_session()?;
        default_signals()?;
        if let Some(credentials) = &credentials {
            switch_user(credentials)?;
        }
        die_with(parent)?;
        close_others(keep)
    };
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) }.spawn()
}

fn own_session() -> io::Result<()> {
    // SAFETY: no arguments.
    checked(unsafe { libc::setsid() }.into()).map(drop)
}

fn default_signals() -> io::Result<()> {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the default action has no handler. SIGKILL, SIGSTOP and those of libc refuse, which is as good.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a zeroed `sigset_t` is storage for sigemptyset, which makes it a value.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to a live set; the old one is not wanted.
    let result = unsafe {
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    checked(result.into()).map(drop)
}

fn switch_user(to: &Credentials) -> io::Result<()> {
    // SAFETY: pointer and length are of one live vector. Groups go first, while we may still change them.
    checked(unsafe { libc::setgroups(to.groups.len(), to.groups.as_ptr()) }.into())?;
    // SAFETY: takes integers.
    checked(unsafe { libc::setresgid(to.gid, to.gid, to.gid) }.into())?;
    // SAFETY: takes integers.
    checked(unsafe { libc::setresuid(to.uid, to.uid, to.uid) }.into()).map(drop)
}

fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: takes integers. After the change of user, which would clear it.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into())?;
    // SAFETY: no arguments.
    let now = unsafe { libc::getppid() };
    if u32::try_from(now).is_ok_and(|now| now == parent) {
        return Ok(());
    }
    // The parent ended before the line above took effect.
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

fn close_others(keep: Option<RawFd>) -> io::Result<()> {
    let (first, last, on_exec): (c_uint, c_uint, c_uint) = (3, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes integers. Closing waits for exec, for std reports a failed exec over a descriptor of its own.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, on_exec) } != 0 {
        for fd in 3..OLD_KERNEL_FDS {
            // SAFETY: takes integers; a descriptor that is not open refuses, which is as good.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    match keep {
        // SAFETY: takes integers.
        Some(fd) => checked(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop),
        None => Ok(()),
    }
}

/// Takes an inherited descriptor over; `None` where the number is not open.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: `fcntl` with `F_SETFD` takes a number, open or not, and touches no memory.
    let open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: the number is open, was given to this process by whoever started it, and is taken over once, at boot.
    (number > 2 && open).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}
