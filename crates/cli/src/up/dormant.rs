//! A dormant object: on disk and open for writing, or in a frozen machine whose runtime holds the lock. Either way who
//! may wake it is decided at the door, by its own rules on the state of its last record, and nothing is started or
//! thawed for who may not.

use std::sync::Arc;

use suijuris_api::agent::Patch;
use suijuris_api::{Event, Problem, verdict};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{Verdict, View, decide, foresee};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Host, Inputs, Principal, Witnessed};
use suijuris_core::lineage::{Body, Decision, Fired, Head, Outcome, Refused, Seal, State};
use suijuris_core::time::{Now, Ratchet, Reading};
use suijuris_runtime::refusals::Refusals;
use suijuris_store::{Reader, Writer};
use suijuris_vehicle::process::Process;

use super::door::Proposal;
use crate::place::Place;
use crate::sleeping::{self, Written};

/// Decides at the door, and counts what it refused.
struct Porter {
    bundle: Arc<Bundle>,
    host: Host,
    /// What the witness says of this copy.
    witnessed: Witnessed,
    /// Messages that wait.
    pending: u64,
    ratchet: Ratchet,
    refusals: Refusals,
}

impl Porter {
    fn new(bundle: Arc<Bundle>, host: Host, witnessed: Witnessed, head: &Head) -> Self {
        Self {
            bundle,
            host,
            witnessed,
            pending: 0,
            ratchet: Ratchet::new(head.at),
            refusals: Refusals::default(),
        }
    }

    /// Decides `wake`, and for a request `admit` as well.
    fn decide(&mut self, state: &State, proposal: &Proposal, reading: Reading) -> Verdict {
        let now = self.ratchet.observe(reading);
        let mut inputs = Inputs::new(now, proposal.principal.clone());
        inputs.host = self.host.clone();
        inputs.trigger = Some(proposal.trigger.clone());
        inputs.request.clone_from(&proposal.request);
        inputs.standing.witness = self.witnessed;
        inputs.pending = self.pending;
        let view = View::new(state, &self.bundle.rules);
        let verdict = decide(view, Action::Wake, state.head().object, inputs.clone());
        match verdict {
            Verdict::Permit(permit, decision) if proposal.request.is_some() => {
                match refused_admission(view, inputs) {
                    Some(refusal) => Verdict::Refuse(refusal),
                    None => Verdict::Permit(permit, decision),
                }
            }
            verdict => verdict,
        }
    }

    /// Counted refusals that are due, or all.
    fn take(&mut self, reading: Reading, all: bool) -> Vec<Refused> {
        let mut taken = self.refusals.take(reading.wall, all);
        for refused in &mut taken {
            "door".clone_into(&mut refused.at);
        }
        taken
    }
}

fn refused_admission(view: View<'_>, inputs: Inputs) -> Option<Box<Decision>> {
    let decision = foresee(view, Action::Admit, inputs);
    (decision.outcome != Outcome::Permit).then(|| Box::new(decision))
}

/// A sleeping object, open for writing.
pub(super) struct Asleep {
    writer: Writer,
    porter: Porter,
}

impl Asleep {
    /// The object, which nobody runs.
    pub(super) fn new(
        writer: Writer,
        bundle: Arc<Bundle>,
        host: Host,
        witnessed: Witnessed,
        reading: Reading,
    ) -> anyhow::Result<Self> {
        sleeping::settle_crash(&writer, reading.wall)?;
        let porter = Porter::new(bundle, host, witnessed, writer.published().head());
        Ok(Self { writer, porter })
    }

    /// Its name, and the first event of `up`.
    pub(super) fn listening(&self, place: &Place, driver: &Process, url: &str) -> (String, Event) {
        let (name, bundle) = self.look(|state| (state.head().name.clone(), state.head().bundle));
        (name, super::listening(place, &self.writer, bundle, driver, url))
    }

