//! A machine runs with its object awake or falling asleep in it; then it may be suspended, and resumed.

use std::time::Duration;

use super::settling::Settling;
use super::stopping::Stopping;
use super::turn::{End, Past, Turn};
use super::waking::Waking;
use super::{
    Answer, Ask, By, Claimed, Effect, Event, Failure, Leave, Proposal, Refusal, Report, Run, State, Word,
};
use crate::witness::{Mono, Purpose};

/// The object is awake, or falls asleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    run: Run,
    /// Delivered to the gate and not taken yet.
    handed: Vec<Proposal>,
    /// Came while the object fell asleep.
    held: Vec<Proposal>,
    draining: bool,
    /// Since when the gate is open.
    serving: Option<Mono>,
    /// When the runtime is asked whether it is there, or, asked, counts as stuck.
    until: Mono,
    probed: bool,
}

/// The machine is being suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspending {
    run: Run,
    step: Step,
    handed: Vec<Proposal>,
    held: Vec<Proposal>,
    past: Past,
    until: Mono,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The machine is being suspended.
    Suspending,
    /// It is suspended; the object is claimed for resting.
    Claiming(Ask),
}

/// The machine is suspended, the object dormant in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspended {
    run: Run,
    /// Until when only an owner or a write resumes it, after an activation that never served.
    until: Option<Mono>,
}

impl Running {
    /// Awake, with those delivered to its gate.
    pub(super) fn new(turn: &Turn<'_>, run: Run, handed: Vec<Proposal>, serving: bool) -> Box<Self> {
        Box::new(Self {
            run,
            handed,
            held: Vec::new(),
            draining: false,
            serving: serving.then_some(turn.now),
            until: turn.after(turn.terms.beat_within),
            probed: false,
        })
    }

    /// Found awake after a restart; whoever waited is delivered.
    pub(super) fn attached(
        turn: &mut Turn<'_>,
        run: Run,
        waiting: Vec<Proposal>,
        draining: bool,
    ) -> Box<Self> {
        let mut running = Self::new(turn, run, Vec::new(), true);
        running.draining = draining;
        for proposal in waiting {
            running.proposed(proposal, turn);
        }
        running
    }

    pub(super) fn on(mut self: Box<Self>, event: Event, turn: &mut Turn<'_>) -> State {
        match event {
            Event::Proposed(proposal) => self.proposed(proposal, turn),
            Event::Heard(run, word) if run == self.run => return self.heard(word, turn),
            Event::Exited(run) if run == self.run => {
                turn.report(Report::Failed(Failure::Died));
                let past = self.past(turn, End::Failed(Failure::Died));
                let mut waiting = turn.left_behind(self.handed, Failure::Died);
                waiting.extend(self.held);
                return Settling::record(turn, past, waiting);
            }
            Event::Tick if self.until <= turn.now && !self.probed => {
                turn.then(Effect::Probe(self.run));
                self.probed = true;
                self.until = turn.after(turn.terms.probe_within);
            }
            Event::Tick if self.until <= turn.now => return self.stuck(turn),
            _ => {}
        }
        State::Running(self)
    }

    fn proposed(&mut self, proposal: Proposal, turn: &mut Turn<'_>) {
        if self.draining {
            return turn.hold(&mut self.held, self.handed.len(), proposal);
        }
        if proposal.by != By::Request {
            return turn.answer(proposal, Answer::Woke);
        }
        let before = self.handed.len();
        turn.hold(&mut self.handed, self.held.len(), proposal);
        if self.handed.len() > before {
            turn.then(Effect::Deliver(self.run, proposal.id));
        }
    }

    fn heard(mut self: Box<Self>, word: Word, turn: &mut Turn<'_>) -> State {
        self.until = turn.after(turn.terms.beat_within);
        self.probed = false;
        match word {
            Word::Heartbeat | Word::Woke | Word::SleepRefused => {}
            Word::Serving => self.serving = self.serving.or(Some(turn.now)),
            Word::Taken(id) => self.handed.retain(|proposal| proposal.id != id),
            Word::Draining => self.draining = true,
            Word::Suspend => return self.suspend(turn),
            Word::Refused(retry_after) => {
                let held = std::mem::take(&mut self.held);
                turn.refuse(held, Refusal::Inside(retry_after));
                return self.leaves(turn, End::Refused(retry_after));
            }
            Word::Leaving(Leave::Slept | Leave::Stopped) => return self.leaves(turn, End::Slept),
            Word::Leaving(Leave::WorkloadFailed) => {
                turn.report(Report::Failed(Failure::Workload));
                return self.leaves(turn, End::Failed(Failure::Workload));
            }
            Word::Closed => {
                turn.report(Report::Failed(Failure::Died));
                let past = self.past(turn, End::Failed(Failure::Died));
                let stopping = Stopping::term(turn, self.run, self.held, self.handed, past);
                return State::Stopping(stopping);
            }
        }
        State::Running(self)
    }

