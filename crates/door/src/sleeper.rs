//! One sleeping object whose state the caller has open: who asks, what its rules say, which timers are due, and what
//! was refused and is not recorded yet.
//!
//! The state stays with the caller, who also records what is refused; nothing here waits or reads a depot. Called by
//! `up`. Many objects at once are the table's affair ([`crate::Sleepers`]); both decide by the same functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{Verdict, View};
use suijuris_core::governance::Vocabulary;
use suijuris_core::inputs::{Host, Request, Witnessed};
use suijuris_core::lineage::{Decision, Fired, Head, Refused, State};
use suijuris_core::memory::Name;
use suijuris_core::refusals::RefusalId;
use suijuris_core::time::{Now, Ratchet, Reading, Timestamp};
use suijuris_core::trigger::Pending;
use suijuris_gate::head::Reject;

use crate::authenticate::{self, Credentials};
use crate::deciding;
use crate::notes::Tally;
use crate::prepared::PreparedBundle;
use crate::problems;
use crate::proposal::Proposal;

/// A sleeping object at its own door.
#[derive(Debug)]
pub struct Sleeper {
    prepared: Arc<PreparedBundle>,
    object: ObjectId,
    born: Timestamp,
    place: Host,
    witnessed: Witnessed,
    pending: u64,
    ratchet: Ratchet,
    tally: Tally,
    incapable: bool,
}

impl Sleeper {
    /// The object with this head, which carries the bundle in `prepared`; `place` is where its machine would run.
    #[must_use]
    pub fn new(prepared: Arc<PreparedBundle>, head: &Head, place: Host, witnessed: Witnessed) -> Self {
        Self {
            prepared,
            object: head.object,
            born: head.born,
            place,
            witnessed,
            pending: 0,
            ratchet: Ratchet::new(head.at),
            tally: Tally::default(),
            incapable: false,
        }
    }

    /// Whether no machine here can run what it carries: then it is not woken, whatever its rules say.
    pub const fn incapable(&mut self, incapable: bool) {
        self.incapable = incapable;
    }

    /// The bundle that it carries.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        self.prepared.bundle()
    }

    /// Where its machine would run.
    #[must_use]
    pub const fn place(&self) -> &Host {
        &self.place
    }

    /// The time that decisions use: never before the last record, nor before a time used already.
    pub fn now(&mut self, reading: Reading) -> Now {
        self.ratchet.observe(reading)
    }

    /// What the witness says of this copy, where it says something new.
    pub const fn witnessed(&mut self, witnessed: Witnessed) {
        self.witnessed = witnessed;
    }

    /// So many messages wait.
    pub const fn expect_messages(&mut self, pending: u64) {
        self.pending = pending;
    }

    /// The proposal of whoever asks.
    ///
    /// # Errors
    /// The [`Problem`] to answer with: they mean another object, requests do not wake this one, their token is not
    /// valid, or the request has no canonical form.
    pub fn authenticate(
        &mut self,
        credentials: Credentials<'_>,
        request: impl FnOnce(&Vocabulary) -> Result<Request, Reject>,
        reading: Reading,
    ) -> Result<Proposal, Problem> {
        let now = self.now(reading);
        authenticate::proposal(&self.prepared, self.object, now, credentials, request)
    }

    /// Decides `wake`, and for a request `admit` as well, on the object's `state`; `rates`: how often whoever asks did so.
    pub fn decide(
        &mut self,
        state: &State,
        proposal: &Proposal,
        rates: BTreeMap<Name, i64>,
        reading: Reading,
    ) -> Verdict {
        let now = self.now(reading);
        let mut inputs = proposal
            .clone()
            .inputs(now, self.place.clone(), self.witnessed, self.pending);
        inputs.conditions.incapable = self.incapable;
        inputs.rates = rates;
        deciding::decide(View::new(state, &self.prepared.bundle().rules), inputs)
    }

    /// The problem document of a refused proposal, as its caller reads it. Its id is that of the record which
    /// [`Sleeper::refused`] counts it in.
    #[must_use]
    pub fn problem(&self, decision: &Decision) -> Problem {
        let id = RefusalId::of(
            self.object,
            self.prepared.bundle().id(),
            self.tally.first(decision),
        );
        problems::refused(&self.prepared, self.object, decision, &id)
    }

    /// Takes note of a refusal.
    pub fn refused(&mut self, decision: &Decision, reading: Reading) {
        self.tally.add(decision, reading.wall);
    }

    /// Refusals to be recorded now, or all.
    pub fn owed(&mut self, reading: Reading, all: bool) -> Vec<Refused> {
        self.tally.take(reading.wall, all)
    }

    /// What timers want, where the occurrences in `fired` are dealt with.
    pub fn timers(&mut self, fired: &Fired, reading: Reading) -> Pending {
        let now = self.now(reading).at;
        self.prepared.pending(fired, self.born, now)
    }
}
