//! No machine runs: the door decides, and the first whom it permits starts one.

use super::turn::Turn;
use super::waking::Waking;
use super::{Ask, By, Effect, Event, Proposal, Refusal, State};
use crate::witness::Mono;

/// The object rests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resting {
    publishing: Option<Ask>,
}

/// The object rests and is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingOff {
    until: Mono,
    /// Who is tried again when the pause is over.
    waiting: Vec<Proposal>,
}

impl Resting {
    /// At rest, and what is new is published.
    pub(super) fn publish(turn: &mut Turn<'_>) -> Self {
        Self {
            publishing: Some(turn.ask(Effect::Publish)),
        }
    }

    /// At rest, with who waited to be decided about again.
    pub(super) fn look(turn: &mut Turn<'_>, waiting: Vec<Proposal>) -> State {
        let resting = Self::publish(turn);
        turn.again(waiting);
        turn.then(Effect::Look);
        State::Resting(resting)
    }

    pub(super) fn on(mut self, event: Event, turn: &mut Turn<'_>) -> State {
        match event {
            Event::Proposed(proposal) if turn.me.stop.is_some() => {
                turn.refuse([proposal], Refusal::Stopping);
            }
            Event::Proposed(proposal) => return State::Starting(Waking::start(turn, proposal, Vec::new())),
            Event::Witnessed if turn.me.stop.is_none() => return State::Resting(Self::publish(turn)),
            Event::Published(ask) if self.publishing == Some(ask) => self.publishing = None,
            _ => {}
        }
        State::Resting(self)
    }
}

impl BackingOff {
    /// Rests until then. An owner does not wait; who else waits goes on waiting where the pause is short or nobody would
    /// propose it again. Whoever connects while what is left of the pause is short waits too.
    pub(super) fn begin(turn: &mut Turn<'_>, until: Mono, waiting: Vec<Proposal>) -> State {
        let (owners, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|proposal| proposal.by == By::Owner);
        turn.again(owners);
        let pause = until.since(turn.now);
        let short = pause <= turn.terms.hold_within;
        let waits = |proposal: &Proposal| short || proposal.by == By::Memory;
        let (waiting, refused): (Vec<_>, Vec<_>) = waiting.into_iter().partition(waits);
        turn.refuse(refused, Refusal::Paused(pause));
        State::BackingOff(Box::new(Self { until, waiting }))
    }

    pub(super) fn on(mut self: Box<Self>, event: Event, turn: &mut Turn<'_>) -> State {
        match event {
            Event::Proposed(proposal) if proposal.by == By::Owner => {
                return State::Starting(Waking::start(turn, proposal, self.waiting));
            }
            Event::Proposed(proposal) => {
                let left = self.until.since(turn.now);
                let short = proposal.by == By::Request && left <= turn.terms.hold_within;
                if short || proposal.by == By::Memory || proposal.tries > 0 {
                    turn.hold(&mut self.waiting, 0, proposal);
                } else {
                    turn.refuse([proposal], Refusal::Paused(left));
                }
            }
            Event::Witnessed => {
                turn.me.pace.forgive();
                return Resting::look(turn, self.waiting);
            }
            Event::Tick if self.until <= turn.now => {
                turn.again(self.waiting);
                turn.then(Effect::Look);
                return State::Resting(Resting::default());
            }
            _ => {}
        }
        State::BackingOff(self)
    }

    pub(super) const fn deadline(&self) -> Mono {
        self.until
    }

    pub(super) const fn waiting(&mut self) -> &mut Vec<Proposal> {
        &mut self.waiting
    }

    pub(super) fn into_waiting(self) -> Vec<Proposal> {
        self.waiting
    }
}
