//! A machine starts or is resumed, and the object is claimed beside it. Both there: the result is handed over, and the
//! runtime decides.

use super::running::Running;
use super::settling::Settling;
use super::stopping::Stopping;
use super::turn::{End, Past, Turn};
use super::{
    Answer, Ask, By, Claimed, Effect, Event, Failure, Leave, Loss, Proposal, Refusal, Report, Run, State,
    Word,
};
use crate::witness::{Mono, Purpose};

/// A wake under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waking {
    run: Run,
    step: Step,
    waiting: Vec<Proposal>,
    until: Mono,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Neither the machine nor the claim is there.
    Both(Ask),
    /// The claim is won; the machine is not there.
    Claimed,
    /// The machine is there; the claim is not answered.
    Started(Ask),
    /// The runtime has the claim's result and decides.
    Granted,
}

impl Waking {
    /// Starts a machine for a proposal; `others` wait for it too.
    pub(super) fn start(turn: &mut Turn<'_>, proposal: Proposal, others: Vec<Proposal>) -> Box<Self> {
        let ask = turn.ask(|ask| Effect::Claim(ask, Purpose::Wake));
        let run = turn.run();
        turn.then(Effect::Start(run, proposal.id));
        let mut waiting = others;
        waiting.insert(0, proposal);
        Self::at(turn, run, Step::Both(ask), waiting)
    }

    /// Resumes a machine for a proposal.
    pub(super) fn resume(turn: &mut Turn<'_>, run: Run, proposal: Proposal) -> Box<Self> {
        let ask = turn.ask(|ask| Effect::Claim(ask, Purpose::Wake));
        turn.then(Effect::Resume(run, proposal.id));
        Self::at(turn, run, Step::Both(ask), vec![proposal])
    }

    /// A machine of an earlier process that waits for a claim.
    pub(super) fn attached(turn: &mut Turn<'_>, run: Run, waiting: Vec<Proposal>) -> Box<Self> {
        let ask = turn.ask(|ask| Effect::Claim(ask, Purpose::Wake));
        Self::at(turn, run, Step::Started(ask), waiting)
    }

    /// A machine of an earlier process that decides.
    pub(super) fn deciding(turn: &Turn<'_>, run: Run, waiting: Vec<Proposal>) -> Box<Self> {
        Self::at(turn, run, Step::Granted, waiting)
    }

    fn at(turn: &Turn<'_>, run: Run, step: Step, waiting: Vec<Proposal>) -> Box<Self> {
        let until = turn.after(turn.terms.wake_within);
        Box::new(Self {
            run,
            step,
            waiting,
            until,
        })
    }

    /// `here` is the state that this wake is in.
    pub(super) fn on(
        mut self: Box<Self>,
        event: Event,
        turn: &mut Turn<'_>,
        here: fn(Box<Self>) -> State,
    ) -> State {
        match event {
            Event::Proposed(proposal) => turn.hold(&mut self.waiting, 0, proposal),
            Event::Claimed(ask, claimed) if self.asked() == Some(ask) => {
                return self.claimed(claimed, turn, here);
            }
            Event::Started(run) if run == self.run => self.started(turn),
            Event::StartFailed(run) if run == self.run => {
                return self.ended(turn, Failure::Start);
            }
            Event::ResumeFailed(run) if run == self.run => return self.kill(turn, Failure::Resume),
            Event::Exited(run) if run == self.run => return self.ended(turn, Failure::Died),
            Event::Heard(run, word) if run == self.run => return self.heard(word, turn, here),
            Event::Tick if self.until <= turn.now => return self.kill(turn, Failure::Late),
            _ => {}
        }
        here(self)
    }

    const fn asked(&self) -> Option<Ask> {
        match self.step {
            Step::Both(ask) | Step::Started(ask) => Some(ask),
            Step::Claimed | Step::Granted => None,
        }
    }

    fn claimed(
        mut self: Box<Self>,
        claimed: Claimed,
        turn: &mut Turn<'_>,
        here: fn(Box<Self>) -> State,
    ) -> State {
        match (claimed, self.step) {
            (Claimed::Refused(loss), _) => return self.lose(loss, turn, here),
            (Claimed::Failed, _) => return self.kill(turn, Failure::Unwitnessed),
            (Claimed::Won, Step::Both(_)) => self.step = Step::Claimed,
            (Claimed::Won, Step::Started(_)) => self.hand_over(turn),
            (Claimed::Won, Step::Claimed | Step::Granted) => {}
        }
        here(self)
    }

