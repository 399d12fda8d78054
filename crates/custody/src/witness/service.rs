//! One thread and one event loop for the witnesses of all objects of a process.
//!
//! Each object has a task of its own there (`task`), so that a depot that is slow for one delays no other. Nothing else runs
//! on it: whatever an object, its door or its reader does, leases are renewed.

use std::io;
use std::sync::Arc;

use suijuris_depot::Session;
use tokio::sync::{mpsc, watch};

use crate::event_loop::EventLoop;

use super::task::{Channels, Task};
use super::{COMMANDS, Config, History, Lease, LeaseEvent, Witness};

/// The witnesses of a process. Clones are the same service; its thread ends with the last of them and of their witnesses.
#[derive(Debug, Clone)]
pub struct Service(EventLoop);

impl Service {
    /// Starts the thread. It asks nothing before an object is opened, and nothing of an object before its first claim.
    ///
    /// # Errors
    /// The system's answer where it starts no thread.
    pub fn start() -> io::Result<Self> {
        EventLoop::start("witness").map(Self)
    }

    /// Without a thread, on the event loop that this is called on: for a process of one object whose loop waits for nothing
    /// long. Where that is held up, renewals are late, and the lease says so before anything is served.
    ///
    /// # Panics
    /// Outside an event loop.
    #[must_use]
    pub fn here() -> Self {
        Self(EventLoop::here())
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
        drop(self.0.tokio().spawn(task.run(keeper)));
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
