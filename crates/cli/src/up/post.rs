//! Messages that wait for a sleeping object: noticed when they arrive, and proposed again, ever more rarely, while the object
//! refuses to wake for them.

use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_depot::{Depot, Waiting};
use tokio::time::Instant;

/// Messages looked at; one that wakes is among them, or behind so many that do not.
const LOOK_AT: usize = 1_000;

/// The inbox is looked at this often where the depot does not tell of changes.
const LOOK: Duration = Duration::from_secs(5);

/// Bounds of the time between two proposals for messages that were refused.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The inbox of a sleeping object, as `up` watches it.
pub(super) struct Post {
    depot: Option<Arc<dyn Depot>>,
    object: ObjectId,
    not_before: Instant,
    back_off: Duration,
    /// Whether it was looked into since the object last fell asleep.
    looked: bool,
}

impl Post {
    pub(super) fn new(depot: Option<Arc<dyn Depot>>, object: ObjectId) -> Self {
        Self {
            depot,
            object,
            not_before: Instant::now(),
            back_off: BACK_OFF.0,
            looked: false,
        }
    }

    /// Resolves with what waits, where anything does and the object may be asked about it. Cancel safe.
    pub(super) async fn arrives(&mut self) -> Vec<Waiting> {
        let Some(depot) = self.depot.clone() else {
            return std::future::pending().await;
        };
        loop {
            if self.looked {
                // A depot that fails is asked again after the same time.
                let changed = depot.inbox_changed(self.object, LOOK).await;
                if changed.is_err() {
                    tokio::time::sleep(LOOK).await;
                }
            }
            tokio::time::sleep_until(self.not_before).await;
            self.looked = true;
            match depot.inbox(self.object, LOOK_AT).await {
                Ok(waiting) if !waiting.is_empty() => return waiting,
                Ok(_) => {}
                Err(_unreachable) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The object was woken, or nothing there wakes it.
    pub(super) fn heard(&mut self) {
        self.back_off = BACK_OFF.0;
        self.not_before = Instant::now();
        self.looked = false;
    }

    /// It refused; it is asked again after so many seconds, or ever more rarely.
    pub(super) fn refused(&mut self, retry_after: Option<u64>) {
        let wait = retry_after
            .map_or(self.back_off, Duration::from_secs)
            .min(BACK_OFF.1);
        self.not_before = Instant::now() + wait;
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
    }
}
