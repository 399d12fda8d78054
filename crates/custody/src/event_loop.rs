//! An event loop on a thread of its own, for a service that all objects of a process share.
//!
//! Called by the witness service and the relay.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads for blocking work of one loop at most: questions to histories on the disk.
const BLOCKING: usize = 2;

/// Stack of the thread, bytes: it runs a depot's client.
const STACK_BYTES: usize = 512 << 10;

/// A running loop. Clones are the same one; it ends with the last of them, and what hangs on it is not waited for.
#[derive(Debug, Clone)]
pub(crate) struct EventLoop(Arc<Running>);

#[derive(Debug)]
struct Running {
    tokio: Handle,
    /// Dropping it ends the thread, where there is one.
    _running: Option<oneshot::Sender<()>>,
}

impl EventLoop {
    /// Starts the thread, called `name`.
    ///
    /// # Errors
    /// The system's answer where it starts no thread.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let tokio = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING)
            .build()?;
        let handle = tokio.handle().clone();
        let (running, over) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // It says nothing and ends with the last handle.
                let _ = tokio.block_on(over);
                // A question to the disk may hang; nobody waits for its answer any more.
                tokio.shutdown_background();
            })?;
        Ok(Self(Arc::new(Running {
            tokio: handle,
            _running: Some(running),
        })))
    }

    /// The loop that this is called on.
    pub(crate) fn here() -> Self {
        Self(Arc::new(Running {
            tokio: Handle::current(),
            _running: None,
        }))
    }

    /// Where tasks are spawned.
    pub(crate) fn tokio(&self) -> &Handle {
        &self.0.tokio
    }
}
