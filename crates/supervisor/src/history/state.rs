//! An object as it stands.

use std::collections::BTreeMap;

use suijuris_api::history::{NextTimer, Parent, Paused, State};
use suijuris_core::lineage::{Head, Phase};
use suijuris_core::time::{Ratchet, Reading};
use suijuris_core::trigger::Timers;
use suijuris_custody::deliveries::Deliveries;
use suijuris_store::{Reader, fork};

use super::HistoryError;

/// How somebody who runs the object says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// `dormant`, `waking`, `active`, `draining` or `suspended`.
    pub phase: String,
    /// Its process id.
    pub pid: u32,
    /// Where callers reach the object.
    pub url: String,
    /// That it is left alone after a failure, where it is.
    pub paused: Option<Paused>,
    /// Its holds, with the time they have left in milliseconds.
    pub holds: BTreeMap<String, u64>,
}

/// Phase as people should know it: what whoever runs it says, else what is recorded.
#[must_use]
pub fn phase(head: &Head, running: Option<&Running>, in_use: bool) -> String {
    match (running, head.phase) {
        (Some(running), _) => running.phase.clone(),
        (None, Phase::Active) if !in_use => "crashed".to_owned(),
        (None, phase) => phase.as_str().to_owned(),
    }
}

/// Time awake in all its life, by its records; of an activation that was cut off, up to its last one.
#[must_use]
pub fn awake_seconds(head: &Head, in_use: bool, reading: Reading) -> Option<u64> {
    let until = if in_use { reading.wall } else { head.at };
    u64::try_from(head.awake_at(until).0 / 1_000).ok()
}

/// The timer that comes first; none where there is none, or the bundle cannot be read.
fn next_timer(reader: &Reader, reading: Reading) -> Option<NextTimer> {
    let state = reader.state();
    let head = state.head();
    let bundle = reader.bundle(&head.bundle).ok()?;
    let first = bundle
        .manifest
        .triggers
        .timers
        .iter()
        .filter_map(|(name, timer)| {
            let only = [(name.clone(), timer.clone())].into();
            let pending = Timers::new(&only)
                .ok()?
                .pending(&head.fired, head.born, reading.wall);
            let due = pending.due.first().and_then(|(_, due)| due.fire.first().copied());
            Some((due.or(pending.next)?, name))
        });
    let (at, name) = first.min()?;
    Some(NextTimer {
        name: name.to_string(),
        at: at.to_string(),
    })
}

/// The object of `reader`, and how whoever runs it says it is.
///
/// # Errors
/// [`HistoryError`].
pub fn state(reader: &Reader, running: Option<Running>, reading: Reading) -> Result<State, HistoryError> {
    let (home, state) = (reader.object_dir(), reader.state());
    let (head, in_use) = (state.head(), home.is_in_use());
    let parent = fork::parent_of(home)?.map(|parent| Parent {
        object: parent.object.to_string(),
        name: parent.name,
        record: parent.forked.to_string(),
        seq: parent.seq,
    });
    let now = Ratchet::new(head.at).observe(reading);
    Ok(State {
        object: head.object.to_string(),
        name: head.name.clone(),
        phase: phase(head, running.as_ref(), in_use),
        running: running.is_some() || in_use,
        pid: running.as_ref().map(|running| running.pid),
        holds: running
            .as_ref()
            .map(|running| running.holds.clone())
            .unwrap_or_default(),
        paused: running.as_ref().and_then(|running| running.paused.clone()),
        url: running.map(|running| running.url),
        epoch: head.epoch,
        seq: head.seq,
        head: head.record.to_string(),
        bundle: head.bundle.to_string(),
        born: head.born.to_string(),
        parent,
        at: head.at.to_string(),
        last_woke: head.last_woke.map(|at| at.to_string()),
        last_dormant: head.last_dormant.map(|at| at.to_string()),
        unsealed: head.unsealed,
        uncovered: head.uncovered(),
        refused: head.refused,
        awake_seconds: awake_seconds(head, in_use, reading),
        crashes: head.crashes,
        torn: reader.is_torn(),
        next_timer: next_timer(reader, reading),
        messages: None,
        set_aside: u64::try_from(Deliveries::of(home.path()).counts().aside()).unwrap_or(u64::MAX),
        controllers: head.controllers.iter().map(ToString::to_string).collect(),
        threshold: head.threshold,
        data: home.path().display().to_string(),
        memory: suijuris_words::memory::memory(state, now),
    })
}
