//! The witness, as whoever holds an object sees it: one atomic to look at before anything is served, and questions that
//! are answered on the thread of the process's one [`Service`], so that nothing an object does delays a renewal.
//!
//! The protocol is `core::witness`; `task` performs what one object's keeper says on a depot, `publish` leaves in the
//! depot what doors and importers read while the object sleeps. Who calls: `claim` alone; tests.

mod history;
mod lease;
mod publish;
mod service;
mod task;

use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::witness::{Evidence, HolderId, Lent, Point, Purpose, Terms, Verdict};
use suijuris_depot::Version;
use tokio::sync::{mpsc, oneshot, watch};

pub use history::History;
pub use lease::Lease;
pub use publish::{PublishError, publish, republish};
pub use service::Service;

/// Commands that wait for the service at most; whoever gives one more waits.
const COMMANDS: usize = 16;

/// Who holds which object, and on what terms.
#[derive(Debug, Clone)]
pub struct Config {
    /// The object.
    pub object: ObjectId,
    /// The name of this copy.
    pub id: HolderId,
    /// Host and process, for people.
    pub who: String,
    /// Lease, grace, strength.
    pub terms: Terms,
    /// The newest durable record.
    pub newest: Point,
    /// What this copy goes on with, awake, where another process claimed the object for it.
    pub lent: Option<Lent<Version>>,
}

/// Answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// What the witness says.
    pub verdict: Verdict,
    /// What the depot answered last, where that was no answer: for [`Verdict::Missing`] and [`Verdict::Absent`].
    pub trouble: Option<String>,
}

/// Why a claim has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Our own history could not be read.
    #[error("the object's own history cannot be read: {0}")]
    History(String),
    /// A pause was found meanwhile.
    #[error("the machine was suspended while it asked the witness; try again")]
    Overtaken,
    /// Its task has ended.
    #[error("the witness is no longer asked: start the object again")]
    Ended,
}

/// Why a record will not be covered by a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncovered {
    /// Another copy has the object.
    #[error("another copy holds the object")]
    Lost,
    /// Its task has ended.
    #[error("the witness is no longer asked: start the object again")]
    Ended,
}

/// What last became of the lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LeaseEvent {
    /// Nothing since it was had.
    #[default]
    Quiet,
    /// It ran out; with a grace, that begins.
    Expired,
    /// It holds again, or at last.
    Renewed,
    /// Serving has been over for a while: leave.
    Over,
    /// Another copy has the object: serve nothing, write nothing.
    Lost(Arc<Evidence>),
}

#[derive(Debug)]
enum Command {
    Claim(Purpose, oneshot::Sender<Result<Claimed, ClaimError>>),
    Resumed(HolderId, u64),
    HandOver(oneshot::Sender<Option<Lent<Version>>>),
    Release(Duration, oneshot::Sender<bool>),
}

/// The witness of one running copy. Dropping it ends its task; the object stays held until its lease is over, or its
/// presence ends with its depot.
#[derive(Debug)]
pub struct Witness {
    lease: Lease,
    commands: mpsc::Sender<Command>,
    newest: watch::Sender<Point>,
    covered: watch::Receiver<Option<u64>>,
    news: watch::Receiver<LeaseEvent>,
    /// Its thread runs as long as somebody has a witness of it.
    _service: Service,
}

impl Witness {
    /// Until when the object may serve; for the authorizer. Good for nothing before the first claim.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Claims the object. One claim at a time: the answers of two given at once are the same.
    ///
    /// Dropping the future gives up the answer, not the claim.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing may run then.
    pub async fn claim(&self, purpose: Purpose) -> Result<Claimed, ClaimError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Claim(purpose, answer);
        self.commands.send(command).await.map_err(|_| ClaimError::Ended)?;
        answered.await.unwrap_or(Err(ClaimError::Ended))
    }

    /// This record is durable. The mark follows; several of them in one step where they come fast.
    pub fn note(&self, newest: Point) {
        self.newest.send_if_modified(|point| {
            let later = newest.seq > point.seq;
            if later {
                *point = newest;
            }
            later
        });
    }

    /// Resolves once the mark covers position `seq`. It may never: bound it, or wait for [`Witness::news`] beside it.
    ///
    /// # Errors
    /// [`Uncovered`] where no mark of this copy will.
    pub async fn covered(&self, seq: u64) -> Result<(), Uncovered> {
        let (mut covered, mut news) = (self.covered.clone(), self.news.clone());
        let reached = covered.wait_for(|covered| covered.is_some_and(|covered| covered >= seq));
        let lost = news.wait_for(|news| matches!(news, LeaseEvent::Lost(_)));
        tokio::select! {
            biased;
            reached = reached => reached.map(drop).map_err(|_| Uncovered::Ended),
            lost = lost => Err(lost.map_or(Uncovered::Ended, |_| Uncovered::Lost)),
        }
    }

    /// The position that the mark covers, by all that is known.
    #[must_use]
    pub fn covers(&self) -> Option<u64> {
        *self.covered.borrow()
    }

    /// What becomes of the lease: the newest word is there at once, later ones are waited for.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<LeaseEvent> {
        self.news.clone()
    }

    /// The process was paused, or its memory copied. From this call on, and not only once the future is awaited, the lease
    /// is good for nothing; claim again. That goes under the name `id`: a fresh one unless it is known that no copy of this
    /// memory served anything meanwhile. Let what is on its way to the disk get there, and note it, before that claim.
    pub fn resumed(&self, id: HolderId) -> impl Future<Output = ()> + '_ {
        let era = self.lease.revoke();
        async move {
            // A task that has ended holds nothing.
            let _ = self.commands.send(Command::Resumed(id, era)).await;
        }
    }

    /// Leaves the mark as it is, for another process that goes on with the same depot; returns once nothing more is asked,
    /// with what that process can go on with where this one claimed the object to wake it.
    pub async fn hand_over(&self) -> Option<Lent<Version>> {
        let (done, over) = oneshot::channel();
        // A task that has ended asks nothing more either.
        self.commands.send(Command::HandOver(done)).await.ok()?;
        over.await.ok().flatten()
    }

    /// Gives the object up, the newest noted record in the mark, within this time; whether the mark says so.
    pub async fn release(&self, within: Duration) -> bool {
        let (done, released) = oneshot::channel();
        let command = Command::Release(within, done);
        self.commands.send(command).await.is_ok() && released.await.unwrap_or(false)
    }
}
