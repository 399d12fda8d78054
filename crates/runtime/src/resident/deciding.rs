//! Decisions about the resident object: their inputs, their rules with memory folded in, and the counts of what they gave.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use suijuris_api::Problem;
use suijuris_core::class::Membership;
use suijuris_core::decide::{self, Refused, Verdict, View};
use suijuris_core::governance::{self, Action, Residual, RuleSet, TriggerKind};
use suijuris_core::inputs::{Caller, Inputs, Principal, Request, Trigger, asker};
use suijuris_core::lineage::{Count, Decision, Fired, Outcome, State};
use suijuris_core::memory::Name;
use suijuris_core::rates::Asker;
use suijuris_core::refusals::RefusalId;
use suijuris_core::time::Span;
use suijuris_gate::Forwarding;
use suijuris_link::Cause;
use suijuris_words::verdict::{self, Circumstances};

use super::Resident;

impl Resident {
    /// What a decision to wake looks at: why the machine runs, as its owner says.
    #[must_use]
    pub fn launch_inputs(&self) -> Inputs {
        self.wake_inputs(self.cause.borrow().clone())
    }

    /// What a decision to wake looks at, for this reason.
    fn wake_inputs(&self, cause: Cause) -> Inputs {
        let mut inputs = self.inputs(cause.by);
        inputs.trigger = Some(cause.trigger);
        inputs.request = cause.request;
        if let Some(asker) = asker(&inputs.principal, inputs.request.as_ref()) {
            // Its gate counts the request when it comes.
            inputs.rates = self.rates.borrow().next(&asker, inputs.now.at);
        }
        inputs.conditions.witness = self.claim.witnessed();
        // A workload with an image runs in that image or not at all, and one without in none.
        inputs.conditions.incapable = self.bundle.manifest.workload.image != self.image;
        inputs
    }

    /// Why the object may wake for a request that met it asleep in its own machine: as a door would decide it outside.
    ///
    /// # Errors
    /// What the caller is answered.
    pub fn may_wake_for(&self, caller: Arc<Caller>, request: Request) -> Result<Cause, Problem> {
        if !self.bundle.manifest.triggers.request {
            let problem = Problem::new(503, "asleep", "The object sleeps, and requests do not wake it");
            return Err(problem);
        }
        let cause = Cause {
            trigger: Trigger::new(TriggerKind::Request),
            request: Some(request),
            by: Principal::Caller(Box::new(Arc::unwrap_or_clone(caller))),
            fired: Fired::new(),
            host: self.host.clone(),
        };
        let inputs = self.wake_inputs(cause.clone());
        let decision = self
            .lineage
            .staged(|state| decide::evaluate_asleep(View::new(state, &self.bundle.rules), inputs));
        if decision.outcome == Outcome::Permit {
            return Ok(cause);
        }
        if let Some(asker) = asker(&decision.inputs.principal, decision.inputs.request.as_ref()) {
            let _times = self.count_request(&asker);
        }
        let id = self.refused(&decision);
        Err(self.public_problem(&decision, &id))
    }

    /// Whether the reason that the machine runs for lets the object wake, or waiting for a request is of no use.
    pub(crate) fn need_not_be_asked(&self) -> bool {
        let by_request = self.bundle.manifest.triggers.request;
        let decision = self.evaluate(Action::Wake, self.launch_inputs());
        // Whatever else than rules is in the way, no request moves.
        !by_request || decision.outcome != Outcome::Refuse(None)
    }

    /// Facts that every decision has.
    #[must_use]
    pub fn inputs(&self, principal: Principal) -> Inputs {
        let mut inputs = Inputs::new(self.now(), principal, self.host.clone());
        inputs.holds = self.holds.names(Instant::now());
        inputs.pending = self.inbox.waiting();
        inputs
    }

    /// As [`Resident::inputs`], with how busy the object is.
    #[must_use]
    pub fn busy_inputs(&self, principal: Principal) -> Inputs {
        let mut inputs = self.inputs(principal);
        let (now, since) = (Instant::now(), self.active_since.get());
        let idle_since = match self.serves_since.get() {
            Some(open) => open.max(self.traffic.last_activity()),
            None => now,
        };
        let span = |from: Instant| {
            Span(i64::try_from(now.saturating_duration_since(from).as_millis()).unwrap_or(i64::MAX))
        };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        inputs.activity = Some(suijuris_core::inputs::Activity {
            active: span(since),
            idle: span(since.max(idle_since)),
            connections: count(self.traffic.connections()),
            // Who waits for the gate to open is served next.
            in_flight: count(self.traffic.in_flight().saturating_add(self.traffic.waiting())),
        });
        inputs
    }

    /// Decides about the object as it was last staged, so that the decision can be recorded next.
    #[must_use]
    pub fn decide(&self, action: Action, inputs: Inputs) -> Verdict {
        self.lineage.staged(|state| {
            decide::decide(
                View::new(state, &self.bundle.rules),
                action,
                state.head().object,
                inputs,
            )
        })
    }

    /// As [`Resident::decide`], for the words alone.
    #[must_use]
    pub fn evaluate(&self, action: Action, inputs: Inputs) -> Decision {
        self.lineage
            .staged(|state| decide::evaluate(View::new(state, &self.bundle.rules), action, inputs))
    }

    /// For how long the rules' answer to `action` stays the same if only time passes; none where no clock changes it.
    #[must_use]
    pub fn steady_for(&self, action: Action, inputs: &Inputs) -> Option<Span> {
        let steady = |state: &State| decide::steady_for(View::new(state, &self.bundle.rules), action, inputs);
        self.lineage.staged(steady)
    }

