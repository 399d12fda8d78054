//! Decisions about the resident object: their inputs, their rules with memory folded in, and the counts of what they gave.

use std::sync::Arc;
use std::time::Instant;

use suijuris_api::Problem;
use suijuris_core::class::Membership;
use suijuris_core::decide::{self, Refused, Verdict, View};
use suijuris_core::governance::{self, Action, Residual, RuleSet};
use suijuris_core::inputs::{Caller, Inputs, Principal};
use suijuris_core::lineage::{Count, Decision};
use suijuris_core::refusals::RefusalId;
use suijuris_core::time::Span;
use suijuris_words::verdict::{self, Circumstances};

use super::Resident;

impl Resident {
    /// What a decision to wake looks at: why the machine runs, as its owner says.
    #[must_use]
    pub fn launch_inputs(&self) -> Inputs {
        let cause = self.cause.borrow().clone();
        let mut inputs = self.inputs(cause.by);
        inputs.trigger = Some(cause.trigger);
        inputs.request = cause.request;
        inputs.conditions.witness = self.claim.witnessed();
        inputs.conditions.incapable = !self.bundle.manifest.workload.can_run();
        inputs
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
        let span = |from: Instant| {
            Span(i64::try_from(now.saturating_duration_since(from).as_millis()).unwrap_or(i64::MAX))
        };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        inputs.activity = Some(suijuris_core::inputs::Activity {
            active: span(since),
            idle: span(since.max(self.traffic.last_activity())),
            connections: count(self.traffic.connections()),
            in_flight: count(self.traffic.in_flight()),
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

    /// Runs `run` with the epoch as text, for headers.
    pub fn with_epoch_text<R>(&self, run: impl FnOnce(&str) -> R) -> R {
        run(&self.epoch_text.borrow())
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
