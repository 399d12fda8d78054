//! Timers: what is due, by memory and by the depot's index, and proposing it without end nor haste.

use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::time::{Span, Timestamp};
use tokio::time::Instant;

use super::{Door, ObjectStatus, lock};
use crate::heads::{self, Found, Trust};
use crate::proposal::Proposal;
use crate::single_flight::{Ended, Turn};

/// Due times in memory at most; with more, the depot's index alone says what is due.
const DUE: usize = 4_000_000;

/// When a timer that could not be proposed is looked at again.
const AGAIN: Span = Span(1_000);

impl Door {
    /// Takes up what timers are due, by the heap of loaded objects and the depot's index; when to come again.
    ///
    /// # Errors
    /// As [`suijuris_depot::Archive::due`]; what was loaded is taken up in any case.
    pub async fn timers(self: &Arc<Self>) -> Result<(), suijuris_depot::Error> {
        let now = self.now();
        let mut due: Vec<ObjectId> = Vec::new();
        {
            let mut heap = lock(&self.due);
            while let Some((at, _)) = heap.first()
                && *at <= now
            {
                due.extend(heap.pop_first().map(|(_, object)| object));
            }
        }
        let listed = tokio::time::timeout(self.limits.depot_within, self.depot.due(now, self.limits.wakes));
        let listed = listed
            .await
            .unwrap_or_else(|_| Err(suijuris_depot::Error::Unreachable(self.depot.describe(), None)));
        if let Ok(listed) = &listed {
            due.extend(listed.iter().map(|(_, object)| *object));
        }
        due.sort_unstable();
        due.dedup();
        for object in due {
            self.timer(object).await;
        }
        listed.map(drop)
    }

    /// Comes back to `object` at `due`. Beyond the bound the depot's index alone says what is due.
    pub(super) fn put_off(&self, due: Timestamp, object: ObjectId) {
        let mut all = lock(&self.due);
        if all.len() < DUE {
            all.insert((due, object));
        }
    }

    async fn timer(self: &Arc<Self>, object: ObjectId) {
        match self.deferred.ask(object, Instant::now()) {
            Turn::First(..) => {}
            Turn::BackingOff { .. } => return self.put_off(self.now().saturating_add(AGAIN), object),
            Turn::Waits(_) | Turn::Full => return,
        }
        let ended = match self.look(object).await {
            Ok(ObjectStatus::Asleep) => self.propose_timer(object).await,
            Ok(_) => Ended::Woke,
            Err(error) => Ended::Failed(error.in_full().into()),
        };
        self.deferred.end(object, &ended, Instant::now());
    }

    /// Proposes the wake of a timer; what was refused or failed comes again after a pause.
    async fn propose_timer(self: &Arc<Self>, object: ObjectId) -> Ended {
        let Some(proposal) = self.due_proposal(object).await else {
            return Ended::Woke;
        };
        let inputs = self.inputs(proposal);
        match self.propose(object, inputs).await {
            Ok(_) => Ended::Woke,
            Err(problem) => {
                self.put_off(self.now().saturating_add(AGAIN), object);
                Ended::Refused(problem.retry_after.map(Duration::from_secs))
            }
        }
    }

    /// The timers that are due, read from the announcement: the table does not keep what has fired.
    async fn due_proposal(&self, object: ObjectId) -> Option<Proposal> {
        let at_hand = |id| self.sleepers.bundle(id);
        let found = heads::find(&*self.depot, object, None, Trust::Mark, at_hand);
        let found = tokio::time::timeout(self.limits.depot_within, found).await;
        let Ok(Ok(Found::Asleep(state, _))) = found else {
            return None;
        };
        let head = state.head();
        let pending = self.sleepers.with_prepared(object, |prepared, _| {
            prepared.pending(&head.fired, head.born, self.now())
        })?;
        if let Some(next) = pending.next {
            self.put_off(next, object);
        }
        Proposal::timers(&pending.due)
    }
}
