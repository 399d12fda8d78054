//! Messages that wait for a sleeping object: noticed when they arrive, and proposed again, ever more rarely, while the object
//! refuses to wake for them.

use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_depot::{Depot, Waiting};
use suijuris_door::single_flight::BackOff;
use tokio::time::Instant;

/// Messages looked at; one that wakes is among them, or behind so many that do not.
const LOOK_AT: usize = 1_000;

/// The inbox is looked at this often where the depot does not tell of changes.
const LOOK: Duration = Duration::from_secs(5);

/// The inbox of a sleeping object, as `up` watches it.
pub(super) struct Post {
    depot: Option<Arc<dyn Depot>>,
    object: ObjectId,
    back_off: BackOff,
    /// Whether it was looked into since the object last fell asleep.
    looked: bool,
}

impl Post {
    pub(super) fn new(depot: Option<Arc<dyn Depot>>, object: ObjectId) -> Self {
        Self {
            depot,
            object,
            back_off: BackOff::default(),
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
            if let Some(until) = self.back_off.until(Instant::now()) {
                tokio::time::sleep_until(until).await;
            }
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
        self.back_off.succeeded();
        self.looked = false;
    }

    /// It refused; it is asked again after so many seconds, or ever more rarely.
    pub(super) fn refused(&mut self, retry_after: Option<u64>) {
        self.back_off
            .failed(Instant::now(), retry_after.map(Duration::from_secs));
    }
}
