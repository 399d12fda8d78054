//! A command that is asked whether a workload can serve: it runs as the workload does, as its user, in its view, with what is
//! taken from it taken, and answers by its status. What it prints is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use suijuris_sys::confine::{Confinement, ProcessLimits};
use suijuris_sys::spawn::{self as child, User};
use suijuris_sys::{ChildSelector, Pidfd, ended_child, kill};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::ready::Missing;

/// Commands under way: their status is for whoever asked, and not for whoever reaps orphans.
static ASKED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Whether this child is a command whose answer is waited for.
pub(crate) fn is_asked(pid: i32) -> bool {
    ASKED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(&pid)
}

/// A command, ready to be asked again and again.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) program: PathBuf,
    pub(super) name: OsString,
    pub(super) arguments: Vec<OsString>,
    pub(super) env: BTreeMap<OsString, OsString>,
    pub(super) cwd: PathBuf,
    pub(super) user: Option<User>,
    /// What the workload was started without, where it has no view of its own.
    pub(super) confinement: Arc<Confinement>,
    pub(super) limits: ProcessLimits,
    /// The workload has a view of its own, which the command joins.
    pub(super) joins: bool,
}

impl Question {
    /// Asks once; `workload` is the workload's first process. Cancel safe: dropping it ends the command.
    pub(super) async fn ask(&self, workload: i32, within: Duration) -> Result<(), Missing> {
        let asked = self.start(workload).map_err(|_| Missing::CommandStart)?;
        match timeout(within, asked.status()).await {
            Ok(0) => Ok(()),
            Ok(status) => Err(Missing::Command(status)),
            Err(_elapsed) => Err(Missing::CommandTime),
        }
    }

    fn start(&self, workload: i32) -> io::Result<Asked> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(&self.env)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        std::os::unix::process::CommandExt::arg0(&mut command, &self.name);
        let confinement = if self.joins {
            let view = std::fs::File::open(format!("/proc/{workload}/ns/mnt"))?;
            let cwd = CString::new(self.cwd.as_os_str().as_bytes())?;
            Arc::new(Confinement::joining(view.into(), cwd, self.limits)?)
        } else {
            command.current_dir(&self.cwd);
            self.confinement.clone()
        };
        let child = child::spawn(&mut command, self.user.clone(), None, Some(confinement))?;
        Asked::watch(i32::try_from(child.id()).map_err(io::Error::other)?)
    }
}

/// A command under way. Dropping it kills it and all in its session.
struct Asked {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
}

impl Asked {
    fn watch(pid: i32) -> io::Result<Self> {
        ASKED.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        let watched = Pidfd::open(pid.cast_unsigned()).and_then(Pidfd::watch);
        watched.map(|pidfd| Self { pid, pidfd }).inspect_err(|_| end(pid))
    }

    /// The exit status; of one that a signal ended 128 and the signal's number, as a shell has it.
    async fn status(&self) -> i32 {
        let this = ChildSelector::Fd(self.pidfd.as_fd());
        loop {
            match ended_child(this, false) {
                Ok(None) => {}
                Ok(Some(ended)) if ended.exited => return ended.status,
                Ok(Some(ended)) => return 128_i32.saturating_add(ended.status),
                Err(_) => return i32::MAX,
            }
            match self.pidfd.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                // The event loop is shutting down: nobody is left to ask.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        end(self.pid);
        // Where it has not ended yet, it is an orphan like others.
        let _ = ended_child(ChildSelector::Fd(self.pidfd.as_fd()), true);
    }
}

fn end(pid: i32) {
    let _ = kill(-pid, libc::SIGKILL);
    ASKED.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
}
