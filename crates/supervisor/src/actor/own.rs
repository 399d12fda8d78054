//! What an object may propose itself: its end (`ending`), its move (`moving`).

use suijuris_api::Problem;
use suijuris_api::control::Reply;
use suijuris_api::event::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::lineage::Phase as Recorded;
use suijuris_door::PreparedBundle;
use tokio::sync::oneshot;

use super::requests::refused;
use crate::at_door::AtDoor;

/// What is known of the end, or of the move, that the object may propose itself.
#[derive(Debug)]
pub(super) struct OwnEnd {
    /// Whether rules let it, and whether they look at what changes with the time alone.
    pub(super) proposes: bool,
    pub(super) by_time: bool,
    /// The record at which it was asked last.
    pub(super) looked_at: Option<u64>,
}

impl OwnEnd {
    pub(super) fn of(prepared: &PreparedBundle, action: Action) -> Self {
        let program = &prepared.bundle().rules.program;
        let watches = program.watches(action);
        Self {
            proposes: !program.naming_self(action).is_empty(),
            by_time: watches.now || !watches.fresh.is_empty(),
            looked_at: None,
        }
    }

    /// Whether it is to be asked at this record, at which it was asked from then on.
    pub(super) fn is_asked_at(&mut self, seq: u64) -> bool {
        self.looked_at.replace(seq) != Some(seq) || self.by_time
    }

    /// Whether its rules look at the time while the object is dormant, so that it is to be asked as that passes.
    pub(super) fn goes_by_time(&self, at_door: Option<&AtDoor>) -> bool {
        let dormant = |at_door: &AtDoor| at_door.look(|state| state.head().phase == Recorded::Dormant);
        self.proposes && self.by_time && at_door.is_some_and(dormant)
    }
}

/// Answers an act of owners once its record is acknowledged.
pub(super) fn told(words: Verdict, answer: oneshot::Sender<Reply>) -> impl FnOnce(Result<(), Problem>) {
    move |acknowledged| {
        let reply = match acknowledged {
            Ok(()) => Reply::Verdict(words),
            Err(problem) => refused(&problem),
        };
        // Nobody may wait for it any more.
        let _ = answer.send(reply);
    }
}
