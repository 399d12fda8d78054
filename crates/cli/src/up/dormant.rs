//! A dormant object: on disk and open for writing, or in a frozen machine whose runtime holds the lock. Either way who
//! may wake it is decided at its door (`suijuris_door::Sleeper`), by its own rules on the state of its last record, and
//! nothing is started or thawed for who may not. Here the state is held for it, and what it refuses is recorded.

use std::sync::Arc;

use suijuris_api::Event;
use suijuris_api::agent::Patch;
use suijuris_core::decide::Verdict;
use suijuris_core::inputs::{Host, Principal, Witnessed};
use suijuris_core::lineage::{Body, Decision, Fired, Head, Refused, Seal, State};
use suijuris_core::time::Reading;
use suijuris_core::trigger::Pending;
use suijuris_door::{Kept, Proposal, Sleeper};
use suijuris_store::{Reader, Writer};
use suijuris_vehicle::process::Process;

use crate::place::Place;
use crate::sleeping::{self, Written};

/// A sleeping object, open for writing.
pub(super) struct Asleep {
    writer: Writer,
    door: Sleeper,
}

impl Asleep {
    /// The object, which nobody runs.
    pub(super) fn new(
        writer: Writer,
        kept: Arc<Kept>,
        host: Host,
        witnessed: Witnessed,
        reading: Reading,
    ) -> anyhow::Result<Self> {
        sleeping::settle_crash(&writer, reading.wall)?;
        let door = Sleeper::new(kept, writer.published().head(), host, witnessed);
        Ok(Self { writer, door })
    }

    /// Its name, and the first event of `up`.
    pub(super) fn listening(&self, place: &Place, driver: &Process, url: &str) -> (String, Event) {
        let (name, bundle) = self.look(|state| (state.head().name.clone(), state.head().bundle));
        (name, super::listening(place, &self.writer, bundle, driver, url))
    }

    /// Its door.
    pub(super) const fn door(&mut self) -> &mut Sleeper {
        &mut self.door
    }

    /// Decides `wake`, and for a request `admit` as well.
    pub(super) fn decide(&mut self, proposal: &Proposal, reading: Reading) -> Verdict {
        self.door.decide(&self.writer.published(), proposal, reading)
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
        let taken = self.door.owed(reading, all);
        self.record(
            Owed {
                refused: taken,
                fired,
            },
            reading,
        )
    }

    /// Records refusals, and timer occurrences that they deal with.
    pub(super) fn record(&mut self, owed: Owed, reading: Reading) -> anyhow::Result<Vec<Refused>> {
        let at = self.door.now(reading).at;
        let Owed { refused, mut fired } = owed;
        let mut recorded = Vec::new();
        for mut refused in refused {
            refused.fired.append(&mut fired);
            sleeping::record(&self.writer, Body::Refused(Box::new(refused.clone())), at)?;
            recorded.push(refused);
        }
        if !fired.is_empty() {
            // A repeated refusal is only counted, but its timer must not come due again.
            let seal = Seal {
                fired,
                admitted: Vec::new(),
            };
            sleeping::record(&self.writer, Body::Seal(seal), at)?;
        }
        Ok(recorded)
    }

    /// An owner's write.
    pub(super) fn write(&mut self, patch: &Patch, reading: Reading) -> Result<Written, sleeping::Error> {
        let owner = self.owner();
        let now = self.door.now(reading);
        let (bundle, host) = (self.door.bundle(), self.door.place().clone());
        sleeping::write(&self.writer, bundle, owner, host, now, patch)
    }

    /// The owner, as one who proposes.
    pub(super) fn owner(&self) -> Principal {
        Principal::Controller(self.look(|state| state.head().controllers.clone()))
    }

    /// Looks at the state.
    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.writer.published())
    }

    /// What its timers want.
    pub(super) fn timers(&mut self, reading: Reading) -> Pending {
        self.door.timers(&self.writer.published().head().fired, reading)
    }
}

/// What is to be recorded by whoever holds the lock next.
#[derive(Debug, Default)]
pub(super) struct Owed {
    pub(super) refused: Vec<Refused>,
    /// Timer occurrences that were refused or skipped.
    pub(super) fired: Fired,
}

/// A dormant object in a frozen machine. The runtime in it holds the lock, so that nothing can be recorded; what is to
/// be is owed until it runs again or its machine ends.
pub(super) struct Frozen {
    reader: Reader,
    door: Sleeper,
    /// Timer occurrences refused or skipped since.
    fired: Fired,
}

impl Frozen {
    /// The object as of its last record, which is durable: the runtime asked for the pause after it.
    pub(super) fn new(reader: Reader, kept: Arc<Kept>, host: Host, witnessed: Witnessed) -> Self {
        let door = Sleeper::new(kept, reader.state().head(), host, witnessed);
        Self {
            reader,
            door,
            fired: Fired::new(),
        }
    }

    /// Its door.
    pub(super) const fn door(&mut self) -> &mut Sleeper {
        &mut self.door
    }

    /// The last record.
    pub(super) fn head(&self) -> &Head {
        self.reader.state().head()
    }

    /// What its timers want, those since dealt with left out.
    pub(super) fn timers(&mut self, reading: Reading) -> Pending {
        let mut fired = self.head().fired.clone();
        fired.extend(self.fired.iter().map(|(name, at)| (name.clone(), *at)));
        self.door.timers(&fired, reading)
    }

    /// Decides `wake`, and for a request `admit` as well.
    pub(super) fn decide(&mut self, proposal: &Proposal, reading: Reading) -> Verdict {
        self.door.decide(self.reader.state(), proposal, reading)
    }

    /// Counts a refusal.
    pub(super) fn refused(&mut self, decision: &Decision, fired: Fired, reading: Reading) {
        self.door.refused(decision, reading);
        self.skip(fired);
    }

    /// Timer occurrences that nothing is thawed for.
    pub(super) fn skip(&mut self, fired: Fired) {
        self.fired.extend(fired);
    }

    /// The owner, as one who proposes.
    pub(super) fn owner(&self) -> Principal {
        Principal::Controller(self.head().controllers.clone())
    }

    /// What is to be recorded.
    pub(super) fn owed(mut self, reading: Reading) -> Owed {
        Owed {
            refused: self.door.owed(reading, true),
            fired: self.fired,
        }
    }
}
