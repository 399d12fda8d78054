//! The house and the world outside the object: the witness, what is published, messages that wait.

use suijuris_core::inputs::Caller;
use suijuris_core::time::Timestamp;
use suijuris_core::witness::Verdict;
use suijuris_custody::claim::RefusedCopy;
use suijuris_depot::Waiting;
use suijuris_door::{Proposal, prepared};
use suijuris_vehicle::{Machine as _, Signal};
use tokio::task::JoinSet;

use super::{House, LEAVE_WITHIN, Stay};

impl House {
    /// Another copy has taken the object: nothing more is served or written here.
    pub(super) async fn lose(&mut self, copy: &RefusedCopy) {
        self.say.event(copy.event());
        self.lost = true;
        if let Stay::Awake(awake) = &mut self.stay {
            awake.running.machine.stop(Signal::KILL, LEAVE_WITHIN).await;
        }
    }

    /// Keeps asking a witness that is required and does not answer.
    pub(super) fn ask_again(&mut self) {
        self.asking = JoinSet::new();
        if let Some(asking) = self.claim.again() {
            self.asking.spawn_local(asking);
        }
    }

    /// A witness answers that had not.
    pub(super) async fn answered(&mut self, verdict: Verdict) {
        if let Some(copy) = self.claim.take(verdict).await {
            return self.lose(&copy).await;
        }
        let witnessed = self.claim.witnessed();
        if let Some(door) = self.door() {
            door.witnessed(witnessed);
        }
        // A machine may have failed for want of this answer.
        self.back_off.succeeded();
        self.publish();
    }

    /// When a timer wants the object woken.
    pub(super) fn due(&mut self) -> Option<Timestamp> {
        prepared::due(&self.pending())
    }

    /// Publishes the sleeping object, while the house goes on.
    pub(super) fn publish(&mut self) {
        let due = self.due();
        if let Some(publishing) = self.claim.publish(due) {
            self.publishing.spawn_local(publishing);
        }
    }

    /// Messages wait: the first on a topic that wakes proposes it.
    pub(super) async fn post_arrived(&mut self, waiting: &[Waiting]) -> anyhow::Result<()> {
        let pending = u64::try_from(waiting.len()).unwrap_or(u64::MAX);
        if let Some(door) = self.door() {
            door.expect_messages(pending);
        }
        let declared = waiting
            .iter()
            .find(|waiting| self.prepared.wakes_for(&waiting.message.topic));
        let Some(first) = declared else { return Ok(()) };
        let topic = first.message.topic.clone();
        let detail = format!("{topic} {} of {}", first.message.id, first.message.source);
        let verdict = self
            .propose(Proposal::message(topic, Caller::default()), detail, None)
            .await?;
        match verdict.filter(|verdict| verdict.outcome == "refuse") {
            Some(refused) => self.post.refused(refused.retry_after),
            None => self.post.heard(),
        }
        Ok(())
    }
}