    fn past(&self, turn: &Turn<'_>, end: End) -> Past {
        Past {
            end,
            served: self.serving.map(|since| turn.now.since(since)),
        }
    }

    fn leaves(self, turn: &mut Turn<'_>, end: End) -> State {
        let past = self.past(turn, end);
        State::Stopping(Stopping::leaving(turn, self.run, self.held, self.handed, past))
    }

    fn suspend(self, turn: &mut Turn<'_>) -> State {
        turn.then(Effect::Suspend(self.run));
        State::Suspending(Box::new(Suspending {
            run: self.run,
            step: Step::Suspending,
            past: self.past(turn, End::Slept),
            handed: self.handed,
            held: self.held,
            until: turn.after(turn.terms.suspend_within),
        }))
    }

    /// The runtime is suspended: it will take nobody, and no signal of ours would be heard.
    fn stuck(self, turn: &mut Turn<'_>) -> State {
        let failure = Failure::Stuck;
        turn.report(Report::Failed(failure));
        let past = self.past(turn, End::Failed(failure));
        turn.refuse(self.handed, Refusal::Failed(failure));
        State::Stopping(Stopping::kill(turn, self.run, self.held, Vec::new(), past))
    }

    /// The host stops the object, which is asked to sleep unless it does already.
    pub(super) fn stop(self, turn: &mut Turn<'_>, now: bool) -> State {
        let past = self.past(turn, End::GivenUp);
        turn.refuse(self.held, Refusal::Stopping);
        let stopping = match (now, self.draining) {
            (true, _) => Stopping::kill(turn, self.run, Vec::new(), self.handed, past),
            (false, true) => Stopping::leaving(turn, self.run, Vec::new(), self.handed, past),
            (false, false) => Stopping::ask(turn, self.run, self.handed, past),
        };
        State::Stopping(stopping)
    }

    pub(super) const fn run(&self) -> Run {
        self.run
    }

    pub(super) const fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) const fn deadline(&self) -> Mono {
        self.until
    }

    pub(super) const fn waiting(&mut self) -> [&mut Vec<Proposal>; 2] {
        [&mut self.handed, &mut self.held]
    }

    pub(super) fn into_waiting(mut self) -> Vec<Proposal> {
        self.handed.append(&mut self.held);
        self.handed
    }
}

impl Suspending {
    /// A machine that an earlier process left suspended: the object is claimed for resting in it.
    pub(super) fn attached(turn: &mut Turn<'_>, run: Run, held: Vec<Proposal>) -> Box<Self> {
        let ask = turn.ask(|ask| Effect::Claim(ask, Purpose::Rest));
        Box::new(Self {
            run,
            step: Step::Claiming(ask),
            handed: Vec::new(),
            held,
            past: Past {
                end: End::GivenUp,
                served: None,
            },
            until: turn.after(turn.terms.suspend_within),
        })
    }

    pub(super) fn on(mut self: Box<Self>, event: Event, turn: &mut Turn<'_>) -> State {
        match event {
            Event::Proposed(proposal) => turn.hold(&mut self.held, self.handed.len(), proposal),
            Event::Heard(run, Word::Taken(id)) if run == self.run => {
                self.handed.retain(|proposal| proposal.id != id);
            }
            Event::Suspended(run) if run == self.run && self.step == Step::Suspending => {
                self.step = Step::Claiming(turn.ask(|ask| Effect::Claim(ask, Purpose::Rest)));
            }
            Event::SuspendFailed(run) if run == self.run => {
                turn.report(Report::NotSuspended);
                let stopping = Stopping::term(turn, self.run, self.held, self.handed, self.past);
                return State::Stopping(stopping);
            }
            Event::Claimed(ask, claimed) if self.step == Step::Claiming(ask) => match claimed {
                Claimed::Refused(loss) => return State::Suspending(self).lose(loss, turn),
                // A witness that does not answer is asked again by the service; the door knows that it is missing.
                Claimed::Won | Claimed::Failed => return self.suspended(turn),
            },
            Event::Exited(run) if run == self.run => {
                let mut waiting = turn.left_behind(self.handed, Failure::Died);
                waiting.extend(self.held);
                return Settling::record(turn, self.past, waiting);
            }
            Event::Tick if self.until <= turn.now => return self.late(turn),
            _ => {}
        }
        State::Suspending(self)
    }

