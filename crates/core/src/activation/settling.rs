//! A machine has ended, and the object is taken back; or a machine that an earlier process left is looked for.

use std::time::Duration;

use super::pace::Outcome;
use super::resting::{BackingOff, Resting};
use super::running::{Running, Suspending};
use super::stopping::Stopping;
use super::turn::{End, Past, Turn};
use super::waking::Waking;
use super::{Ask, Attached, By, Effect, Event, Failure, Proposal, Recorded, Refusal, Report, Run, State};
use crate::witness::Mono;

/// The object is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settling {
    task: Task,
    held: Vec<Proposal>,
    past: Past,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// A machine of an earlier process is attached to, until then.
    Attaching(Run, Mono),
    /// The end is being recorded; whoever waits is answered then at the latest. `None`: that time is over.
    Recording(Ask, Option<Mono>),
    /// Recording failed and is tried again then.
    Failed(Mono),
    /// Recorded, and published a last time, since the host stops the object.
    Publishing(Ask),
}

impl Settling {
    /// Records the end of a machine.
    pub(super) fn record(turn: &mut Turn<'_>, past: Past, held: Vec<Proposal>) -> State {
        let task = Self::recording(turn);
        State::Settling(Box::new(Self { task, held, past }))
    }

    /// Takes back an object that no machine runs.
    pub(super) fn take_back(turn: &mut Turn<'_>) -> State {
        let past = Past {
            end: End::GivenUp,
            served: None,
        };
        Self::record(turn, past, Vec::new())
    }

    /// Attaches to a machine of an earlier process.
    pub(super) fn attach(turn: &mut Turn<'_>) -> State {
        let run = turn.run();
        turn.then(Effect::Attach(run));
        let until = turn.after(turn.terms.attach_within);
        State::Settling(Box::new(Self {
            task: Task::Attaching(run, until),
            held: Vec::new(),
            past: Past {
                end: End::Failed(Failure::Died),
                served: None,
            },
        }))
    }

    /// The host stops an object that rests: it is published a last time.
    pub(super) fn leave(turn: &mut Turn<'_>, waiting: Vec<Proposal>) -> State {
        turn.refuse(waiting, Refusal::Stopping);
        State::Settling(Box::new(Self {
            task: Task::Publishing(turn.ask(Effect::Publish)),
            held: Vec::new(),
            past: Past {
                end: End::GivenUp,
                served: None,
            },
        }))
    }

    fn recording(turn: &mut Turn<'_>) -> Task {
        let ask = turn.ask(Effect::RecordEnd);
        Task::Recording(ask, Some(turn.after(turn.terms.record_within)))
    }

    pub(super) fn on(mut self: Box<Self>, event: Event, turn: &mut Turn<'_>) -> State {
        match (event, self.task) {
            (Event::Proposed(proposal), Task::Failed(until)) if proposal.by != By::Owner => {
                turn.refuse([proposal], Refusal::NotRecorded(until.since(turn.now)));
            }
            (Event::Proposed(proposal), Task::Recording(_, None)) => {
                turn.refuse([proposal], Refusal::NotRecorded(turn.terms.record_within));
            }
            (Event::Proposed(proposal), task) => {
                turn.hold(&mut self.held, 0, proposal);
                if matches!(task, Task::Failed(_)) {
                    self.task = Self::recording(turn);
                }
            }
            (Event::Recorded(ask, recorded), Task::Recording(asked, _)) if ask == asked => {
                return self.recorded(recorded, turn);
            }
            (Event::Published(ask), Task::Publishing(asked)) if ask == asked => {
                turn.report(Report::Stopped(true));
                return State::Resting(Resting::default());
            }
            (Event::Attached(run, attached), Task::Attaching(asked, _)) if run == asked => {
                return self.attached(run, attached, turn);
            }
            (Event::Exited(run), Task::Attaching(asked, _)) if run == asked => {
                self.task = Self::recording(turn);
            }
            (Event::Tick, task) => return self.tick(task, turn),
            _ => {}
        }
        State::Settling(self)
    }

