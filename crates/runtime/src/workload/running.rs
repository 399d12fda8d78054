//! A started workload: watch it, signal it, stop it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use suijuris_core::time::Span;
use suijuris_sys::exhaustion::Counts;
use suijuris_sys::{ChildSelector, Pidfd, ended_child, kill};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::command::Question;
use super::notify::Notify;
use super::process_tree;
use super::secrets::Files;
use super::{Ended, Exhausted, How, Stopped};
use crate::pid1;

/// Time between two looks at processes that are on their way out.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Time for the kernel to clear away what SIGKILL was sent to.
const CLEARED_WITHIN: Duration = Duration::from_secs(5);

/// A workload. Dropping it kills the workload.
#[derive(Debug)]
pub struct Running {
    pid: i32,
    port: u16,
    pidfd: AsyncFd<OwnedFd>,
    ended: OnceLock<Ended>,
    /// What had run out before it.
    before: Counts,
    given: Given,
}

/// What a workload was given, which goes with it, and how it is asked.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Its secrets' files.
    pub(super) _secrets: Option<Files>,
    /// Where it says how it is.
    pub(super) notify: Option<Notify>,
    pub(super) questions: Questions,
}

/// Commands that are asked about it.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) ready: Option<Question>,
    pub(super) live: Option<Question>,
}

impl Running {
    pub(super) fn watch(pid: i32, port: u16, given: Given) -> io::Result<Self> {
        let pidfd = Pidfd::open(u32::try_from(pid).map_err(io::Error::other)?)?.watch()?;
        Ok(Self {
            pid,
            port,
            pidfd,
            ended: OnceLock::new(),
            before: Counts::now(),
            given,
        })
    }

    /// Process id of the workload's first process, which leads its session and process group.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) const fn notify(&self) -> Option<&Notify> {
        self.given.notify.as_ref()
    }

    pub(super) const fn questions(&self) -> &Questions {
        &self.given.questions
    }

    /// Port that the workload was told to listen on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the first process has ended. Cancel safe; any number of callers get the same answer.
    pub async fn ended(&self) -> Ended {
        loop {
            if let Some(ended) = self.poll_ended() {
                return ended;
            }
            match self.pidfd.readable().await {
                Ok(mut guard) if self.poll_ended().is_none() => guard.clear_ready(),
                Ok(_) => {}
                // The event loop is shutting down: nobody is left to wait.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// How the first process ended, if it has.
    #[must_use]
    pub fn poll_ended(&self) -> Option<Ended> {
        if let Some(ended) = self.ended.get() {
            return Some(*ended);
        }
        let this = ChildSelector::Fd(self.pidfd.as_fd());
        let how = match ended_child(this, false) {
            Ok(None) => return None,
            Ok(Some(exit)) if exit.exited => How::Exited(exit.status),
            Ok(Some(exit)) => How::Killed(exit.status),
            Err(_) => How::Unknown,
        };
        // Counted while the zombie still holds the number of its session.
        let left = process_tree::others(self.pid).len();
        let _ = ended_child(this, true);
        let exhausted = Exhausted::since(self.before);
        let ended = Ended { how, left, exhausted };
        Some(*self.ended.get_or_init(|| ended))
    }

    /// Sends a signal to the workload's process group; nothing happens after its end.
    ///
    /// # Errors
    /// If the kernel refuses: no such signal, or processes of another user.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match self.poll_ended() {
            Some(_) => Ok(()),
            None => kill(-self.pid, signal),
        }
    }

    /// Asks every process of the workload to end by `signal`, then kills what is left `within` later. Returns when
    /// nothing is left, or the kernel does not get rid of it.
    ///
    /// Not cancel safe in that a workload that was asked to stop stays so; call it again to finish.
    pub async fn stop(&self, signal: i32, within: Span) -> Stopped {
        let within = Duration::from_millis(u64::try_from(within.0).unwrap_or(0));
        let deadline = Instant::now() + within;
        self.ask(signal);
        let mut forced = timeout_at(deadline, self.ended()).await.is_err();
        forced |= !self.alone_by(deadline).await;
        if forced {
            self.kill_all();
            // Uninterruptible sleep in the kernel can outlast even SIGKILL.
            let _ = timeout(CLEARED_WITHIN, self.ended()).await;
            self.cleared_by(Instant::now() + CLEARED_WITHIN).await;
        }
        let ended = self.poll_ended();
        let left = process_tree::others(self.pid).len();
        Stopped {
            ended: Ended {
                how: ended.map_or(How::Unknown, |ended| ended.how),
                left,
                exhausted: ended.map_or_else(Exhausted::default, |ended| ended.exhausted),
            },
            forced,
        }
    }

    /// A live group in one call, so that nobody slips through a fork; all others one by one. Who is forked later is
    /// not asked: it may be what cleans up.
    fn ask(&self, signal: i32) {
        let singly = match self.poll_ended() {
            Some(_) => process_tree::others(self.pid),
            None => process_tree::outside_group(self.pid),
        };
        // A stopped process takes no signal until it goes on.
        for signal in [signal, libc::SIGCONT] {
            let _ = self.signal(signal);
            process_tree::signal_each(&singly, signal);
        }
    }

    fn kill_all(&self) {
        let _ = self.signal(libc::SIGKILL);
        process_tree::signal_each(&process_tree::others(self.pid), libc::SIGKILL);
    }

    /// Whether every other process of the workload ended before `deadline`.
    async fn alone_by(&self, deadline: Instant) -> bool {
        while !process_tree::others(self.pid).is_empty() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_AGAIN).await;
            self.reap();
        }
        true
    }

    /// Kills again whoever a dying process forked.
    async fn cleared_by(&self, deadline: Instant) {
        while !process_tree::others(self.pid).is_empty() && Instant::now() < deadline {
            self.kill_all();
            sleep(LOOK_AGAIN).await;
            self.reap();
        }
    }

    fn reap(&self) {
        if process_tree::adopts_orphans() {
            pid1::reap(Some(self.pid));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.poll_ended().is_none() {
            let _ = kill(-self.pid, libc::SIGKILL);
        }
    }
}
