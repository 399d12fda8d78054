//! Whether the runtime takes connections that its owner hands over: not between its word that the machine may be frozen
//! and the word that it runs again. Who waits then, or is handed over then, stays the owner's, so that nobody waits in
//! a frozen machine and nobody is answered twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Open or closed; clones are the same intake.
#[derive(Debug, Clone, Default)]
pub struct Intake(Arc<AtomicU64>);

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
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on whoever comes is taken.
    pub fn open(&self) {
        if !self.is_open() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For a connection that comes now; `None` while closed.
    #[must_use]
    pub fn ticket(&self) -> Option<Ticket> {
        let (intake, turn) = (self.clone(), self.0.load(Ordering::Relaxed));
        self.is_open().then_some(Ticket { intake, turn })
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed).is_multiple_of(2)
    }
}

impl Ticket {
    /// Whether the intake has stayed open since.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.intake.0.load(Ordering::Relaxed) == self.turn
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
}
