//! Timers that are due and messages that wait, while the object is dormant.

use std::time::Duration;

use suijuris_api::event::Verdict as VerdictWords;
use suijuris_core::activation::{Answer, HostStop, Phase, Refusal};
use suijuris_core::inputs::Caller;
use suijuris_core::lineage::Fired;
use suijuris_core::time::Timestamp;
use suijuris_depot::Waiting;
use suijuris_door::Proposal;
use suijuris_door::proposal::dealt_with;
use suijuris_vehicle::Driver;

use super::connections::Decided;
use super::done::Done;
use super::own::OwnEnd;
use super::{LONGEST_WAIT, ObjectActor, Proposer};

impl<D: Driver> ObjectActor<D> {
    /// Whether the object is looked after here: awake, its runtime does; after a failure, nobody does for a while.
    fn is_looked_after(&self) -> bool {
        let phase = self.activation.phase();
        matches!(phase, Phase::Resting | Phase::Suspended) && self.activation.host_stop() == HostStop::None
    }

    /// Whether something may come of it with nobody asking, so that it is not put away however long it sleeps.
    pub(super) fn is_to_be_looked_after(&self) -> bool {
        let triggers = &self.prepared.bundle().manifest.triggers;
        let by_itself = |own: &OwnEnd| own.proposes && own.by_time;
        let moves = by_itself(&self.own_move) && !self.services.destinations.is_empty();
        !triggers.timers.is_empty() || !triggers.topics.is_empty() || by_itself(&self.own_end) || moves
    }

    pub(super) fn looks_at_inbox(&self) -> bool {
        self.is_looked_after() && self.at_door.is_some() && !self.messages_proposed
    }

    /// Looks now.
    pub(super) fn look(&mut self) {
        self.look_at_timers();
    }

    /// How long until a timer is due or counted refusals are; none where nothing can be.
    pub(super) fn next_timer(&mut self) -> Option<Duration> {
        if !self.is_looked_after() || self.timers_proposed {
            return None;
        }
        let reading = self.services.clock.reading();
        let at_door = self.at_door.as_mut()?;
        let pending = at_door.timers(reading);
        if !pending.due.is_empty() {
            return Some(Duration::ZERO);
        }
        let until =
            |next: Timestamp| Duration::from_millis(u64::try_from(next.since(reading.wall).0).unwrap_or(0));
        match pending.next {
            Some(next) => Some(until(next).clamp(Duration::from_millis(1), LONGEST_WAIT)),
            None => self.counted.then_some(LONGEST_WAIT),
        }
    }

    pub(super) fn look_at_timers(&mut self) {
        if !self.is_looked_after() || self.timers_proposed {
            return;
        }
        let reading = self.services.clock.reading();
        let Some(at_door) = &mut self.at_door else { return };
        let counted = at_door.due(Fired::new(), reading, false);
        let recording = at_door.record(counted, reading);
        let due = at_door.timers(reading).due;
        if !matches!(&recording, Ok(recording) if recording.is_empty()) {
            self.tell(recording, std::future::ready(()));
        }
        if due.is_empty() {
            return;
        }
        if let Some(proposal) = Proposal::timers(&due) {
            let names: Vec<_> = due.iter().map(|(name, _)| name.to_string()).collect();
            // Until what they come to is known, or recorded, they are not looked at again.
            let decided = self.propose(proposal, &names.join(", "), Proposer::Timer, 0);
            self.timers_proposed = !matches!(decided, Decided::Elsewhere(_));
            return;
        }
        // Missed occurrences that do not fire are only noted.
        let Some(at_door) = &mut self.at_door else { return };
        let skipped = at_door.due(dealt_with(&due), reading, false);
        let recording = at_door.record(skipped, reading);
        self.timers_proposed = true;
        let answers = self.answers.clone();
        self.tell(recording, async move {
            let _ = answers.send(Done::TimersNoted).await;
        });
    }

    /// Messages wait: the first on a topic that wakes proposes it.
    pub(super) fn messages_wait(&mut self, waiting: &[Waiting]) {
        let pending = u64::try_from(waiting.len()).unwrap_or(u64::MAX);
        if let Some(at_door) = &mut self.at_door {
            at_door.door().expect_messages(pending);
        }
        let declared = waiting
            .iter()
            .find(|waiting| self.prepared.wakes_for(&waiting.message.topic));
        let Some(first) = declared else { return };
        let topic = first.message.topic.clone();
        let detail = format!("{topic} {} of {}", first.message.id, first.message.source);
        let proposal = Proposal::message(topic, Caller::default());
        match self.propose(proposal, &detail, Proposer::Message, 0) {
            Decided::Refused(VerdictWords { retry_after, .. }) => self.inbox.refused(retry_after),
            Decided::Proposed => {
                self.messages_proposed = true;
                self.inbox.heard();
            }
            Decided::Elsewhere(_) => self.inbox.heard(),
        }
    }

    pub(super) fn messages_answered(&mut self, answer: Answer) {
        self.messages_proposed = false;
        match answer {
            Answer::Woke | Answer::Again => self.inbox.heard(),
            Answer::Refused(refusal) => {
                let after = match refusal {
                    Refusal::Inside(after) => after,
                    other => other.retry_after(),
                };
                self.inbox.refused(after.map(|after| after.as_secs()));
            }
        }
    }
}
