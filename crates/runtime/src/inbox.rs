//! Messages that wait for the object, as its runtime sees them: counted for the rules, listed and acknowledged for the
//! workload.
//!
//! They stand in the depot, not in memory: what is acknowledged here is gone there for good, and what was not comes again
//! in the next activation. Not here: accepting messages (door, `suijuris send`), which of them wake (the door).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::message::MessageKey;
use suijuris_custody::deliveries::Deliveries;
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
    deliveries: Deliveries,
    /// Given to the workload of this activation, and not acknowledged.
    in_hand: RefCell<BTreeSet<MessageKey>>,
}

impl Inbox {
    /// The inbox of `object` in `depot`, with the account of what was delivered.
    #[must_use]
    pub const fn new(depot: Option<Arc<dyn Depot>>, object: ObjectId, deliveries: Deliveries) -> Self {
        Self {
            depot,
            object,
            waiting: Cell::new(0),
            deliveries,
            in_hand: RefCell::new(BTreeSet::new()),
        }
    }

    /// The workload ended by itself with messages in hand; how many of them are set aside from now on.
    pub fn reader_crashed(&self) -> usize {
        let counts = self.deliveries.counts();
        let in_hand = self.in_hand.take();
        in_hand.iter().filter(|key| counts.is_aside(key)).count()
    }

    /// The workload ended as it was asked to, or well: what it had in hand is delivered again as if for the first time.
    ///
    /// # Errors
    /// The account cannot be written.
    pub fn reader_ended_well(&self) -> io::Result<()> {
        let in_hand: Vec<_> = self.in_hand.take().into_iter().collect();
        self.deliveries.forget(&in_hand)
    }

    /// Without what is set aside. A message that the workload has in hand is not, however often it was delivered.
    fn without_aside(&self, mut waiting: Vec<Waiting>) -> Vec<Waiting> {
        let (counts, in_hand) = (self.deliveries.counts(), self.in_hand.borrow());
        waiting.retain(|waiting| {
            let key = waiting.message.key();
            in_hand.contains(&key) || !counts.is_aside(&key)
        });
        waiting
    }

    /// These go to the workload.
    fn give(&self, waiting: &[Waiting]) {
        let mut in_hand = self.in_hand.borrow_mut();
        let keys = waiting.iter().map(|waiting| waiting.message.key());
        let fresh: Vec<_> = keys.filter(|key| in_hand.insert(*key)).collect();
        // What cannot be counted is delivered all the same.
        let _uncounted = (!fresh.is_empty()).then(|| self.deliveries.given(&fresh));
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
        let Some(depot) = &self.depot else {
            return Ok(Vec::new());
        };
        let limit = limit.min(MAX_LISTED);
        let aside = self.deliveries.counts().aside();
        let found = depot.inbox(self.object, limit.saturating_add(aside)).await?;
        let mut found = self.without_aside(found);
        found.truncate(limit);
        self.give(&found);
        Ok(found)
    }

    /// Takes messages out for good. Keys that do not wait are no error.
    ///
    /// # Errors
    /// As the depot; they may or may not be gone then, and acknowledging again is right.
    pub async fn acknowledge(&self, keys: &[MessageKey]) -> Result<(), Error> {
        if let Some(depot) = &self.depot {
            depot.acknowledge(self.object, keys).await?;
            self.in_hand.borrow_mut().retain(|key| !keys.contains(key));
            // A count that stays is of a message that does not come again.
            let _stays = self.deliveries.forget(keys);
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
        Ok(self.counted(waiting))
    }

    fn counted(&self, waiting: Vec<Waiting>) -> bool {
        let waiting = self.without_aside(waiting).len();
        self.waiting.replace(waiting) != waiting
    }

    /// Counts again whenever the inbox changes; `changed` hears of each new number. Never returns.
    pub async fn watch(&self, changed: impl Fn()) {
        let Some(depot) = &self.depot else {
            return std::future::pending().await;
        };
        let mut watch = InboxWatch::new(Arc::clone(depot), self.object, LOOK);
        loop {
            match watch.look(MAX_COUNTED).await {
                Ok(waiting) => {
                    if self.counted(waiting) {
                        changed();
                    }
                }
                Err(_unreachable) => tokio::time::sleep(AFTER_FAILURE).await,
            }
            if watch.changed().await.is_err() {
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}
