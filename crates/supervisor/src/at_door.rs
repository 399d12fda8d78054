//! A dormant object at its door: open for writing, or in a suspended machine whose runtime holds the lock. Either way who
//! may wake it is decided by its own rules on the state of its last record (`suijuris_door::Sleeper`), and nothing is
//! started or resumed for who may not. What is refused is recorded where that is possible, and kept where it is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use suijuris_core::decide::Verdict;
use suijuris_core::inputs::{Host, Witnessed, asker};
use suijuris_core::lineage::{Decision, Fired, Head, State};
use suijuris_core::time::Reading;
use suijuris_core::trigger::Pending;
use suijuris_custody::at_rest::{AtRest, Open, Recording, Suspended, Unrecorded};
use suijuris_custody::rates::KeptRates;
use suijuris_door::{PreparedBundle, Proposal, Sleeper};
use suijuris_store::{ObjectDir, Reader, StageError, Writer};

/// A dormant object and its door.
#[derive(Debug)]
pub(crate) struct AtDoor {
    rest: AtRest,
    door: Sleeper,
    /// What its door refuses is counted here; what it lets through, its gate counts.
    rates: KeptRates,
}

impl AtDoor {
    /// The object, open for writing.
    pub(crate) fn open(open: Open, prepared: Arc<PreparedBundle>, host: Host, witnessed: Witnessed) -> Self {
        let rates = rates(&prepared, open.writer().object_dir());
        let door = open.look(|state| Sleeper::new(prepared, state.head(), host, witnessed));
        let rest = AtRest::Open(open);
        Self { rest, door, rates }
    }

    /// The object as of its last record, which is durable: the runtime asked for the suspension after it.
    pub(crate) fn suspended(
        reader: Reader,
        prepared: Arc<PreparedBundle>,
        host: Host,
        witnessed: Witnessed,
    ) -> Self {
        let rates = rates(&prepared, reader.object_dir());
        let rest = Suspended::new(reader);
        let door = Sleeper::new(prepared, rest.head(), host, witnessed);
        let rest = AtRest::Suspended(rest);
        Self { rest, door, rates }
    }

    /// Its door.
    pub(crate) const fn door(&mut self) -> &mut Sleeper {
        &mut self.door
    }

    /// It has another bundle from now on.
    pub(crate) fn amended(&mut self, prepared: Arc<PreparedBundle>, host: Host, witnessed: Witnessed) {
        self.rates.declare(&prepared.bundle().manifest.rates);
        self.door = self
            .rest
            .look(|state| Sleeper::new(prepared, state.head(), host, witnessed));
    }

    /// For writing, where it is open.
    pub(crate) const fn writer(&self) -> Option<&Writer> {
        match &self.rest {
            AtRest::Open(open) => Some(open.writer()),
            AtRest::Suspended(_) | AtRest::Remote(_) => None,
        }
    }

    /// The last record, on its way to the disk or there: what was signed for the one before is spent.
    pub(crate) fn head(&self) -> Head {
        match self.writer() {
            Some(writer) => writer.staged(|state| state.head().clone()),
            None => self.look(|state| state.head().clone()),
        }
    }

    /// Looks at the state.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.rest.look(look)
    }

    /// Decides `wake`, and for a request `admit` as well; `incapable`: no machine here could run it.
    pub(crate) fn decide(&mut self, proposal: &Proposal, reading: Reading, incapable: bool) -> Verdict {
        let Self { rest, door, rates } = self;
        door.incapable(incapable);
        let now = door.now(reading).at;
        let asker = asker(&proposal.principal, proposal.request.as_ref());
        let numbers = asker.map_or_else(BTreeMap::new, |asker| rates.next(&asker, now));
        rest.look(|state| door.decide(state, proposal, numbers, reading))
    }

    /// Counts a refusal; what of it is to be recorded now.
    pub(crate) fn refused(&mut self, decision: &Decision, fired: Fired, reading: Reading) -> Unrecorded {
        if let Some(asker) = asker(&decision.inputs.principal, decision.inputs.request.as_ref()) {
            self.rates.count(&asker, decision.inputs.now.at);
        }
        self.door.refused(decision, reading);
        self.due(fired, reading, false)
    }

    /// Counted refusals that are due, or all, and timer occurrences that are dealt with. While a machine has the lock,
    /// refusals stay counted, so that one record stands for all of a kind.
    pub(crate) fn due(&mut self, fired: Fired, reading: Reading, all: bool) -> Unrecorded {
        let refused = match self.writer() {
            Some(_) => self.door.owed(reading, all),
            None => Vec::new(),
        };
        Unrecorded { refused, fired }
    }

    /// Stages what is to be recorded, or keeps it while a machine has the lock.
    pub(crate) fn record(&mut self, what: Unrecorded, reading: Reading) -> Result<Recording, StageError> {
        let at = self.door.now(reading).at;
        self.rest.record(what, at)
    }

    /// What its timers want, those since dealt with left out.
    pub(crate) fn timers(&mut self, reading: Reading) -> Pending {
        if self.look(|state| state.head().phase.is_closed()) {
            // Nothing is recorded any more, not even that one came due.
            return Pending::default();
        }
        self.door.timers(&self.rest.fired(), reading)
    }

    /// What whoever has the writer next is to record.
    pub(crate) fn into_unrecorded(mut self, reading: Reading) -> Unrecorded {
        let mut unrecorded = match self.rest {
            AtRest::Open(_) => Unrecorded::default(),
            AtRest::Suspended(suspended) => suspended.into_unrecorded(),
            AtRest::Remote(remote) => remote.into_unrecorded(),
        };
        unrecorded.refused.extend(self.door.owed(reading, true));
        unrecorded
    }
}

fn rates(prepared: &PreparedBundle, object_dir: &ObjectDir) -> KeptRates {
    KeptRates::open(&prepared.bundle().manifest.rates, object_dir.path())
}