    /// The time that decisions use.
    pub(super) fn now(&mut self, reading: Reading) -> Now {
        self.porter.ratchet.observe(reading)
    }

    /// So many messages wait.
    pub(super) const fn expect_messages(&mut self, pending: u64) {
        self.porter.pending = pending;
    }

    /// A witness that had not answered says this.
    pub(super) const fn witnessed(&mut self, witnessed: Witnessed) {
        self.porter.witnessed = witnessed;
    }

    /// Decides `wake`, and for a request `admit` as well.
    pub(super) fn decide(&mut self, proposal: &Proposal, reading: Reading) -> Verdict {
        self.porter.decide(&self.writer.published(), proposal, reading)
    }

    /// Takes note of a refusal; records that are due now are made durable and returned.
    pub(super) fn refused(
        &mut self,
        decision: Decision,
        fired: Fired,
        reading: Reading,
    ) -> anyhow::Result<Vec<Refused>> {
        self.porter.refusals.add(decision, reading.wall);
        self.record_refusals(fired, reading, false)
    }

    /// Records counted refusals that are due, or all.
    pub(super) fn record_refusals(
        &mut self,
        fired: Fired,
        reading: Reading,
        all: bool,
    ) -> anyhow::Result<Vec<Refused>> {
        let taken = self.porter.take(reading, all);
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
        let at = self.now(reading).at;
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
        let now = self.now(reading);
        let (bundle, host) = (&self.porter.bundle, self.porter.host.clone());
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

    /// The bundle in force.
    pub(super) fn bundle(&self) -> &Arc<Bundle> {
        &self.porter.bundle
    }

    /// The problem document of a refused proposal.
    pub(super) fn problem(&self, decision: &Decision) -> Problem {
        verdict::problem(decision, &self.writer.published().head().object.to_string())
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
    porter: Porter,
    /// Timer occurrences refused or skipped since.
    fired: Fired,
}

impl Frozen {
    /// A witness that had not answered says this.
    pub(super) const fn witnessed(&mut self, witnessed: Witnessed) {
        self.porter.witnessed = witnessed;
    }

    /// The object as of its last record, which is durable: the runtime asked for the pause after it.
    pub(super) fn new(reader: Reader, bundle: Arc<Bundle>, host: Host, witnessed: Witnessed) -> Self {
        let porter = Porter::new(bundle, host, witnessed, reader.state().head());
        Self {
            reader,
            porter,
            fired: Fired::new(),
        }
    }

    /// The time that decisions use.
    pub(super) fn now(&mut self, reading: Reading) -> Now {
        self.porter.ratchet.observe(reading)
    }

    /// The last record.
    pub(super) fn head(&self) -> &Head {
        self.reader.state().head()
    }

    /// Timer occurrences dealt with, those since included.
    pub(super) fn fired(&self) -> Fired {
        let mut fired = self.head().fired.clone();
        fired.extend(self.fired.iter().map(|(name, at)| (name.clone(), *at)));
        fired
    }

    /// So many messages wait.
    pub(super) const fn expect_messages(&mut self, pending: u64) {
        self.porter.pending = pending;
    }

    /// Decides `wake`, and for a request `admit` as well.
    pub(super) fn decide(&mut self, proposal: &Proposal, reading: Reading) -> Verdict {
        self.porter.decide(self.reader.state(), proposal, reading)
    }

    /// Counts a refusal.
    pub(super) fn refused(&mut self, decision: Decision, fired: Fired, reading: Reading) {
        self.porter.refusals.add(decision, reading.wall);
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

    /// The problem document of a refused proposal.
    pub(super) fn problem(&self, decision: &Decision) -> Problem {
        verdict::problem(decision, &self.head().object.to_string())
    }

    /// What is to be recorded.
    pub(super) fn owed(mut self, reading: Reading) -> Owed {
        Owed {
            refused: self.porter.take(reading, true),
            fired: self.fired,
        }
    }
}
