//! A machine ends: by itself, asked to, or killed; each step has its time, and the next is harder.

use std::time::Duration;

use super::settling::Settling;
use super::turn::{End, Past, Turn};
use super::{Effect, Event, Failure, Leave, Proposal, Refusal, Report, Run, State, Word};
use crate::witness::Mono;

/// The machine is ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopping {
    run: Run,
    step: Step,
    /// When the next, harder step is taken.
    until: Mono,
    /// Delivered to the gate and not taken.
    handed: Vec<Proposal>,
    /// Who came since, and who may be tried with the next machine.
    held: Vec<Proposal>,
    past: Past,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The object was asked to sleep.
    Asked,
    /// The runtime leaves by itself.
    Leaving,
    /// The machine was asked to end.
    Termed,
    /// It was killed, so many times.
    Killed(u32),
}

impl Stopping {
    /// Asks the object to sleep, because the host stops it. Half of the time is for that.
    pub(super) fn ask(turn: &mut Turn<'_>, run: Run, handed: Vec<Proposal>, past: Past) -> Box<Self> {
        turn.then(Effect::Sleep(run));
        let left = turn
            .me
            .stop
            .map_or(Duration::ZERO, |stop| stop.kill_at.since(turn.now));
        let until = turn.before_kill(left / 2);
        Self::at(run, Step::Asked, until, Vec::new(), handed, past)
    }

    /// The runtime said that it leaves.
    pub(super) fn leaving(
        turn: &Turn<'_>,
        run: Run,
        held: Vec<Proposal>,
        handed: Vec<Proposal>,
        past: Past,
    ) -> Box<Self> {
        let until = turn.before_kill(turn.terms.leave_within);
        Self::at(run, Step::Leaving, until, held, handed, past)
    }

    /// Asks the machine to end.
    pub(super) fn term(
        turn: &mut Turn<'_>,
        run: Run,
        held: Vec<Proposal>,
        handed: Vec<Proposal>,
        past: Past,
    ) -> Box<Self> {
        turn.then(Effect::Stop(run));
        let until = turn.before_kill(turn.terms.term_within);
        Self::at(run, Step::Termed, until, held, handed, past)
    }

    /// Kills the machine.
    pub(super) fn kill(
        turn: &mut Turn<'_>,
        run: Run,
        held: Vec<Proposal>,
        handed: Vec<Proposal>,
        past: Past,
    ) -> Box<Self> {
        turn.then(Effect::Kill(run));
        let until = turn.after(turn.terms.kill_within);
        Self::at(run, Step::Killed(1), until, held, handed, past)
    }

    fn at(
        run: Run,
        step: Step,
        until: Mono,
        held: Vec<Proposal>,
        handed: Vec<Proposal>,
        past: Past,
    ) -> Box<Self> {
        Box::new(Self {
            run,
            step,
            until,
            handed,
            held,
            past,
        })
    }

    pub(super) fn on(mut self: Box<Self>, event: Event, turn: &mut Turn<'_>) -> State {
        match event {
            Event::Proposed(proposal) => turn.hold(&mut self.held, self.handed.len(), proposal),
            Event::Heard(run, word) if run == self.run => self.heard(word, turn),
            // A start that was killed before it was answered.
            Event::Started(run) if run == self.run && matches!(self.step, Step::Killed(_)) => {
                turn.then(Effect::Kill(run));
            }
            Event::Exited(run) if run == self.run => return self.ended(turn),
            Event::Tick if self.until <= turn.now => self.harder(turn),
            _ => {}
        }
        State::Stopping(self)
    }

    fn heard(&mut self, word: Word, turn: &mut Turn<'_>) {
        match word {
            Word::Taken(id) => self.handed.retain(|proposal| proposal.id != id),
            Word::SleepRefused if self.step == Step::Asked => {
                turn.report(Report::SleepRefused);
                self.ask_machine(turn);
            }
            // Dormant already, and nobody would resume it.
            Word::Suspend if self.step == Step::Asked => self.ask_machine(turn),
            Word::Leaving(_) | Word::Refused(_) if self.step == Step::Asked => {
                self.step = Step::Leaving;
                self.until = turn.before_kill(turn.terms.leave_within);
            }
            Word::Closed if matches!(self.step, Step::Asked | Step::Leaving) => self.ask_machine(turn),
            _ => {}
        }
        // What it says of its end counts where we do not know better.
        self.past.end = match (word, self.past.end) {
            (Word::Refused(after), End::GivenUp | End::Slept) => End::Refused(after),
            (Word::Leaving(Leave::WorkloadFailed), End::Slept) => End::Failed(Failure::Workload),
            (_, end) => end,
        };
    }

    fn ask_machine(&mut self, turn: &mut Turn<'_>) {
        turn.then(Effect::Stop(self.run));
        self.step = Step::Termed;
        self.until = turn.before_kill(turn.terms.term_within);
    }

    fn harder(&mut self, turn: &mut Turn<'_>) {
        let must_kill = turn.me.stop.is_some_and(|stop| stop.kill_at <= turn.now);
        match self.step {
            Step::Asked | Step::Leaving if !must_kill => self.ask_machine(turn),
            Step::Asked | Step::Leaving | Step::Termed => self.kill_now(turn),
            Step::Killed(times) => {
                if times == 1 {
                    turn.report(Report::Unkillable(self.run));
                }
                let held = std::mem::take(&mut self.held);
                let held = turn.left_behind(held, Failure::Stuck);
                self.held = held;
                turn.then(Effect::Kill(self.run));
                self.step = Step::Killed(times.saturating_add(1));
                self.until = turn.after(turn.terms.kill_within);
            }
        }
    }

    fn kill_now(&mut self, turn: &mut Turn<'_>) {
        turn.then(Effect::Kill(self.run));
        self.step = Step::Killed(1);
        self.until = turn.after(turn.terms.kill_within);
    }

    fn ended(mut self, turn: &mut Turn<'_>) -> State {
        let handed = std::mem::take(&mut self.handed);
        match self.past.end {
            // Those whom its gate had not taken are told what it told everybody.
            End::Refused(after) if turn.me.stop.is_none() => turn.refuse(handed, Refusal::Inside(after)),
            _ => {
                let again = turn.left_behind(handed, Failure::Died);
                self.held.extend(again);
            }
        }
        Settling::record(turn, self.past, self.held)
    }

    /// The host stops the object, or stops it harder.
    pub(super) fn stop(mut self: Box<Self>, turn: &mut Turn<'_>, now: bool) -> Box<Self> {
        let held = std::mem::take(&mut self.held);
        turn.refuse(held, Refusal::Stopping);
        if !matches!(self.step, Step::Killed(_)) {
            if now {
                self.kill_now(turn);
            } else {
                self.until = turn
                    .me
                    .stop
                    .map_or(self.until, |stop| self.until.min(stop.kill_at));
            }
        }
        self
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
