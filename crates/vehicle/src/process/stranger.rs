//! Between a machine and the program of a stranger: a process 1 of ours, which passes signals on and buries orphans, and the
//! child that loses what a stranger must not have before it becomes the program.
//!
//! Process 1 keeps nothing open. It keeps its capabilities, so that nobody who has fewer may look into it. It ends as the program did,
//! and the kernel ends the rest.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setuid};
use suijuris_sys::confine::{self, Confinement, ProcessLimits};
use suijuris_sys::fork::{self, Fork};
use suijuris_sys::{namespaces, signals};

use super::wire::{Fault, Step};
use crate::spec::Account;

/// What is added to the number of a signal that a program died of.
const DIED: i32 = 128;

/// Forks. Returns in the child, confined, and nowhere else.
pub(super) fn become_child(account: &Account, has_one_user: bool) -> Result<(), Fault> {
    let fault = |error: io::Error| Fault::new(Step::Confine, "", &error);
    match fork::fork(0, None).map_err(fault)? {
        Fork::Child => {
            nix::unistd::setsid().map_err(|errno| fault(errno.into()))?;
            confine(account, has_one_user).map_err(fault)
        }
        Fork::Parent { pid, pidfd } => {
            drop(pidfd);
            watch_over(pid)
        }
    }
}

/// Becomes `account`, and loses what a stranger's program must not have.
pub(super) fn confine(account: &Account, has_one_user: bool) -> io::Result<()> {
    let confinement = Confinement::new(None, ProcessLimits::default())?;
    confine::drop_bounding()?;
    // Those, where there is one user and one group.
    if !has_one_user {
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(account.gid))?;
        setuid(Uid::from_raw(account.uid))?;
    }
    confinement.apply()
}

/// Process 1 until `first` has ended.
fn watch_over(first: u32) -> ! {
    let watched = SigSet::all();
    // What is blocked is kept for process 1 too, whose default is to hear nothing.
    let blocked = watched.thread_set_mask();
    let first = Pid::from_raw(first.cast_signed());
    namespaces::close_from(0);
    if blocked.is_err() {
        fork::exit_now(DIED);
    }
    loop {
        match watched.wait() {
            Ok(Signal::SIGCHLD) => bury(first),
            // Its end, if that is why it fails, comes as a signal of its own.
            Ok(signal) => drop(signals::kill(first.as_raw(), signal as i32)),
            Err(_) => bury(first),
        }
    }
}

fn bury(first: Pid) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == first => fork::exit_now(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == first => {
                fork::exit_now(DIED + signal as i32);
            }
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => fork::exit_now(DIED),
        }
    }
}
