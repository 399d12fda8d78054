//! Messages that wait for the object, as its runtime sees them: counted for the rules, listed and acknowledged for the
//! workload.
//!
//! They stand in the depot, not in memory: what is acknowledged here is gone there for good, and what was not comes again
//! in the next activation. Not here: accepting messages (door, `suijuris send`), which of them wake (the door).

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::message::MessageKey;
use suijuris_depot::{Depot, Error, InboxWatch, Waiting};

/// Messages listed at once at most.
pub const MAX_LISTED: usize = 100;

/// Messages counted at most; the rules see this number for any larger one.
const MAX_COUNTED: usize = 1_000;

/// The inbox is looked at this often where the depot does not tell of changes.
const LOOK: Duration = Duration::from_secs(5);

/// Time to wait after a depot that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The object's inbox; without a depot it is always empty.
#[derive(Debug)]
pub struct Inbox {
    depot: Option<Arc<dyn Depot>>,
    object: ObjectId,
    waiting: Cell<usize>,
}

impl Inbox {
    /// The inbox of `object` in `depot`.
    #[must_use]
    pub const fn new(depot: Option<Arc<dyn Depot>>, object: ObjectId) -> Self {
        Self {
            depot,
            object,
            waiting: Cell::new(0),
        }
    }

    /// Messages that waited when last looked at; at most 1,000.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        u64::try_from(self.waiting.get()).unwrap_or(u64::MAX)
    }

    /// Waiting messages, oldest first, at most `limit` and [`MAX_LISTED`].
    ///
    /// # Errors
    /// As the depot.
    pub async fn list(&self, limit: usize) -> Result<Vec<Waiting>, Error> {
        match &self.depot {
            Some(depot) => depot.inbox(self.object, limit.min(MAX_LISTED)).await,
            None => Ok(Vec::new()),
        }
    }

    /// Takes messages out for good. Keys that do not wait are no error.
    ///
    /// # Errors
    /// As the depot; they may or may not be gone then, and acknowledging again is right.
    pub async fn acknowledge(&self, keys: &[MessageKey]) -> Result<(), Error> {
        if let Some(depot) = &self.depot {
            depot.acknowledge(self.object, keys).await?;
            self.count().await?;
        }
        Ok(())
    }

    /// Counts what waits; whether the number has changed.
    ///
    /// # Errors
    /// As the depot.
    pub async fn count(&self) -> Result<bool, Error> {
        let Some(depot) = &self.depot else {
            return Ok(false);
        };
        let waiting = depot.inbox(self.object, MAX_COUNTED).await?;
        Ok(self.counted(&waiting))
    }

    fn counted(&self, waiting: &[Waiting]) -> bool {
        self.waiting.replace(waiting.len()) != waiting.len()
    }

    /// Counts again whenever the inbox changes; `changed` hears of each new number. Never returns.
    pub async fn watch(&self, changed: impl Fn()) {
        let Some(depot) = &self.depot else {
            return std::future::pending().await;
        };
        let mut watch = InboxWatch::new(Arc::clone(depot), self.object, LOOK);
        loop {
            match watch.look(MAX_COUNTED).await {
                Ok(waiting) if self.counted(&waiting) => changed(),
                Ok(_) => {}
                Err(_unreachable) => tokio::time::sleep(AFTER_FAILURE).await,
            }
            if watch.changed().await.is_err() {
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}
