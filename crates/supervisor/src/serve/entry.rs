//! One object of a daemon, as all its parts see it: where it lies, how it is, the way to its actor.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_api::history::Paused;
use suijuris_core::activation::Phase;
use tokio::sync::{Notify, watch};

use crate::actor::ObjectHandle;
use crate::events::Origin;
use crate::paths::ObjectPaths;

/// How long a connection waits for an object that is being opened.
pub(super) const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// What is told of objects that are not there yet.
pub(super) const CODE_LOADING: &str = "not_now";

/// One object of the daemon.
#[derive(Debug)]
pub struct Entry {
    /// Which.
    pub origin: Origin,
    /// Where it lies.
    pub paths: ObjectPaths,
    pub(super) status: watch::Sender<Status>,
    /// Somebody waits for it to be opened.
    pub(super) wanted: Notify,
    /// As its last actor knew it.
    pub(super) awake: Cell<Duration>,
    pub(super) epoch: Cell<u64>,
    /// It is stopped to be archived.
    pub(super) archiving: Cell<bool>,
    /// It could not be archived: not before the daemon is started again.
    pub(super) stays: Cell<bool>,
}

/// How it is.
#[derive(Debug, Clone)]
pub enum Status {
    /// It is being opened.
    Opening,
    /// Its actor runs.
    Live(ObjectHandle),
    /// It cannot be opened now, for this reason; that is tried again.
    Broken(String),
    /// Another copy is the object.
    Lost(String),
    /// It has left for another place, and what is here is its history.
    Departed,
    /// It has slept so long that its directory went: first use brings it back.
    Archived,
    /// It is stopped here.
    Stopped,
}

impl Entry {
    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// How long it was awake in all its life.
    #[must_use]
    pub fn awake(&self) -> Duration {
        match &*self.status.borrow() {
            Status::Live(handle) => handle.awake(),
            _ => self.awake.get(),
        }
    }

    /// The number of its last activation; none where that is not known here.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        let epoch = match &*self.status.borrow() {
            Status::Live(handle) => handle.epoch(),
            _ => self.epoch.get(),
        };
        // Whoever never woke has the epoch 0; so has who is not open yet.
        (epoch > 0 || matches!(&*self.status.borrow(), Status::Live(_))).then_some(epoch)
    }

    /// That it is left alone after a failure, where it is.
    #[must_use]
    pub fn paused(&self) -> Option<Paused> {
        match &*self.status.borrow() {
            Status::Live(handle) => handle.paused(),
            _ => None,
        }
    }

    /// Its holds, with the time they have left in milliseconds.
    #[must_use]
    pub fn holds(&self) -> BTreeMap<String, u64> {
        match &*self.status.borrow() {
            Status::Live(handle) => handle.holds(),
            _ => BTreeMap::new(),
        }
    }

    /// How it is, for people and scripts.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        match &*self.status.borrow() {
            Status::Opening => "opening",
            Status::Live(handle) => match handle.phase() {
                Phase::Resting | Phase::Settling => handle.closed().unwrap_or("dormant"),
                Phase::BackingOff => "paused",
                Phase::Suspending | Phase::Suspended => "suspended",
                Phase::Starting | Phase::Resuming => "waking",
                Phase::Running => "active",
                Phase::Draining | Phase::Stopping => "draining",
                Phase::Lost => "lost",
            },
            Status::Broken(_) => "broken",
            Status::Lost(_) => "lost",
            Status::Departed => "departed",
            Status::Archived => "archived",
            Status::Stopped => "stopped",
        }
    }

    /// The way to its actor, once it is open; what to answer where it is not.
    ///
    /// # Errors
    /// The problem.
    pub async fn handle(&self) -> Result<ObjectHandle, Problem> {
        let mut status = self.status.subscribe();
        let waits = |status: &Status| matches!(status, Status::Opening | Status::Archived);
        if waits(&status.borrow()) {
            self.wanted.notify_one();
        }
        let open = status.wait_for(|status| !waits(status));
        let status = match tokio::time::timeout(OPEN_WITHIN, open).await {
            Ok(Ok(status)) => status.clone(),
            _ => Status::Opening,
        };
        let (title, detail) = match status {
            Status::Live(handle) => return Ok(handle),
            Status::Opening | Status::Archived => ("The object is being opened", "ask again in a moment"),
            // Why is for its owner, who finds it in the events.
            Status::Broken(_) => (
                "The object cannot be opened",
                "its owner finds the cause in the events of the daemon",
            ),
            Status::Lost(_) => (
                "Another copy is the object",
                "this copy serves nobody: ask where the object runs",
            ),
            Status::Departed => {
                let mut problem = Problem::new(503, "departed", "The object has left this place");
                problem.detail = "ask where the object lives now".to_owned();
                problem.object = self.origin.object.to_string();
                return Err(problem);
            }
            Status::Stopped => (
                "The object's host stops it",
                "ask again when its host runs it again",
            ),
        };
        let mut problem = Problem::new(503, CODE_LOADING, title).with_detail(detail);
        problem.retry_after = Some(1);
        problem.object = self.origin.object.to_string();
        Err(problem)
    }
}

/// What people call an object.
pub(super) fn label(origin: &Origin) -> String {
    match &origin.instance {
        Some((class, key)) => format!("{class}/{key}"),
        None => origin.name.clone(),
    }
}
