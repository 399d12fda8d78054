//! An activation with a clock and a watch over it: what each event brings is checked at once.

use std::time::Duration;

use suijuris_core::activation::{
    Activation, Answer, Ask, Attached, By, Claimed, Effect, Event, Facts, Found, Phase, Proposal, Recorded,
    Run, Terms, Word,
};
use suijuris_core::witness::Mono;

use super::watch::Watch;

/// One actor.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) activation: Activation,
    pub(crate) watch: Watch,
    pub(crate) now: Mono,
    pub(crate) terms: Terms,
    /// What the last event brought.
    pub(crate) last: Vec<Effect>,
    /// All that was asked of custody, oldest first.
    pub(crate) asks: Vec<Ask>,
}

impl Actor {
    pub(crate) fn new(found: Found) -> Self {
        let terms = Terms::DEFAULT;
        let now = Mono(1_000_000_000);
        let (activation, effects) = Activation::new(found, Facts { now, terms: &terms });
        let mut actor = Self {
            activation,
            watch: Watch::default(),
            now,
            terms,
            last: Vec::new(),
            asks: Vec::new(),
        };
        actor.take(effects);
        actor
    }

    fn take(&mut self, effects: Vec<Effect>) {
        let checked = self.watch.effects(&self.activation, &effects, &self.terms);
        assert_eq!(checked, Ok(()), "{:?}\n{effects:?}", self.activation);
        self.asks.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Claim(ask, _) | Effect::RecordEnd(ask) | Effect::Publish(ask) => Some(*ask),
            _ => None,
        }));
        self.last = effects;
    }

    /// Tells an event; what is to be done.
    pub(crate) fn tell(&mut self, event: Event) -> &[Effect] {
        if self.watch.event(event) {
            let facts = Facts {
                now: self.now,
                terms: &self.terms,
            };
            let (activation, effects) = self.activation.clone().on(event, facts);
            self.activation = activation;
            self.take(effects);
        }
        &self.last
    }

    pub(crate) fn phase(&self) -> Phase {
        self.activation.phase()
    }

    pub(crate) fn run(&self) -> Run {
        self.activation.machine().unwrap()
    }

    pub(crate) fn propose(&mut self, id: u64, by: By) -> &[Effect] {
        self.tell(Event::Proposed(Proposal::new(id, by)))
    }

    pub(crate) fn hear(&mut self, word: Word) -> &[Effect] {
        let run = self.run();
        self.tell(Event::Heard(run, word))
    }

    /// Lets time pass, with every tick that is due meanwhile; what all of them brought.
    pub(crate) fn pass(&mut self, length: Duration) -> Vec<Effect> {
        let end = self.now.after(length);
        let mut all = Vec::new();
        for _ in 0..1_000 {
            let Some(due) = self.activation.deadline().filter(|due| *due <= end) else {
                self.now = end;
                return all;
            };
            self.now = due.max(self.now);
            all.extend_from_slice(self.tell(Event::Tick));
        }
        panic!("ticks without end: {:?}", self.activation);
    }

    /// The last number under which something was asked of custody.
    pub(crate) fn asked(&self) -> Ask {
        *self.asks.last().unwrap()
    }

    /// A machine starts for this proposal, and the object wakes in it.
    pub(crate) fn wake(&mut self, id: u64, by: By) -> &[Effect] {
        self.propose(id, by);
        self.handed_over();
        self.hear(Word::Woke)
    }

    /// Both the claim and the machine are there.
    pub(crate) fn handed_over(&mut self) {
        let (ask, run) = (self.asked(), self.run());
        self.tell(Event::Claimed(ask, Claimed::Won));
        self.tell(Event::Started(run));
    }

    /// The machine ends, and what it left is recorded.
    pub(crate) fn ends(&mut self, recorded: Recorded) -> &[Effect] {
        let run = self.run();
        self.tell(Event::Exited(run));
        self.record(recorded)
    }

    pub(crate) fn record(&mut self, recorded: Recorded) -> &[Effect] {
        let ask = self.asked();
        self.tell(Event::Recorded(ask, recorded))
    }

    /// What the proposal was answered, if the last event brought that.
    pub(crate) fn answer(&self, id: u64) -> Option<Answer> {
        self.last.iter().find_map(|effect| match effect {
            Effect::Answer(proposal, answer) if proposal.id.0 == id => Some(*answer),
            _ => None,
        })
    }

    /// An actor in this phase, with one connection where one can be.
    pub(crate) fn at(phase: Phase) -> Self {
        let mut actor = Self::new(Found::AtRest);
        match phase {
            Phase::Resting => {}
            Phase::Starting => drop(actor.propose(1, By::Request).to_vec()),
            Phase::Running => drop(actor.wake(1, By::Request).to_vec()),
            Phase::Draining => {
                actor = Self::at(Phase::Running);
                actor.hear(Word::Draining);
            }
            Phase::Suspending => {
                actor = Self::at(Phase::Running);
                actor.hear(Word::Serving);
                actor.hear(Word::Suspend);
            }
            Phase::Suspended => {
                actor = Self::at(Phase::Suspending);
                let run = actor.run();
                actor.tell(Event::Suspended(run));
                let ask = actor.asked();
                actor.tell(Event::Claimed(ask, Claimed::Won));
            }
            Phase::Resuming => {
                actor = Self::at(Phase::Suspended);
                actor.propose(2, By::Request);
            }
            Phase::Stopping => {
                actor = Self::at(Phase::Running);
                actor.hear(Word::Leaving(suijuris_core::activation::Leave::Slept));
            }
            Phase::Settling => {
                actor = Self::at(Phase::Stopping);
                let run = actor.run();
                actor.tell(Event::Exited(run));
            }
            Phase::BackingOff => {
                actor.propose(1, By::Timer);
                actor.ends(Recorded::Clean);
            }
            Phase::Lost => {
                actor = Self::at(Phase::Running);
                actor.tell(Event::Lost(suijuris_core::activation::Loss::Twin));
            }
        }
        assert_eq!(actor.phase(), phase);
        actor
    }

    /// An actor that found a machine of an earlier process, like this.
    pub(crate) fn attached(attached: Attached) -> Self {
        let mut actor = Self::new(Found::Machine);
        let run = actor.run();
        actor.tell(Event::Attached(run, attached));
        actor
    }
}
