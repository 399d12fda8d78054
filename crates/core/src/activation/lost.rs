//! Another copy has the object, and only the machine is left to be ended.

use super::turn::Turn;
use super::{Effect, Event, Loss, Refusal, Run, State};
use crate::witness::Mono;

/// Another copy has the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    loss: Loss,
    /// The machine that is being killed, and when it is killed again.
    machine: Option<(Run, Mono)>,
}

impl Lost {
    /// Kills what runs.
    pub(super) fn new(loss: Loss, machine: Option<Run>, turn: &mut Turn<'_>) -> Self {
        if let Some(run) = machine {
            turn.then(Effect::Kill(run));
        }
        let again = turn.after(turn.terms.kill_within);
        Self {
            loss,
            machine: machine.map(|run| (run, again)),
        }
    }

    pub(super) fn on(mut self, event: Event, turn: &mut Turn<'_>) -> State {
        let run = self.machine();
        match event {
            Event::Proposed(proposal) => turn.refuse([proposal], Refusal::NotTheObject(self.loss)),
            Event::Exited(ended) if run == Some(ended) => self.machine = None,
            Event::Started(started) if run == Some(started) => turn.then(Effect::Kill(started)),
            Event::Tick => {
                if let Some((run, until)) = &mut self.machine
                    && *until <= turn.now
                {
                    turn.then(Effect::Kill(*run));
                    *until = turn.after(turn.terms.kill_within);
                }
            }
            _ => {}
        }
        State::Lost(self)
    }

    /// Why.
    #[must_use]
    pub const fn loss(&self) -> Loss {
        self.loss
    }

    pub(super) const fn machine(&self) -> Option<Run> {
        match self.machine {
            Some((run, _)) => Some(run),
            None => None,
        }
    }

    pub(super) const fn deadline(&self) -> Option<Mono> {
        match self.machine {
            Some((_, until)) => Some(until),
            None => None,
        }
    }

    pub(super) const fn abandoned(self) -> Self {
        Self {
            machine: None,
            ..self
        }
    }
}