    /// Runs `run` with the durable object as rules see it, borrowed.
    pub fn with_object<R>(&self, run: impl FnOnce(View<'_>, governance::Object<'_>) -> R) -> R {
        self.lineage.published(|state| {
            let view = View::new(state, &self.bundle.rules);
            let lineage = decide::lineage_facts(view.head);
            run(
                view,
                governance::Object {
                    id: &self.id,
                    name: &view.head.name,
                    memory: view.memory,
                    lineage,
                    instance: view.head.class.as_ref().map(Membership::facts),
                },
            )
        })
    }

    /// Runs `run` with the durable object as rules see it, and with the rules of `admit` into which it is worked.
    pub fn with_residual<R>(
        &self,
        run: impl FnOnce(View<'_>, governance::Object<'_>, Option<&Residual>) -> R,
    ) -> R {
        self.with_object(|view, object| {
            let now = self.now();
            let mut residual = self.residual.borrow_mut();
            let current = residual
                .as_ref()
                .is_some_and(|(seq, residual)| *seq == view.head.seq && residual.is_valid(now));
            if !current {
                // Rules too large to specialize are judged whole.
                let fresh = view.program.specialize(Action::Admit, object, now).ok();
                *residual = fresh.map(|fresh| (view.head.seq, fresh));
            }
            run(view, object, residual.as_ref().map(|(_, residual)| residual))
        })
    }

    /// Where the machine runs, as rules see it.
    #[must_use]
    pub fn host_facts(&self) -> governance::Host<'_> {
        decide::host(&self.host)
    }

    /// A caller without a token.
    #[must_use]
    pub fn anonymous(&self) -> Arc<Caller> {
        self.anonymous.clone()
    }

    /// The caller of an `Authorization` header.
    ///
    /// # Errors
    /// Why the token is not valid.
    pub fn verify_caller(&self, header: &str) -> Result<Arc<Caller>, String> {
        if self.callers.is_empty() {
            return Ok(self.anonymous());
        }
        self.callers
            .verify(header, self.now())
            .map_err(|error| error.to_string())
    }

    /// Adds what tells the workload which object it is in; whether that can be written.
    pub fn push_identity(&self, out: &mut Forwarding) -> bool {
        let identity = self.identity.borrow();
        identity.as_ref().map(|identity| out.push_all(identity)).is_some()
    }

    /// Counts a request at the gate; how often `asker` asked in the running windows, in the order of the rates' names.
    pub fn count_request(&self, asker: &Asker<'_>) -> Vec<i64> {
        match self.bundle.manifest.rates.is_empty() {
            true => Vec::new(),
            false => self.rates.borrow_mut().count(asker, self.now().at),
        }
    }

    /// Those numbers by name, as records keep them.
    #[must_use]
    pub fn named_rates(&self, numbers: &[i64]) -> BTreeMap<Name, i64> {
        self.rates.borrow().named(numbers)
    }

    /// Keeps what was counted for the object's door.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_rates(&self) -> io::Result<()> {
        self.rates.borrow_mut().keep()
    }

    /// Takes in what the object's door counted while the machine was suspended.
    pub fn restore_rates(&self) {
        self.rates.borrow_mut().restore();
    }

    /// Counts an admission by the rules that gave it.
    pub fn count_admission(&self, answer: &Result<(decide::Permit, RuleSet), Refused>) {
        let Ok((_, rules)) = answer else { return };
        let mut admitted = self.admitted.borrow_mut();
        match admitted.iter_mut().find(|(have, _)| have == rules) {
            Some((_, times)) => *times = times.saturating_add(1),
            None => admitted.push((*rules, 1)),
        }
    }

    /// So many requests and connections end with the time to drain.
    pub fn cuts(&self, count: usize) {
        self.cut.set(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// How many did, once.
    pub fn take_cut(&self) -> u64 {
        self.cut.take()
    }

    /// Admissions counted since this was last asked.
    #[must_use]
    pub fn take_admitted(&self) -> Vec<Count> {
        let ids = |rules: &RuleSet| {
            let id = |index| self.bundle.rules.program.rule(index).map(|rule| rule.id.clone());
            rules.iter().filter_map(id).collect()
        };
        let admitted = self.admitted.take();
        admitted
            .iter()
            .map(|(rules, times)| Count {
                rules: ids(rules),
                times: *times,
            })
            .collect()
    }

    /// Takes note of a refused request; the first of its kind is reported and recorded.
    pub fn refused(&self, decision: &Decision) -> RefusalId {
        let mut refusals = self.refusals.borrow_mut();
        let first = refusals.add(decision, self.clock.reading().wall);
        self.stirred.notify_one();
        self.refusal_id(first)
    }

    /// What the owner finds the record by that keeps this refusal.
    #[must_use]
    pub fn refusal_id(&self, first: &Decision) -> RefusalId {
        let object = self.lineage.published(|state| state.head().object);
        RefusalId::of(object, self.bundle.id(), first)
    }

    /// The refusal as a caller reads it.
    #[must_use]
    pub fn public_problem(&self, decision: &Decision, id: &RefusalId) -> Problem {
        let circumstances = Circumstances {
            object: &self.id,
            id,
            token_helps: !self.callers.is_empty()
                && self.bundle.rules.program.watches(decision.action).caller,
        };
        verdict::public(decision, circumstances)
    }

    /// Refusals that are to be recorded now.
    #[must_use]
    pub fn take_refusals(&self, all: bool) -> Vec<suijuris_core::lineage::Refused> {
        self.refusals.borrow_mut().take(self.clock.reading().wall, all)
    }
}
