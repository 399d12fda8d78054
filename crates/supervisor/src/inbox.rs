//! Messages that wait for a sleeping object: noticed when they arrive, and proposed again, ever more rarely, while the object
//! refuses to wake for them.

use std::pin::Pin;
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

/// A look at the inbox that is under way: resolves with what waits, once anything does.
type Look = Pin<Box<dyn Future<Output = Vec<Waiting>>>>;

/// The inbox of a sleeping object, as its actor watches it.
pub(crate) struct InboxWatcher {
    depot: Option<Arc<dyn Depot>>,
    object: ObjectId,
    back_off: BackOff,
    /// The one look there is. Whatever else the actor hears of meanwhile does not begin another: each costs requests, and
    /// anybody may knock at the door.
    look: Option<Look>,
    /// Whether it was looked into since the object last fell asleep.
    looked: bool,
}

impl InboxWatcher {
    pub(crate) fn new(depot: Option<Arc<dyn Depot>>, object: ObjectId) -> Self {
        Self {
            depot,
            object,
            back_off: BackOff::default(),
            look: None,
            looked: false,
        }
    }

    /// Resolves with what waits, where anything does and the object may be asked about it. Cancel safe: the next call goes
    /// on with the same look.
    pub(crate) async fn arrives(&mut self) -> Vec<Waiting> {
        let Some(depot) = &self.depot else {
            return std::future::pending().await;
        };
        let look = self.look.get_or_insert_with(|| {
            let until = self.back_off.until(Instant::now());
            Box::pin(look(Arc::clone(depot), self.object, self.looked, until))
        });
        let waiting = look.await;
        self.look = None;
        self.looked = true;
        waiting
    }

    /// Somebody wakes the object, and whoever runs it looks after its inbox: what was seen before is old when it next falls
    /// asleep.
    pub(crate) fn pause(&mut self) {
        self.look = None;
        self.looked = false;
    }

    /// The object was woken, or nothing there wakes it.
    pub(crate) fn heard(&mut self) {
        self.back_off.succeeded();
        self.looked = false;
    }

    /// It refused; it is asked again after so many seconds, or ever more rarely.
    pub(crate) fn refused(&mut self, retry_after: Option<u64>) {
        self.back_off
            .failed(Instant::now(), retry_after.map(Duration::from_secs));
    }
}

/// Looks into the inbox of `object` until something waits there: at once where nobody has `looked` yet, else when it
/// changes, and not before the instant `until`.
async fn look(
    depot: Arc<dyn Depot>,
    object: ObjectId,
    mut looked: bool,
    until: Option<Instant>,
) -> Vec<Waiting> {
    loop {
        // A depot that fails is asked again after the same time.
        if looked && depot.inbox_changed(object, LOOK).await.is_err() {
            tokio::time::sleep(LOOK).await;
        }
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        looked = true;
        match depot.inbox(object, LOOK_AT).await {
            Ok(waiting) if !waiting.is_empty() => return waiting,
            Ok(_) => {}
            Err(_unreachable) => tokio::time::sleep(LOOK).await,
        }
    }
}
