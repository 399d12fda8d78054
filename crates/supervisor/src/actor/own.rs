//! What an object may propose itself: its end (`ending`), its move (`moving`).

use suijuris_core::governance::Action;
use suijuris_door::PreparedBundle;

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
}
