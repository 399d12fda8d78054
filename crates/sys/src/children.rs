//! Children that have ended, looked at without waiting and, if asked, without taking them.
//!
//! For a process that adopts orphans: it must leave some children to their owners. Called by the runtime.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::checked;

/// ChildSelector children to look at.
#[derive(Debug, Clone, Copy)]
pub enum ChildSelector<'a> {
    /// Any.
    Any,
    /// The one with this process id.
    Pid(i32),
    /// This one (Linux 5.4).
    Fd(BorrowedFd<'a>),
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its process id.
    pub pid: i32,
    /// Exit code, or number of the signal that killed it.
    pub status: i32,
    /// Whether `status` is an exit code.
    pub exited: bool,
}

/// An ended child, if there is one; it is taken off the process table if `take`. Never waits.
///
/// # Errors
/// `ECHILD` where there is no such child at all.
pub fn ended_child(which: ChildSelector<'_>, take: bool) -> io::Result<Option<Ended>> {
    let (kind, id) = match which {
        ChildSelector::Any => (libc::P_ALL, 0),
        ChildSelector::Pid(pid) => (libc::P_PID, pid),
        ChildSelector::Fd(fd) => (libc::P_PIDFD, fd.as_raw_fd()),
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
    Ok((pid != 0).then_some(Ended { pid, status, exited }))
}