    /// Who was not taken by the gate is decided about by the door, as is who came since.
    fn suspended(self, turn: &mut Turn<'_>) -> State {
        let pause = turn.account(self.past);
        if let Some(pause) = pause {
            turn.report(Report::Paused(pause, turn.me.pace.failures()));
        }
        turn.again(self.handed.into_iter().chain(self.held));
        if pause.is_none() {
            turn.then(Effect::Look);
        }
        State::Suspended(Suspended {
            run: self.run,
            until: pause.map(|pause| turn.after(pause)),
        })
    }

    fn late(self, turn: &mut Turn<'_>) -> State {
        match self.step {
            Step::Suspending => {
                turn.report(Report::NotSuspended);
                let stopping = Stopping::kill(turn, self.run, self.held, self.handed, self.past);
                State::Stopping(stopping)
            }
            Step::Claiming(_) => self.suspended(turn),
        }
    }

    pub(super) fn stop(self, turn: &mut Turn<'_>, now: bool) -> State {
        turn.refuse(self.held, Refusal::Stopping);
        let past = Past {
            end: End::GivenUp,
            ..self.past
        };
        let stopping = if now {
            Stopping::kill(turn, self.run, Vec::new(), self.handed, past)
        } else {
            Stopping::term(turn, self.run, Vec::new(), self.handed, past)
        };
        State::Stopping(stopping)
    }

    pub(super) const fn run(&self) -> Run {
        self.run
    }

    pub(super) const fn deadline(&self) -> Mono {
        self.until
    }

    pub(super) const fn waiting(&mut self) -> [&mut Vec<Proposal>; 2] {
        [&mut self.handed, &mut self.held]
    }

    pub(super) fn into_waiting(mut self) -> Vec<Proposal> {
        self.handed.append(&mut self.held);
        self.handed
    }
}

impl Suspended {
    pub(super) fn on(mut self, event: Event, turn: &mut Turn<'_>) -> State {
        let past = Past {
            end: End::GivenUp,
            served: None,
        };
        match event {
            Event::Proposed(proposal) => match self.pause(turn) {
                Some(pause) if !matches!(proposal.by, By::Owner | By::Memory) => {
                    turn.refuse([proposal], Refusal::Paused(pause));
                }
                _ => return State::Resuming(Waking::resume(turn, self.run, proposal)),
            },
            Event::GiveUp => {
                let stopping = Stopping::kill(turn, self.run, Vec::new(), Vec::new(), past);
                return State::Stopping(stopping);
            }
            Event::Exited(run) if run == self.run => return Settling::record(turn, past, Vec::new()),
            Event::Tick if self.until.is_some() && self.pause(turn).is_none() => {
                self.until = None;
                turn.then(Effect::Look);
            }
            _ => {}
        }
        State::Suspended(self)
    }

    fn pause(&self, turn: &Turn<'_>) -> Option<Duration> {
        let left = self.until.map(|until| until.since(turn.now));
        left.filter(|left| !left.is_zero())
    }

    pub(super) const fn deadline(&self) -> Option<Mono> {
        self.until
    }

    pub(super) fn stop(self, turn: &mut Turn<'_>, now: bool) -> State {
        let past = Past {
            end: End::GivenUp,
            served: None,
        };
        let stopping = if now {
            Stopping::kill(turn, self.run, Vec::new(), Vec::new(), past)
        } else {
            Stopping::term(turn, self.run, Vec::new(), Vec::new(), past)
        };
        State::Stopping(stopping)
    }

    pub(super) const fn run(&self) -> Run {
        self.run
    }
}
