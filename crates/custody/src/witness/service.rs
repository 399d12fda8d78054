//! One thread and one event loop for the witnesses of all objects of a process.
//!
//! Each object has a task of its own there (`task`), so that a depot that is slow for one delays no other. Nothing else runs
//! on it: whatever an object, its door or its reader does, leases are renewed.

use std::io;
use std::sync::Arc;

use suijuris_depot::Session;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch};

use super::task::{Channels, Task};
use super::{COMMANDS, Config, History, Lease, LeaseEvent, Witness};

/// Stack of the service's thread: it runs a depot's client.
const STACK_BYTES: usize = 512 << 10;

/// Threads that look into histories at once at most. Only a copy whose mark is not its head waits for one.
const READERS: usize = 2;

/// The witnesses of a process. Clones are the same service; its thread ends with the last of them and of their witnesses.
#[derive(Debug, Clone)]
pub struct Service(Arc<Running>);

#[derive(Debug)]
struct Running {
    tokio: Handle,
    /// Dropping it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Service {
    /// Starts the thread. It asks nothing before an object is opened, and nothing of an object before its first claim.
    ///
    /// # Errors
    /// The system's answer where it starts no thread.
    pub fn start() -> io::Result<Self> {
        let tokio = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READERS)
            .build()?;
        let handle = tokio.handle().clone();
        let (running, over) = oneshot::channel();
        std::thread::Builder::new()
            .name("witness".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // It says nothing and ends with the last handle.
                let _ = tokio.block_on(over);
                // A question to the disk may hang; nobody waits for its answer any more.
                tokio.shutdown_background();
            })?;
        Ok(Self(Arc::new(Running {
            tokio: handle,
            _running: running,
        })))
    }

    /// Takes one more object in. Nothing is asked before the first claim.
    #[must_use]
    pub fn open(&self, config: Config, depot: Arc<Session>, history: Arc<dyn History>) -> Witness {
        let (commands, taken) = mpsc::channel(COMMANDS);
        let (newest, followed) = watch::channel(config.newest);
        let (covers, covered) = watch::channel(None);
        let (tells, news) = watch::channel(LeaseEvent::default());
        let lease = Lease::default();
        let channels = Channels {
            lease: lease.clone(),
            commands: taken,
            newest: followed,
            covered: covers,
            news: tells,
        };
        let mut task = Task::new(config, depot, history, channels);
        // Before anybody looks at the lease.
        let keeper = task.begin();
        // Ended by dropping the witness, or with the thread.
        drop(self.0.tokio.spawn(task.run(keeper)));
        Witness {
            lease,
            commands,
            newest,
            covered,
            news,
            _service: self.clone(),
        }
    }
}
