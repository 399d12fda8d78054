//! Requests: who asks, what the rules say, and the words where they refuse.

use std::sync::Arc;

use suijuris_api::event::Event;
use suijuris_api::{Problem, verdict};
use suijuris_core::ObjectId;
use suijuris_core::inputs::{Inputs, Witnessed};
use suijuris_core::lineage::{Decision, Outcome, Refused};
use suijuris_core::time::Ratchet;
use tokio::time::Instant;

use super::{Door, Passed, Standing};
use crate::asked::{Asked, request};
use crate::hearing::hear;
use crate::problems;
use crate::proposal::Proposal;
use crate::sleepers::Weighed;

/// Messages counted at most for rules that look at how many wait.
const COUNTED: usize = 1_000;

impl Door {
    /// Decides about a request for `object`, and wakes it where its rules permit.
    ///
    /// # Errors
    /// The [`Problem`] to answer with; nothing was started then, but where the object itself refused to wake.
    pub(crate) async fn knock(
        self: &Arc<Self>,
        object: ObjectId,
        asked: &Asked<'_>,
    ) -> Result<Passed, Problem> {
        let began = Instant::now();
        let standing = self
            .look(object)
            .await
            .map_err(|error| problems::head(&error, object))?;
        match standing {
            Standing::Unknown => return Err(problems::unknown(object)),
            Standing::Awake => return Ok(Passed::Awake),
            Standing::Asleep => {}
        }
        let Some(inputs) = self.hear(object, asked) else {
            return Ok(Passed::Awake);
        };
        let mut inputs = inputs?;
        self.count_pending(object, &mut inputs).await?;
        let weighed = self.weigh(object, &mut inputs);
        self.metrics.decided.observe(began.elapsed().as_secs_f64());
        match weighed {
            Ok(true) => self.wake(object).await,
            Ok(false) => Ok(Passed::Awake),
            Err(problem) => Err(problem),
        }
    }

    /// The facts of a request for a sleeping object; none where it sleeps no longer.
    fn hear(&self, object: ObjectId, asked: &Asked<'_>) -> Option<Result<Inputs, Problem>> {
        let reading = (self.clock)();
        let heard = self.sleepers.with_kept(object, |kept, at| {
            let now = Ratchet::new(at).observe(reading);
            hear(kept, object, now, asked.knock(), |words| {
                request(words, &asked.head)
            })
        })?;
        Some(heard.map(|proposal| self.inputs(proposal)))
    }

    /// The facts of a proposal.
    pub(super) fn inputs(&self, proposal: Proposal) -> Inputs {
        // Nothing is decided for that the witness does not agree with.
        proposal.inputs(self.host.clone(), Witnessed::Agrees, 0)
    }

    /// How many messages wait, where rules look at it.
    pub(super) async fn count_pending(&self, object: ObjectId, inputs: &mut Inputs) -> Result<(), Problem> {
        if self.sleepers.with_kept(object, |kept, _| kept.messages()) != Some(true) {
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
    pub(super) fn weigh(&self, object: ObjectId, inputs: &mut Inputs) -> Result<bool, Problem> {
        match self.sleepers.weigh(object, inputs, (self.clock)()) {
            Weighed::Permit(_) => Ok(true),
            Weighed::Awake | Weighed::Unknown => Ok(false),
            Weighed::Refuse(..) => match self.sleepers.consider(object, inputs) {
                Some(decision) if decision.outcome != Outcome::Permit => Err(self.refused(object, &decision)),
                // It changed in between: ask again.
                _ => Err(problems::moving(object)),
            },
        }
    }

    /// Takes note of a refusal; the problem to answer with.
    fn refused(&self, object: ObjectId, decision: &Decision) -> Problem {
        let noted = self.sleepers.with_kept(object, |kept, _| {
            let bundle = kept.bundle().id();
            let (id, told) = self.notes.add((object, bundle), decision, self.now());
            (problems::refused(kept, object, decision, &id), told)
        });
        // It woke in between.
        let Some((problem, told)) = noted else {
            return problems::moving(object);
        };
        self.metrics.refused(decision.action.as_str(), &problem.code);
        told.iter().for_each(|refused| self.tell_refused(object, refused));
        problem
    }

    fn tell_refused(&self, object: ObjectId, refused: &Refused) {
        if let Some(listener) = &self.listener {
            listener(object, verdict::refused(refused));
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
        for (object, refused) in self.notes.take(self.now(), all) {
            self.tell_refused(object, &refused);
        }
    }
}
