//! Whether the runtime takes connections that its owner hands over: not between its word that the machine may be suspended
//! and the word that it runs again. Who waits then, or is handed over then, stays the owner's, so that nobody waits in
//! a suspended machine and nobody is answered twice.
//!
//! Of those that were taken the last are remembered, so that a supervisor that comes back serves none of them again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that were taken are remembered up to this number.
const REMEMBERED: usize = 1_024;

/// Open or closed; clones are the same intake.
#[derive(Debug, Clone, Default)]
pub struct Intake(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// How often it was opened or closed; odd: closed.
    turn: AtomicU64,
    taken: Mutex<VecDeque<u64>>,
}

/// A connection that came while the intake was open.
#[derive(Debug, Clone)]
pub struct Ticket {
    intake: Intake,
    /// How often the intake had been opened or closed then.
    turn: u64,
}

impl Intake {
    /// From now on nobody is taken, not even who came before.
    pub fn close(&self) {
        if self.is_open() {
            self.0.turn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on whoever comes is taken.
    pub fn open(&self) {
        if !self.is_open() {
            self.0.turn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Another supervisor hands over from now on: who came from the last one and was not taken yet is not taken any more.
    /// Those that were taken, oldest first.
    #[must_use]
    pub fn renew(&self) -> Vec<u64> {
        self.0.turn.fetch_add(2, Ordering::Relaxed);
        let taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.iter().copied().collect()
    }

    /// For a connection that comes now; `None` while closed.
    #[must_use]
    pub fn ticket(&self) -> Option<Ticket> {
        let (intake, turn) = (self.clone(), self.0.turn.load(Ordering::Relaxed));
        self.is_open().then_some(Ticket { intake, turn })
    }

    fn is_open(&self) -> bool {
        self.0.turn.load(Ordering::Relaxed).is_multiple_of(2)
    }
}

impl Ticket {
    /// Whether the intake has stayed open since.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.intake.0.turn.load(Ordering::Relaxed) == self.turn
    }

    /// The connection was taken.
    pub fn took(&self, id: u64) {
        let mut taken = self.intake.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= REMEMBERED {
            taken.pop_front();
        }
        taken.push_back(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_before_it_closed_is_not_taken_after_it_opened_again() {
        let intake = Intake::default();
        let early = intake.ticket().unwrap();
        assert!(early.holds());
        intake.close();
        intake.close();
        assert!(intake.ticket().is_none() && !early.holds());
        intake.open();
        assert!(intake.ticket().unwrap().holds() && !early.holds());
    }

    #[test]
    fn another_supervisor_learns_who_was_taken_and_nobody_else_is() {
        let intake = Intake::default();
        let early = intake.ticket().unwrap();
        for id in 0..1_025 {
            early.took(id);
        }
        let taken = intake.renew();
        assert_eq!((taken.len(), taken[0], taken[1_023]), (1_024, 1, 1_024));
        assert!(!early.holds() && intake.ticket().unwrap().holds());
        intake.close();
        let _taken = intake.renew();
        assert!(intake.ticket().is_none(), "a closed one stays closed");
    }
}
