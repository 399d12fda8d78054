//! A dormant object: on disk and open for writing, or in a frozen machine whose runtime holds the lock. Either way who
//! may wake it is decided at its door (`suijuris_door::Sleeper`), by its own rules on the state of its last record, and
//! nothing is started or thawed for who may not. Here the state is held for it, and what it refuses is recorded.

use std::sync::Arc;

use suijuris_api::Event;
use suijuris_api::agent::Patch;
use suijuris_core::decide::Verdict;
use suijuris_core::inputs::{Host, Inputs, Principal, Witnessed};
use suijuris_core::lineage::{Decision, Fired, Refused, State};
use suijuris_core::time::Reading;
use suijuris_core::trigger::Pending;
use suijuris_custody::at_rest::{Open, Suspended, Unrecorded};
use suijuris_custody::claim::Claim;
use suijuris_custody::write::{self, Durable, WriteError};
use suijuris_door::{PreparedBundle, Proposal, Sleeper};
use suijuris_store::{Reader, Sign, Writer};
use suijuris_vehicle::process::Process;

use crate::object_paths::ObjectPaths;

/// A sleeping object, open for writing.
pub(super) struct Asleep {
    rest: Open,
    door: Sleeper,
}

impl Asleep {
    /// The object, which nobody runs.
    pub(super) fn new(
        writer: Writer,
        prepared: Arc<PreparedBundle>,
        host: Host,
        witnessed: Witnessed,
        reading: Reading,
    ) -> anyhow::Result<Self> {
        let rest = Open::new(writer, reading.wall)?;
        let door = rest.look(|state| Sleeper::new(prepared, state.head(), host, witnessed));
        Ok(Self { rest, door })
    }

    /// Its name, and the first event of `up`.
    pub(super) fn listening(&self, place: &ObjectPaths, driver: &Process, url: &str) -> (String, Event) {
        let (name, bundle) = self.look(|state| (state.head().name.clone(), state.head().bundle));
        (
            name,
            super::listening(place, self.rest.writer(), bundle, driver, url),
        )
    }

    /// Its door.
    pub(super) const fn door(&mut self) -> &mut Sleeper {
        &mut self.door
    }

    /// Decides `wake`, and for a request `admit` as well.
    pub(super) fn decide(&mut self, proposal: &Proposal, reading: Reading) -> Verdict {
        self.door
            .decide(&self.rest.writer().published(), proposal, reading)
    }

    /// Takes note of a refusal; records that are due now are made durable and returned.
    pub(super) fn refused(
        &mut self,
        decision: &Decision,
        fired: Fired,
        reading: Reading,
    ) -> anyhow::Result<Vec<Refused>> {
        self.door.refused(decision, reading);
        self.record_refusals(fired, reading, false)
    }

    /// Records counted refusals that are due, or all.
    pub(super) fn record_refusals(
        &mut self,
        fired: Fired,
        reading: Reading,
        all: bool,
    ) -> anyhow::Result<Vec<Refused>> {
        let refused = self.door.owed(reading, all);
        self.record(Unrecorded { refused, fired }, reading)
    }

    /// Records refusals, and timer occurrences that they deal with.
    pub(super) fn record(
        &mut self,
        unrecorded: Unrecorded,
        reading: Reading,
    ) -> anyhow::Result<Vec<Refused>> {
        let at = self.door.now(reading).at;
        Ok(self.rest.record(unrecorded, at)?)
    }

    /// Writes memory, if the rules let `by`.
    pub(super) fn write(
        &mut self,
        claim: &Claim,
        by: Principal,
        patch: &Patch,
        reading: Reading,
    ) -> Result<Durable, WriteError> {
        let now = self.door.now(reading);
        let inputs = Inputs::new(now, by, self.door.place().clone());
        write::stage(
            claim,
            self.rest.writer(),
            self.door.bundle(),
            inputs,
            patch,
            (now.at, Sign::Now),
        )?
        .wait()
    }

    /// Looks at the state.
    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.rest.look(look)
    }

    /// What its timers want.
    pub(super) fn timers(&mut self, reading: Reading) -> Pending {
        let fired = self.rest.look(|state| state.head().fired.clone());
        self.door.timers(&fired, reading)
    }
}

/// A dormant object in a frozen machine. The runtime in it holds the lock, so that nothing can be recorded; what is to
/// be is kept until it runs again or its machine ends.
pub(super) struct Frozen {
    rest: Suspended,
    door: Sleeper,
}

impl Frozen {
    /// The object as of its last record, which is durable: the runtime asked for the pause after it.
    pub(super) fn new(
        reader: Reader,
        prepared: Arc<PreparedBundle>,
        host: Host,
        witnessed: Witnessed,
    ) -> Self {
        let rest = Suspended::new(reader);
        let door = Sleeper::new(prepared, rest.head(), host, witnessed);
        Self { rest, door }
    }

    /// Its door.
    pub(super) const fn door(&mut self) -> &mut Sleeper {
        &mut self.door
    }

    /// What its timers want, those since dealt with left out.
    pub(super) fn timers(&mut self, reading: Reading) -> Pending {
        self.door.timers(&self.rest.fired(), reading)
    }

    /// Decides `wake`, and for a request `admit` as well.
    pub(super) fn decide(&mut self, proposal: &Proposal, reading: Reading) -> Verdict {
        self.door.decide(self.rest.state(), proposal, reading)
    }

    /// Counts a refusal.
    pub(super) fn refused(&mut self, decision: &Decision, fired: Fired, reading: Reading) {
        self.door.refused(decision, reading);
        self.skip(fired);
    }

    /// Timer occurrences that nothing is thawed for.
    pub(super) fn skip(&mut self, fired: Fired) {
        self.rest.skip(fired);
    }

    /// What is to be recorded.
    pub(super) fn unrecorded(mut self, reading: Reading) -> Unrecorded {
        let mut unrecorded = self.rest.into_unrecorded();
        unrecorded.refused.extend(self.door.owed(reading, true));
        unrecorded
    }
}