    fn tick(mut self: Box<Self>, task: Task, turn: &mut Turn<'_>) -> State {
        match task {
            Task::Attaching(run, until) if until <= turn.now => {
                return self.attached(run, Attached::Failed, turn);
            }
            Task::Recording(ask, Some(until)) if until <= turn.now => {
                let after = turn.terms.record_within;
                let held = std::mem::take(&mut self.held);
                turn.refuse(held, Refusal::NotRecorded(after));
                turn.report(Report::NotRecorded(after));
                self.task = Task::Recording(ask, None);
            }
            Task::Failed(until) if until <= turn.now => self.task = Self::recording(turn),
            _ => {}
        }
        State::Settling(self)
    }

    fn attached(self, run: Run, attached: Attached, turn: &mut Turn<'_>) -> State {
        let held = self.held;
        match attached {
            Attached::Waiting => State::Starting(Waking::attached(turn, run, held)),
            Attached::Waking => State::Starting(Waking::deciding(turn, run, held)),
            Attached::Serving => State::Running(Running::attached(turn, run, held, false)),
            Attached::Draining => State::Running(Running::attached(turn, run, held, true)),
            Attached::Suspended => State::Suspending(Suspending::attached(turn, run, held)),
            Attached::Nothing => Self::record(turn, self.past, held),
            Attached::Failed => {
                let failure = Failure::NotAttached;
                turn.report(Report::Failed(failure));
                let past = Past {
                    end: End::Failed(failure),
                    served: None,
                };
                State::Stopping(Stopping::kill(turn, run, held, Vec::new(), past))
            }
        }
    }

    fn recorded(mut self: Box<Self>, recorded: Recorded, turn: &mut Turn<'_>) -> State {
        match recorded {
            Recorded::Refused(loss) => return State::Settling(self).lose(loss, turn),
            Recorded::Failed => return self.not_recorded(turn),
            Recorded::Crashed if self.past.end == End::Slept => {
                self.past.end = End::Failed(Failure::Died);
            }
            Recorded::Crashed | Recorded::Clean => {}
        }
        if turn.me.stop.is_some() {
            return Self::leave(turn, self.held);
        }
        let Some(pause) = turn.account(self.past) else {
            return Resting::look(turn, self.held);
        };
        turn.report(Report::Paused(pause, turn.me.pace.failures()));
        turn.ask(Effect::Publish);
        let until = turn.after(pause);
        BackingOff::begin(turn, until, self.held)
    }

    fn not_recorded(mut self: Box<Self>, turn: &mut Turn<'_>) -> State {
        if turn.me.stop.is_some() {
            turn.report(Report::Stopped(false));
            turn.refuse(self.held, Refusal::Stopping);
            return State::Resting(Resting::default());
        }
        let failed = Outcome::Failed(Duration::ZERO);
        let pace = &turn.terms.pace;
        let pause = turn.me.pace.ended(turn.now, failed, pace).unwrap_or(pace.cap);
        turn.report(Report::NotRecorded(pause));
        turn.refuse(std::mem::take(&mut self.held), Refusal::NotRecorded(pause));
        self.task = Task::Failed(turn.after(pause));
        State::Settling(self)
    }

    /// The host stops the object.
    pub(super) fn stop(mut self: Box<Self>, turn: &mut Turn<'_>, now: bool) -> State {
        let held = std::mem::take(&mut self.held);
        turn.refuse(held, Refusal::Stopping);
        let past = Past {
            end: End::GivenUp,
            served: None,
        };
        match self.task {
            Task::Attaching(run, _) if now => {
                State::Stopping(Stopping::kill(turn, run, Vec::new(), Vec::new(), past))
            }
            Task::Attaching(run, _) => {
                State::Stopping(Stopping::term(turn, run, Vec::new(), Vec::new(), past))
            }
            Task::Failed(_) => Self::record(turn, self.past, Vec::new()),
            Task::Recording(..) | Task::Publishing(_) => State::Settling(self),
        }
    }

    pub(super) const fn machine(&self) -> Option<Run> {
        match self.task {
            Task::Attaching(run, _) => Some(run),
            Task::Recording(..) | Task::Failed(_) | Task::Publishing(_) => None,
        }
    }

    pub(super) const fn deadline(&self) -> Option<Mono> {
        match self.task {
            Task::Attaching(_, until) | Task::Failed(until) => Some(until),
            Task::Recording(_, until) => until,
            Task::Publishing(_) => None,
        }
    }

    pub(super) const fn waiting(&mut self) -> &mut Vec<Proposal> {
        &mut self.held
    }

    pub(super) fn into_waiting(self) -> Vec<Proposal> {
        self.held
    }
}
