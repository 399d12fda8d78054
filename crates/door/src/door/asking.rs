//! Requests: who asks, what the rules say, and the words where they refuse.

use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_api::event::Event;
use suijuris_core::ObjectId;
use suijuris_core::inputs::{Inputs, Witnessed, asker};
use suijuris_core::lineage::{Decision, Outcome};
use suijuris_core::time::{Now, Ratchet};
use suijuris_words::verdict;
use tokio::time::Instant;

use super::{Door, ObjectStatus, Passed};
use crate::authenticate;
use crate::ext_authz::{CheckRequest, request};
use crate::notes::NotedRefusal;
use crate::problems;
use crate::proposal::Proposal;
use crate::sleepers::QuickDecision;

/// Messages counted at most for rules that look at how many wait.
const COUNTED: usize = 1_000;

impl Door {
    /// Decides about a request for `object`, and wakes it where its rules permit.
    ///
    /// # Errors
    /// The [`Problem`] to answer with; nothing was started then, but where the object itself refused to wake.
    pub(crate) async fn check(
        self: &Arc<Self>,
        object: ObjectId,
        check: &CheckRequest<'_>,
    ) -> Result<Passed, Problem> {
        let began = Instant::now();
        let status = self
            .look(object)
            .await
            .map_err(|error| problems::head(&error, object))?;
        match status {
            ObjectStatus::Unknown => return Err(problems::unknown(object)),
            ObjectStatus::Awake => return Ok(Passed::Awake),
            ObjectStatus::Asleep => {}
        }
        let Some(inputs) = self.authenticate(object, check) else {
            return Ok(Passed::Awake);
        };
        let mut inputs = inputs?;
        self.count_pending(object, &mut inputs).await?;
        let quick = self.evaluate_quick(object, &mut inputs);
        self.metrics.decided.observe(began.elapsed().as_secs_f64());
        match quick {
            Ok(true) => self.wake(object).await,
            Ok(false) => Ok(Passed::Awake),
            Err(problem) => Err(problem),
        }
    }

    /// The facts of a request for a sleeping object; none where it sleeps no longer.
    fn authenticate(&self, object: ObjectId, check: &CheckRequest<'_>) -> Option<Result<Inputs, Problem>> {
        let reading = (self.clock)();
        let authenticated = self.sleepers.with_prepared(object, |prepared, at| {
            let now = Ratchet::new(at).observe(reading);
            let proposal = authenticate::proposal(prepared, object, now, check.credentials(), |words| {
                request(words, &check.head)
            })?;
            let declared = &prepared.bundle().manifest.rates;
            let rates = asker(&proposal.principal, proposal.request.as_ref())
                .map(|asker| self.rates.next(object, declared, &asker, now.at));
            Ok((proposal, rates.unwrap_or_default()))
        })?;
        Some(authenticated.map(|(proposal, rates)| Inputs {
            rates,
            ..self.inputs(proposal)
        }))
    }

    /// The facts of a proposal.
    pub(super) fn inputs(&self, proposal: Proposal) -> Inputs {
        let reading = (self.clock)();
        // Never behind what is recorded: that is seen to where it is weighed.
        let now = Now {
            at: reading.wall,
            quality: reading.quality,
        };
        // Nothing is decided for that the witness does not agree with.
        proposal.inputs(now, self.host.clone(), Witnessed::Agrees, 0)
    }

    /// How many messages wait, where rules look at it.
    pub(super) async fn count_pending(&self, object: ObjectId, inputs: &mut Inputs) -> Result<(), Problem> {
        if self
            .sleepers
            .with_prepared(object, |prepared, _| prepared.messages())
            != Some(true)
        {
            return Ok(());
        }
        let waiting = tokio::time::timeout(self.limits.depot_within, self.depot.inbox(object, COUNTED)).await;
        let waiting = waiting
            .map_err(|_late| None)
            .and_then(|listed| listed.map_err(Some));
        let waiting = waiting.map_err(|error| problems::not_counted(error, object))?;
        inputs.pending = u64::try_from(waiting.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Whether the rules permit: false where the object sleeps no longer; the problem where they refuse.
    pub(super) fn evaluate_quick(&self, object: ObjectId, inputs: &mut Inputs) -> Result<bool, Problem> {
        match self.sleepers.evaluate_quick(object, inputs, (self.clock)()) {
            QuickDecision::Permit(_) => Ok(true),
            QuickDecision::Awake | QuickDecision::Unknown => Ok(false),
            QuickDecision::Refuse(..) => match self.sleepers.evaluate(object, inputs) {
                Some(decision) if decision.outcome != Outcome::Permit => Err(self.refused(object, &decision)),
                // It changed in between: ask again.
                _ => Err(problems::moving(object)),
            },
        }
    }

    /// Takes note of a refusal; the problem to answer with.
    fn refused(&self, object: ObjectId, decision: &Decision) -> Problem {
        let noted = self.sleepers.with_prepared(object, |prepared, _| {
            let bundle = prepared.bundle().id();
            if let Some(asker) = asker(&decision.inputs.principal, decision.inputs.request.as_ref()) {
                let declared = &prepared.bundle().manifest.rates;
                self.rates.count(object, declared, &asker, decision.inputs.now.at);
            }
            let (id, told) = self.notes.add((object, bundle), decision, self.now());
            (problems::refused(prepared, object, decision, &id), told)
        });
        // It woke in between.
        let Some((problem, told)) = noted else {
            return problems::moving(object);
        };
        self.metrics.refused(decision.action.as_str(), &problem.code);
        told.iter().for_each(|noted| self.tell_refused(noted));
        problem
    }

    fn tell_refused(&self, noted: &NotedRefusal) {
        if let Some(keeper) = &self.keeper {
            keeper(noted);
        }
        if let Some(listener) = &self.listener {
            listener(noted.object, verdict::refused(&noted.refused));
        }
    }

    pub(super) fn tell(&self, object: ObjectId, code: &str, message: &str) {
        if let Some(listener) = &self.listener {
            let (code, message) = (code.to_owned(), message.to_owned());
            listener(object, Event::Error { code, message });
        }
    }

    /// Tells counted refusals whose minute is over, or all.
    pub fn tell_refusals(&self, all: bool) {
        for noted in self.notes.take(self.now(), all) {
            self.tell_refused(&noted);
        }
    }
}
