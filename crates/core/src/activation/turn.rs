//! What does not depend on the state, and one transition in the making. Used by the states alone.

use std::time::Duration;

use super::pace::{Outcome, Pace};
use super::{Answer, Ask, By, Effect, Facts, Failure, Proposal, Refusal, Report, Run, Stop, Terms};
use crate::witness::Mono;

/// What does not depend on the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Me {
    numbers: u64,
    pub(super) pace: Pace,
    pub(super) stop: Option<Stopped>,
}

/// The host stops the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped {
    /// What runs then is killed.
    pub(super) kill_at: Mono,
    /// Then it is over, whatever is missing.
    pub(super) over_at: Mono,
}

/// How an activation ended, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) end: End,
    /// How long its gate was open, if it ever was.
    pub(super) served: Option<Duration>,
}

/// Why an activation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The object fell asleep.
    Slept,
    /// The object refused inside.
    Refused(Option<Duration>),
    /// The machine failed.
    Failed(Failure),
    /// The host ended it: nothing is counted.
    GivenUp,
}

/// One transition in the making.
pub(super) struct Turn<'a> {
    pub(super) now: Mono,
    pub(super) terms: &'a Terms,
    pub(super) me: &'a mut Me,
    pub(super) effects: Vec<Effect>,
}

impl<'a> Turn<'a> {
    pub(super) const fn new(me: &'a mut Me, facts: Facts<'a>) -> Self {
        Self {
            now: facts.now,
            terms: facts.terms,
            me,
            effects: Vec::new(),
        }
    }

    const fn number(&mut self) -> u64 {
        self.me.numbers = self.me.numbers.wrapping_add(1);
        self.me.numbers
    }

    /// A number for a machine.
    pub(super) const fn run(&mut self) -> Run {
        Run(self.number())
    }

    /// Asks for something that is answered under a number.
    pub(super) fn ask(&mut self, effect: impl FnOnce(Ask) -> Effect) -> Ask {
        let ask = Ask(self.number());
        self.effects.push(effect(ask));
        ask
    }

    pub(super) fn then(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn report(&mut self, report: Report) {
        self.effects.push(Effect::Report(report));
    }

    /// This long from now.
    pub(super) fn after(&self, length: Duration) -> Mono {
        self.now.after(length)
    }

    /// This long from now, and no later than the host's stop kills.
    pub(super) fn before_kill(&self, length: Duration) -> Mono {
        let until = self.now.after(length);
        self.me.stop.map_or(until, |stop| until.min(stop.kill_at))
    }

    pub(super) fn answer(&mut self, proposal: Proposal, answer: Answer) {
        self.effects.push(Effect::Answer(proposal, answer));
    }

    pub(super) fn refuse(&mut self, waiting: impl IntoIterator<Item = Proposal>, refusal: Refusal) {
        let refused = waiting
            .into_iter()
            .map(|proposal| Effect::Answer(proposal, Answer::Refused(refusal)));
        self.effects.extend(refused);
    }

    /// The door decides about them again.
    pub(super) fn again(&mut self, waiting: impl IntoIterator<Item = Proposal>) {
        let again = waiting
            .into_iter()
            .map(|proposal| Effect::Answer(proposal, Answer::Again));
        self.effects.extend(again);
    }

    /// Lets a proposal wait, if there is room among `waiting` and `others` more, and the host does not stop the object.
    pub(super) fn hold(&mut self, waiting: &mut Vec<Proposal>, others: usize, proposal: Proposal) {
        if self.me.stop.is_some() {
            self.refuse([proposal], Refusal::Stopping);
        } else if waiting.len().saturating_add(others) >= self.terms.max_waiting {
            self.refuse([proposal], Refusal::Full);
        } else {
            waiting.push(proposal);
        }
    }

    /// Who was with a machine that ended and may be tried with another: what nobody would propose again, and connections
    /// that the machine had no time to fail. The rest is refused: whoever was tried too often, an owner, who wants to know
    /// now, and timers and messages, which are looked at anew.
    pub(super) fn left_behind(&mut self, proposals: Vec<Proposal>, failure: Failure) -> Vec<Proposal> {
        if self.me.stop.is_some() {
            self.refuse(proposals, Refusal::Stopping);
            return Vec::new();
        }
        let tried = proposals.into_iter().map(|proposal| Proposal {
            tries: proposal.tries.saturating_add(1),
            ..proposal
        });
        let max = self.terms.max_tries;
        let by = |by| match by {
            By::Memory => true,
            By::Request => matches!(failure, Failure::Died | Failure::Workload),
            By::Timer | By::Message | By::Owner => false,
        };
        let may = |proposal: &Proposal| proposal.tries < max && by(proposal.by);
        let (again, refused): (Vec<_>, Vec<_>) = tried.partition(may);
        self.refuse(refused, Refusal::Failed(failure));
        again
    }

    /// Enters an activation in the account; the pause that follows, if one does.
    pub(super) fn account(&mut self, past: Past) -> Option<Duration> {
        let outcome = match (past.end, past.served) {
            (End::GivenUp, _) => return None,
            (End::Slept, Some(_)) => Outcome::Served,
            (End::Slept, None) => Outcome::Failed(Duration::ZERO),
            (End::Failed(_), served) => Outcome::Failed(served.unwrap_or_default()),
            (End::Refused(retry_after), _) => Outcome::Refused(retry_after),
        };
        self.me.pace.ended(self.now, outcome, &self.terms.pace)
    }

    /// Takes in that the host stops the object; whether it is the first that it hears of it.
    pub(super) fn note_stop(&mut self, stop: Stop) -> bool {
        let kill_at = match stop {
            Stop::Graceful(within) => self.now.after(within),
            Stop::Now => self.now,
        };
        let over_at = kill_at.after(self.terms.end_within);
        let before = self.me.stop;
        self.me.stop = Some(before.map_or(Stopped { kill_at, over_at }, |before| Stopped {
            kill_at: before.kill_at.min(kill_at),
            over_at: before.over_at.min(over_at),
        }));
        before.is_none()
    }
}
