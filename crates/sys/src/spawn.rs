//! A child of a process with threads: in a session of its own, as another user, with few descriptors. Called by the
//! runtime.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::Arc;

use libc::c_uint;

use crate::confine::Confinement;
use crate::{checked, signals};

/// Descriptors looked at one by one where the kernel has no `close_range`.
const OLD_KERNEL_FDS: RawFd = 4_096;

/// Who the new program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: libc::uid_t,
    /// Group.
    pub gid: libc::gid_t,
    /// Supplementary groups.
    pub groups: Vec<libc::gid_t>,
}

/// Starts `command` in a session of its own, with default signal handling, no descriptor of ours but 0, 1, 2 and
/// `keep`, killed when the calling thread ends, and without what `confinement` takes from it.
///
/// # Errors
/// As [`Command::spawn`], and when one of these steps is refused; [`Confinement::trouble`] says which of its own.
pub fn spawn(
    command: &mut Command,
    credentials: Option<Credentials>,
    keep: Option<RawFd>,
    confinement: Option<Arc<Confinement>>,
) -> io::Result<Child> {
    let parent = std::process::id();
    let mut room = confinement.as_deref().map_or_else(Vec::new, Confinement::room);
    let enter = move || {
        own_session()?;
        signals::default_all();
        signals::unblock_all()?;
        if let Some(confinement) = &confinement {
            confinement.see(&mut room)?;
        }
        if let Some(credentials) = &credentials {
            switch_user(credentials)?;
        }
        die_with(parent)?;
        close_others(keep)?;
        match &confinement {
            Some(confinement) => confinement.lose(),
            None => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) }.spawn()
}

fn own_session() -> io::Result<()> {
    // SAFETY: no arguments.
    checked(unsafe { libc::setsid() }.into()).map(drop)
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
