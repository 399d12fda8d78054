//! The move that the resident object proposes itself. It is recorded at rest, by whoever runs it: awake, where a rule that names
//! it permits a place that its host knows, the host asks it to fall asleep.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{View, own_proposal};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Host, Principal};
use suijuris_core::lineage::Phase;

use super::Resident;

/// Between two such requests, where the first was refused: each refusal is recorded.
const APART: Duration = Duration::from_secs(60);

/// What is known of a move to come.
#[derive(Debug)]
pub(super) struct Moving {
    /// Where it may go; none where no rule lets it propose that.
    places: Vec<Host>,
    /// Whether such rules look at what changes with the time alone.
    by_time: bool,
    /// What was looked at last: record, messages, holds. Nothing else changes an answer.
    looked_at: RefCell<Option<(u64, u64, BTreeSet<String>)>>,
    /// When it was asked to sleep last.
    asked: Cell<Option<Instant>>,
}

impl Moving {
    pub(super) fn of(bundle: &Bundle, places: Vec<Host>) -> Self {
        let program = &bundle.rules.program;
        let watches = program.watches(Action::Migrate);
        let proposes = !program.naming_self(Action::Migrate).is_empty();
        Self {
            places: if proposes { places } else { Vec::new() },
            by_time: watches.now || !watches.fresh.is_empty(),
            looked_at: RefCell::default(),
            asked: Cell::default(),
        }
    }
}

impl Resident {
    /// Asks the object to sleep where it proposes to move; whether it lets itself be. It is asked when something changed that rules
    /// of its move can see, or where they look at the time.
    #[must_use]
    pub fn sleeps_to_move(&self) -> bool {
        let moving = &self.moving;
        let waits = |asked: Instant| asked.elapsed() < APART;
        if moving.places.is_empty() || moving.asked.get().is_some_and(waits) {
            return false;
        }
        let inputs = self.inputs(Principal::Own);
        let seq = self.lineage.staged(|state| state.head().seq);
        let facts = Some((seq, inputs.pending, inputs.holds.clone()));
        if !moving.by_time && *moving.looked_at.borrow() == facts {
            return false;
        }
        moving.looked_at.replace(facts);
        let proposes = moving.places.iter().any(|place| {
            let mut inputs = inputs.clone();
            inputs.to = Some(place.clone());
            self.lineage.staged(|state| {
                // As it would be asked once it sleeps.
                let mut head = state.head().clone();
                head.phase = Phase::Dormant;
                let asleep = View {
                    head: &head,
                    ..View::new(state, &self.bundle.rules)
                };
                own_proposal(asleep, Action::Migrate, inputs).is_some()
            })
        });
        if !proposes {
            return false;
        }
        moving.asked.set(Some(Instant::now()));
        // In the host's name, which knows the place: rules have no word of `Self` for `sleep`. A refusal is told and recorded.
        self.propose_sleep(Principal::Host).is_ok()
    }
}
