//! What is asked of an object's recorded past and of its rules: state, log, `why`, `what-if`, `verify`. Each has one function
//! here, for whoever carries the question: the control API of a daemon, or a command that reads files. `imagined` asks the same of objects
//! that nobody made, for tests of rules.
//!
//! Reading never changes a file, never takes the lock and never wakes anything. Not here: lines and colours (cli).

pub mod follow;
pub mod imagined;
pub mod log;
mod proposal;
pub mod rejudge;
pub mod state;
pub mod verify;
pub mod what_if;
pub mod why;
mod words;

use std::sync::Arc;

use suijuris_core::codec;
use suijuris_core::decide::{self, View};
use suijuris_core::governance::Action;
use suijuris_core::id::BundleId;
use suijuris_core::lineage::{Body, ChainError, Decision, State, Stored};
use suijuris_store::fork::ParentError;
use suijuris_store::{Depth, ObjectDir, OpenError, Reader, bundle_store};

pub use words::STOPPED;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The question cannot be meant.
    #[error("{0}")]
    Asked(String),
    /// What is to be written as if does not fit memory.
    #[error("{0}")]
    Misfit(String),
    /// The history cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A bundle that it names cannot.
    #[error(transparent)]
    Bundle(#[from] bundle_store::Error),
    /// It does not hold.
    #[error("the history does not hold; run `suijuris verify`")]
    Chain(#[from] ChainError),
    /// Its first record is missing.
    #[error("the history has no first record; run `suijuris verify`")]
    Empty,
    /// A decision older or newer than everything around it.
    #[error("the history was never in force at the decision's own time; run `suijuris verify`")]
    NeverInForce,
    /// What was recorded cannot be told.
    #[error("what was recorded has no form that can be shown; use the version that recorded it")]
    Form(#[from] codec::Error),
    /// What was recorded cannot be told as JSON.
    #[error("what was recorded has no JSON form; use the version that recorded it")]
    Json(#[from] serde_json::Error),
    /// Whom it was forked from.
    #[error(transparent)]
    Parent(#[from] ParentError),
}

/// An object's past as a question finds it, and who hears how far answering it has come, record by record.
#[derive(Clone, Copy)]
pub struct Past<'a> {
    /// Opened.
    pub reader: &'a Reader,
    /// Hears the position of each record that was gone through.
    pub heard: &'a dyn Fn(u64),
}

impl std::fmt::Debug for Past<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Past").finish_non_exhaustive()
    }
}

/// The object in this directory as it stands, read from its last checkpoint on.
///
/// # Errors
/// [`OpenError`].
pub fn open(home: &ObjectDir) -> Result<Reader, OpenError> {
    Reader::open(home, Depth::Tail)
}

/// The decision that a record keeps.
pub(crate) fn decision(body: &Body) -> Option<&Decision> {
    match body {
        Body::Inception(body) => body.class.as_ref().map(|class| &class.decision),
        Body::Woke(body) => Some(&body.decision),
        Body::Resumed(body) => Some(&body.decision),
        Body::Dormant(body) => Some(&body.decision),
        Body::Refused(body) => Some(&body.decision),
        Body::Departed(body) => Some(&body.decision),
        Body::Forked(body) => Some(&body.decision),
        Body::Amended(body) => Some(&body.decision),
        Body::Terminated(body) => Some(&body.decision),
        _ => None,
    }
}

/// Where the decision of a record was made.
fn place(body: &Body) -> &str {
    match body {
        Body::Refused(refused) => &refused.at,
        Body::Inception(_) => "door",
        _ => "runtime",
    }
}

/// Makes the decision that `body` keeps again, as whoever made it did: the door, which answers for an object that
/// sleeps, decides about admission as if it were awake.
fn again(view: View<'_>, body: &Body, decision: &Decision) -> Decision {
    at_place(view, place(body), decision)
}

/// Makes a decision of this place again.
fn at_place(view: View<'_>, place: &str, decision: &Decision) -> Decision {
    match decision.action {
        Action::Admit if place == "door" => {
            decide::evaluate_as_if_awake(view, Action::Admit, decision.inputs.clone())
        }
        _ => decide::replay(view, decision),
    }
}

/// Folds the history from inception up to record `last`, to the state after it; `each` sees every later record with the state before
/// it.
fn walk(
    past: Past<'_>,
    last: u64,
    mut each: impl FnMut(&State, &Stored) -> Result<(), HistoryError>,
) -> Result<State, HistoryError> {
    let reader = past.reader;
    let bundles = |id: &BundleId| reader.bundle(id).ok().map(|bundle| Arc::clone(bundle.schema()));
    let end = last.min(reader.state().head().seq).saturating_add(1);
    let mut records = reader.records(0..end)?;
    let first = records.next().ok_or(HistoryError::Empty)??;
    let mut state = State::begin(&first, &bundles)?;
    for next in records {
        let next = next?;
        (past.heard)(next.record.seq);
        each(&state, &next)?;
        state.apply(&next, &bundles)?;
    }
    Ok(state)
}