    fn lose(self: Box<Self>, loss: Loss, turn: &mut Turn<'_>, here: fn(Box<Self>) -> State) -> State {
        here(self).lose(loss, turn)
    }

    fn started(&mut self, turn: &mut Turn<'_>) {
        match self.step {
            Step::Both(ask) => self.step = Step::Started(ask),
            Step::Claimed => self.hand_over(turn),
            Step::Started(_) | Step::Granted => {}
        }
    }

    fn hand_over(&mut self, turn: &mut Turn<'_>) {
        self.step = Step::Granted;
        turn.then(Effect::HandOver(self.run));
    }

    fn heard(mut self: Box<Self>, word: Word, turn: &mut Turn<'_>, here: fn(Box<Self>) -> State) -> State {
        match word {
            Word::Woke | Word::Serving if self.step != Step::Granted => self.kill(turn, Failure::Breach),
            Word::Woke | Word::Serving => self.woke(turn, word == Word::Serving),
            Word::Refused(retry_after) => {
                let waiting = std::mem::take(&mut self.waiting);
                turn.refuse(waiting, Refusal::Inside(retry_after));
                self.leaves(turn, End::Refused(retry_after))
            }
            Word::Leaving(leave) => {
                let end = match leave {
                    Leave::Slept | Leave::Stopped => End::Slept,
                    Leave::WorkloadFailed => End::Failed(Failure::Workload),
                };
                self.leaves(turn, end)
            }
            Word::Closed => {
                let (run, past) = (self.run, failed(Failure::Died));
                let waiting = turn.left_behind(self.waiting, Failure::Died);
                State::Stopping(Stopping::term(turn, run, waiting, Vec::new(), past))
            }
            Word::Heartbeat | Word::Taken(_) | Word::Draining | Word::SleepRefused | Word::Suspend => {
                here(self)
            }
        }
    }

    /// Who waits for a connection gets one; the others are told.
    fn woke(self, turn: &mut Turn<'_>, serving: bool) -> State {
        let run = self.run;
        let (requests, told): (Vec<_>, Vec<_>) = self
            .waiting
            .into_iter()
            .partition(|proposal| proposal.by == By::Request);
        for proposal in told {
            turn.answer(proposal, Answer::Woke);
        }
        for proposal in &requests {
            turn.then(Effect::Deliver(run, proposal.id));
        }
        State::Running(Running::new(turn, run, requests, serving))
    }

    fn leaves(self, turn: &mut Turn<'_>, end: End) -> State {
        let past = Past { end, served: None };
        let waiting = turn.left_behind(self.waiting, Failure::Died);
        State::Stopping(Stopping::leaving(turn, self.run, waiting, Vec::new(), past))
    }

    /// What cannot wake is killed.
    fn kill(self, turn: &mut Turn<'_>, failure: Failure) -> State {
        turn.report(Report::Failed(failure));
        let waiting = turn.left_behind(self.waiting, failure);
        State::Stopping(Stopping::kill(
            turn,
            self.run,
            waiting,
            Vec::new(),
            failed(failure),
        ))
    }

    fn ended(self, turn: &mut Turn<'_>, failure: Failure) -> State {
        turn.report(Report::Failed(failure));
        let waiting = turn.left_behind(self.waiting, failure);
        Settling::record(turn, failed(failure), waiting)
    }

    /// The host stops the object.
    pub(super) fn stop(self, turn: &mut Turn<'_>, kill: bool) -> State {
        turn.refuse(self.waiting, Refusal::Stopping);
        let past = Past {
            end: End::GivenUp,
            served: None,
        };
        let end = if kill { Stopping::kill } else { Stopping::term };
        State::Stopping(end(turn, self.run, Vec::new(), Vec::new(), past))
    }

    /// Whether the runtime may have begun an activation.
    pub(super) fn is_handed_over(&self) -> bool {
        self.step == Step::Granted
    }

    pub(super) const fn run(&self) -> Run {
        self.run
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

const fn failed(failure: Failure) -> Past {
    Past {
        end: End::Failed(failure),
        served: None,
    }
}
