//! A child of a process with threads: in a session of its own, as another user, with few descriptors. Called by the
//! runtime.

use std::ffi::CStr;
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

/// Who the new program runs as, where that is not who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// Another user of this machine.
    Other(Credentials),
    /// Ours, under other numbers: in a user namespace of its own, which knows no other user. For a machine that has one user.
    Renamed {
        /// The number it has there.
        uid: libc::uid_t,
        /// Its group's number there.
        gid: libc::gid_t,
    },
}

/// Another user.
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
    user: Option<User>,
    keep: Option<RawFd>,
    confinement: Option<Arc<Confinement>>,
) -> io::Result<Child> {
    let parent = std::process::id();
    let renaming = match &user {
        Some(User::Renamed { uid, gid }) => Some(Renaming::to(*uid, *gid)),
        _ => None,
    };
    let mut room = confinement.as_deref().map_or_else(Vec::new, Confinement::room);
    let enter = move || {
        own_session()?;
        signals::default_all();
        signals::unblock_all()?;
        // The view may leave `/proc` read-only.
        let own = renaming.as_ref().map(|_| own_proc()).transpose()?;
        if let Some(confinement) = &confinement {
            confinement.see(&mut room)?;
        }
        if let Some(User::Other(credentials)) = &user {
            switch_user(credentials)?;
        }
        if let (Some(renaming), Some(own)) = (&renaming, own) {
            renaming.apply(own)?;
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

/// What a user namespace of one user is told, made before the fork.
struct Renaming {
    uid_map: String,
    gid_map: String,
}

impl Renaming {
    fn to(uid: libc::uid_t, gid: libc::gid_t) -> Self {
        let (ours, our_group) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self {
            uid_map: format!("{uid} {ours} 1"),
            gid_map: format!("{gid} {our_group} 1"),
        }
    }

    /// `own` is this process's directory in `/proc`.
    fn apply(&self, own: RawFd) -> io::Result<()> {
        // Else the files below belong to root, whoever that is. The exec sets it so in any case.
        // SAFETY: takes integers.
        checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into())?;
        // SAFETY: takes an integer; this process has one thread.
        checked(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())?;
        // Who may map a group may not drop one that keeps out.
        write_at(own, c"setgroups", b"deny")?;
        write_at(own, c"uid_map", self.uid_map.as_bytes())?;
        write_at(own, c"gid_map", self.gid_map.as_bytes())
    }
}

/// This process's directory in `/proc`, closed by exec.
fn own_proc() -> io::Result<RawFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the text outlives the call.
    let fd = unsafe { libc::open(c"/proc/self".as_ptr(), flags) };
    checked(fd.into()).map(|_| fd)
}

fn write_at(directory: RawFd, name: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the text outlives the call.
    let fd = unsafe { libc::openat(directory, name.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    checked(fd.into())?;
    // SAFETY: pointer and length are of one live slice.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    checked(written as libc::c_long).map(drop)
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
