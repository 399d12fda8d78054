//! An object's recorded past: opening it without its lock, folding it, following it.
//!
//! Reading never changes a file, never takes the lock and never wakes anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use suijuris_core::decide::{self, View};
use suijuris_core::governance::Action;
use suijuris_core::id::BundleId;
use suijuris_core::lineage::{Body, Decision, State, Stored};
use suijuris_store::{Depth, OpenError, Reader};

use crate::object_paths::ObjectPaths;
use crate::progress::Progress;

/// Time between two looks of who follows.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The object as it stands, read from its last checkpoint on.
pub(crate) fn open(place: &ObjectPaths) -> Result<Reader, OpenError> {
    Reader::open(&place.home(), Depth::Tail)
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
pub(crate) fn place(body: &Body) -> &str {
    match body {
        Body::Refused(refused) => &refused.at,
        Body::Inception(_) => "door",
        _ => "runtime",
    }
}

/// Makes the decision that `body` keeps again, as whoever made it did: the door, which answers for an object that
/// sleeps, decides about admission as if it were awake.
pub(crate) fn again(view: View<'_>, body: &Body, decision: &Decision) -> Decision {
    match decision.action {
        Action::Admit if place(body) == "door" => {
            decide::evaluate_as_if_awake(view, Action::Admit, decision.inputs.clone())
        }
        _ => decide::replay(view, decision),
    }
}

/// Folds the history from inception up to record `last`; `each` sees every later record with the state before it.
pub(crate) fn walk(
    reader: &Reader,
    last: u64,
    mut each: impl FnMut(&State, &Stored) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let bundles = |id: &BundleId| reader.bundle(id).ok().map(|bundle| Arc::clone(bundle.schema()));
    let end = last.min(reader.state().head().seq).saturating_add(1);
    let progress = Progress::of(Some(end), "gone through");
    let mut records = reader.records(0..end)?;
    let first = records
        .next()
        .context("the history has no first record; run `suijuris verify`")??;
    let mut state = State::begin(&first, &bundles)?;
    for next in records {
        let next = next?;
        progress.at(next.record.seq);
        each(&state, &next)?;
        state.apply(&next, &bundles)?;
    }
    Ok(())
}

/// Waits for records that are not there yet.
#[derive(Debug)]
pub(crate) struct Follow {
    lineage: PathBuf,
    seen: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Follow {
    /// Everything up to now counts as seen. Take it before opening a reader, so that nothing falls between.
    pub(crate) fn new(place: &ObjectPaths) -> Self {
        let lineage = place.data.join("lineage");
        Self {
            seen: files(&lineage),
            lineage,
        }
    }

    /// Returns when something was written.
    pub(crate) fn wait(&mut self) {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = files(&self.lineage);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

fn files(lineage: &std::path::Path) -> Vec<(PathBuf, Option<SystemTime>)> {
    let entries = std::fs::read_dir(lineage).into_iter().flatten().flatten();
    let changed = |entry: &std::fs::DirEntry| entry.metadata().and_then(|data| data.modified()).ok();
    let mut files: Vec<_> = entries.map(|entry| (entry.path(), changed(&entry))).collect();
    files.sort();
    files
}
