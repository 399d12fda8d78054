//! Messages that wait for a sleeping object: noticed when they arrive, and proposed again, ever more rarely, while the object
//! refuses to wake for them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_custody::deliveries::Deliveries;
use suijuris_depot::{Depot, InboxWatch, Waiting};
use suijuris_door::single_flight::BackOff;
use tokio::time::Instant;

/// Messages looked at; one that wakes is among them, or behind so many that do not.
const LOOK_AT: usize = 1_000;

/// The inbox is looked at this often where the depot does not tell of changes.
const LOOK: Duration = Duration::from_secs(5);

/// And this often where it does: a depot in a directory watches it.
const LOOK_AT_A_DIRECTORY: Duration = Duration::from_secs(600);

/// A look at the inbox that is under way: resolves with what waits, once anything does, and with what tells of more.
type Look = Pin<Box<dyn Future<Output = (InboxWatch, Vec<Waiting>)>>>;

/// The inbox of a sleeping object, as its actor watches it.
pub(crate) struct InboxWatcher {
    depot: Option<Arc<dyn Depot>>,
    object: ObjectId,
    /// What is set aside neither wakes nor counts.
    deliveries: Deliveries,
    back_off: BackOff,
    /// The one look there is. Whatever else the actor hears of meanwhile does not begin another: each costs requests, and
    /// anybody may knock at the door.
    look: Option<Look>,
    /// What tells of changes since the last look; none where nobody looked since the object last fell asleep.
    watch: Option<InboxWatch>,
}

impl InboxWatcher {
    pub(crate) fn new(depot: Option<Arc<dyn Depot>>, object: ObjectId, deliveries: Deliveries) -> Self {
        Self {
            depot,
            object,
            deliveries,
            back_off: BackOff::default(),
            look: None,
            watch: None,
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
            let watch = self.watch.take();
            let at_most = if depot.presence_is_a_lock() {
                LOOK_AT_A_DIRECTORY
            } else {
                LOOK
            };
            let watch = watch.unwrap_or_else(|| InboxWatch::new(Arc::clone(depot), self.object, at_most));
            Box::pin(look(watch, until, self.deliveries.clone()))
        });
        let (watch, waiting) = look.await;
        self.look = None;
        self.watch = Some(watch);
        waiting
    }

    /// Somebody wakes the object, and whoever runs it looks after its inbox: what was seen before is old when it next falls
    /// asleep.
    pub(crate) fn pause(&mut self) {
        self.look = None;
        self.watch = None;
    }

    /// The object was woken, or nothing there wakes it.
    pub(crate) fn heard(&mut self) {
        self.back_off.succeeded();
        self.watch = None;
    }

    /// It refused; it is asked again after so many seconds, or ever more rarely.
    pub(crate) fn refused(&mut self, retry_after: Option<u64>) {
        self.back_off
            .failed(Instant::now(), retry_after.map(Duration::from_secs));
    }
}

/// Looks into the inbox until something waits there: at once where nobody has looked yet, else when it changes, and not
/// before the instant `until`.
async fn look(
    mut watch: InboxWatch,
    until: Option<Instant>,
    deliveries: Deliveries,
) -> (InboxWatch, Vec<Waiting>) {
    loop {
        let told = if deliveries.counts().aside() == 0 {
            watch.changed().await
        } else {
            // No depot tells that an owner lets one be tried again.
            tokio::time::timeout(LOOK, watch.changed())
                .await
                .unwrap_or(Ok(()))
        };
        // A depot that fails is asked again after the same time.
        if told.is_err() {
            tokio::time::sleep(LOOK).await;
        }
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        match watch.look(LOOK_AT).await {
            Ok(mut waiting) => {
                let counts = deliveries.counts();
                waiting.retain(|waiting| !counts.is_aside(&waiting.message.key()));
                if !waiting.is_empty() {
                    return (watch, waiting);
                }
            }
            Err(_unreachable) => tokio::time::sleep(LOOK).await,
        }
    }
}
