//! Whether a workload that was ready still can serve. Asked by whoever watches it, who ends one that cannot.

use std::net::SocketAddr;
use std::time::Duration;

use suijuris_core::manifest::{Live, Ready};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Running;
use super::ready::{Missing, listening, status};

/// A workload that was ready and does not answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the workload does not answer any more ({failures} in a row): {missing}")]
pub struct Stuck {
    /// Answers that were missing one after the other.
    pub failures: u32,
    /// The last of them.
    pub missing: Missing,
}

impl Running {
    /// Waits until the workload, which was ready and listens `at` this address, does not answer any more; for good where
    /// nobody is to ask. Cancel safe.
    pub async fn stuck(&self, live: Option<&Live>, at: SocketAddr) -> Stuck {
        let Some(live) = live else {
            return self.heard_for_good().await;
        };
        let every = Duration::from_millis(u64::try_from(live.every.0).unwrap_or(0));
        let mut failures = 0;
        loop {
            let answer = if live.by == Ready::Notify {
                self.says_so(Instant::now() + every).await
            } else {
                tokio::select! {
                    () = sleep(every) => {}
                    // So that whoever says more than was asked does not wait for a reader.
                    never = self.heard_for_good() => return never,
                }
                self.answers(&live.by, at, every).await
            };
            let Err(missing) = answer else {
                failures = 0;
                continue;
            };
            failures += 1;
            let wants_end = missing == Missing::Triggered;
            if failures >= live.failures || wants_end {
                return Stuck { failures, missing };
            }
        }
    }

    /// Takes in what is said to the socket, which must not fill up; what it means was for the start.
    async fn heard_for_good(&self) -> Stuck {
        loop {
            match self.notify() {
                Some(notify) => drop(notify.next().await),
                None => std::future::pending().await,
            }
        }
    }

    async fn says_so(&self, until: Instant) -> Result<(), Missing> {
        let Some(notify) = self.notify() else {
            return std::future::pending().await;
        };
        loop {
            match timeout_at(until, notify.next()).await {
                Ok(said) if said.stuck => return Err(Missing::Triggered),
                Ok(said) if said.alive => return Ok(()),
                Ok(_) => {}
                Err(_elapsed) => return Err(Missing::Watchdog),
            }
        }
    }

    async fn answers(&self, by: &Ready, at: SocketAddr, within: Duration) -> Result<(), Missing> {
        match by {
            Ready::Http(path) => match timeout(within, status(at, path)).await {
                Ok(Ok(Some(status))) if status < 500 => Ok(()),
                Ok(Ok(Some(status))) => Err(Missing::Status(status)),
                _ => Err(Missing::Answer),
            },
            Ready::Command(_) => match self.questions().live.as_ref() {
                Some(question) => question.ask(self.pid(), within).await,
                None => Ok(()),
            },
            Ready::Tcp => match listening(self.port()) {
                Ok(None) => Err(Missing::Listener(self.port())),
                // Where the kernel does not say, it is not held against the workload.
                Ok(Some(_)) | Err(_) => Ok(()),
            },
            Ready::Agent | Ready::Spawned | Ready::Notify => Ok(()),
        }
    }
}
