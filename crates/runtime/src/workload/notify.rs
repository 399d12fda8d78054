//! What a workload says of itself to the socket in `NOTIFY_SOCKET`, as `sd_notify(3)` does: redis, PostgreSQL, MySQL, caddy
//! and many others speak it where they are told so.
//!
//! Whoever in the machine can open the socket is the workload. Lines that mean nothing here are left alone; descriptors that
//! come along are closed, which is what `sd_notify_barrier(3)` waits for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixDatagram;

/// Variable with the socket's path.
pub(super) const SOCKET: &str = "NOTIFY_SOCKET";

/// Variable with the time between two signs of life at most, in microseconds.
pub(super) const WATCHDOG: &str = "WATCHDOG_USEC";

/// Bytes of one message that are looked at; what real programs send has less than a hundred.
const MESSAGE_BYTES: usize = 4_096;

/// The socket. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
    said_ready: AtomicBool,
}

/// What one message says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) ready: bool,
    /// It lives.
    pub(super) alive: bool,
    /// It wants to be ended as if it did not.
    pub(super) stuck: bool,
}

impl Notify {
    /// Makes the socket beside the agent socket, in place of one that a former run left behind.
    pub(super) fn bind(agent_socket: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        // Shorter than the agent socket's name, whose path the kernel has taken.
        let path = agent_socket.with_file_name("notify");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            socket,
            path,
            said_ready: AtomicBool::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message. Cancel safe.
    pub(super) async fn next(&self) -> Said {
        let mut bytes = [0; MESSAGE_BYTES];
        match self.socket.recv(&mut bytes).await {
            Ok(length) => {
                let said = said(bytes.get(..length).unwrap_or_default());
                self.said_ready.fetch_or(said.ready, Ordering::Relaxed);
                said
            }
            // Nothing can be heard any more; bounds in time are for whoever waits.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until it has said that it can serve, now or before. Cancel safe.
    pub(super) async fn ready(&self) {
        while !self.said_ready.load(Ordering::Relaxed) {
            self.next().await;
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        // The machine's directory goes with it in any case.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn said(message: &[u8]) -> Said {
    let mut said = Said::default();
    for line in message.split(|byte| *byte == b'\n') {
        match line {
            b"READY=1" => said.ready = true,
            b"WATCHDOG=1" => said.alive = true,
            b"WATCHDOG=trigger" => said.stuck = true,
            _ => {}
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_mean_what_sd_notify_says() {
        let said = |message: &str| {
            let said = said(message.as_bytes());
            (said.ready, said.alive, said.stuck)
        };
        assert_eq!(said("READY=1"), (true, false, false));
        assert_eq!(said("STATUS=Ready to accept\nREADY=1\n"), (true, false, false));
        assert_eq!(said("WATCHDOG=1"), (false, true, false));
        assert_eq!(said("WATCHDOG=trigger"), (false, false, true));
        for other in ["READY=0", "READY=11", " READY=1", "STATUS=READY=1", ""] {
            assert_eq!(said(other), (false, false, false), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_message_is_a_panic(bytes: Vec<u8>) {
            let _ = said(&bytes);
        }
    }
}
