//! Properties over random sequences of events: what is asked for is answered well, badly, late, twice or never.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use suijuris_core::activation::requests::{Due, Kind, Meanwhile, Queue, RequestId, Verdict};
use suijuris_core::activation::{
    Answer, Ask, Attached, By, Claimed, Effect, Event, Found, Leave, Loss, Phase, Proposal, ProposalId,
    Recorded, Refusal, Run, Stop, Word,
};

use super::actor::Actor;

const BYS: [By; 5] = [By::Request, By::Timer, By::Message, By::Memory, By::Owner];

const WORDS: [Word; 14] = [
    Word::Heartbeat,
    Word::Woke,
    Word::Woke,
    Word::Serving,
    Word::Draining,
    Word::Refused(None),
    Word::Refused(Some(Duration::from_secs(1_000_000))),
    Word::SleepRefused,
    Word::Suspend,
    Word::Suspend,
    Word::Leaving(Leave::Slept),
    Word::Leaving(Leave::WorkloadFailed),
    Word::Leaving(Leave::Stopped),
    Word::Closed,
];

const ATTACHED: [Attached; 7] = [
    Attached::Waiting,
    Attached::Waking,
    Attached::Serving,
    Attached::Draining,
    Attached::Suspended,
    Attached::Nothing,
    Attached::Failed,
];

/// What happens next in a random life.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Something that was asked for is answered.
    Answer(Index, Index),
    /// The same, a second time.
    Repeat(Index, Index),
    Propose(Index),
    /// Somebody whom the door lets in again comes in again.
    Return,
    Hear(Index),
    Taken,
    Pass(u64),
    Gone,
    Witnessed,
    GiveUp,
    Lost,
    Stop(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        20 => (index(), index()).prop_map(|(which, how)| Step::Answer(which, how)),
        2 => (index(), index()).prop_map(|(which, how)| Step::Repeat(which, how)),
        8 => index().prop_map(Step::Propose),
        3 => Just(Step::Return),
        12 => index().prop_map(Step::Hear),
        3 => Just(Step::Taken),
        5 => (0_u64..40_000).prop_map(Step::Pass),
        1 => Just(Step::Gone),
        1 => Just(Step::Witnessed),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Lost),
        1 => (0_u64..40_000).prop_map(Step::Stop),
    ]
}

/// Steps of a life that is not stopped or lost.
fn calm() -> impl Strategy<Value = Vec<Step>> {
    let step = step().prop_filter("calm", |step| !matches!(step, Step::Lost | Step::Stop(_)));
    prop::collection::vec(step, 0..60)
}

fn found() -> impl Strategy<Value = Found> {
    prop_oneof![Just(Found::AtRest), Just(Found::Untaken), Just(Found::Machine)]
}

/// An actor in a world that answers at random.
struct Random {
    actor: Actor,
    /// Effects that are not answered.
    asked: Vec<Effect>,
    /// Effects that were.
    past: Vec<Effect>,
    again: Vec<Proposal>,
    delivered: Vec<ProposalId>,
    proposals: u64,
}

impl Random {
    fn new(found: Found) -> Self {
        let actor = Actor::new(found);
        let mut random = Self {
            actor,
            asked: Vec::new(),
            past: Vec::new(),
            again: Vec::new(),
            delivered: Vec::new(),
            proposals: 0,
        };
        random.take(random.actor.last.clone());
        random
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(proposal, Answer::Again) => self.again.push(proposal),
                Effect::Deliver(_, id) => self.delivered.push(id),
                _ => self.asked.push(effect),
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let effects = self.actor.tell(event).to_vec();
        self.take(effects);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Answer(which, how) if !self.asked.is_empty() => {
                let effect = self.asked.remove(which.index(self.asked.len()));
                self.past.push(effect);
                self.answer(effect, how);
            }
            Step::Repeat(which, how) if !self.past.is_empty() => {
                let effect = self.past[which.index(self.past.len())];
                self.answer(effect, how);
            }
            Step::Propose(how) => {
                self.proposals += 1;
                let by = BYS[how.index(BYS.len())];
                self.tell(Event::Proposed(Proposal::new(self.proposals, by)));
            }
            Step::Return => {
                if let Some(proposal) = self.again.pop() {
                    self.tell(Event::Proposed(proposal));
                }
            }
            Step::Hear(how) => {
                if let Some(run) = self.actor.activation.machine() {
                    self.tell(Event::Heard(run, WORDS[how.index(WORDS.len())]));
                }
            }
            Step::Taken => {
                if let (Some(id), Some(run)) = (self.delivered.pop(), self.actor.activation.machine()) {
                    self.tell(Event::Heard(run, Word::Taken(id)));
                }
            }
            Step::Pass(ms) => {
                let effects = self.actor.pass(Duration::from_millis(ms));
                self.take(effects);
            }
            Step::Gone => self.tell(Event::Gone(ProposalId(self.proposals))),
            Step::Witnessed => self.tell(Event::Witnessed),
            Step::GiveUp => self.tell(Event::GiveUp),
            Step::Lost => self.tell(Event::Lost(Loss::Twin)),
            Step::Stop(ms) => self.tell(Event::Stop(Stop::Graceful(Duration::from_millis(ms)))),
            Step::Answer(..) | Step::Repeat(..) => {}
        }
    }

    fn answer(&mut self, effect: Effect, how: Index) {
        let claimed = [
            Claimed::Won,
            Claimed::Won,
            Claimed::Won,
            Claimed::Failed,
            Claimed::Refused(Loss::Twin),
        ];
        let recorded = [
            Recorded::Clean,
            Recorded::Clean,
            Recorded::Crashed,
            Recorded::Failed,
            Recorded::Refused(Loss::RolledBack),
        ];
        let often = how.index(4) > 0;
        let event = match effect {
            Effect::Claim(ask, _) => Event::Claimed(ask, claimed[how.index(5)]),
            Effect::Start(run, _) if often => Event::Started(run),
            Effect::Start(run, _) => Event::StartFailed(run),
            Effect::Attach(run) => Event::Attached(run, ATTACHED[how.index(7)]),
            Effect::Suspend(run) if often => Event::Suspended(run),
            Effect::Suspend(run) => Event::SuspendFailed(run),
            Effect::Resume(run, _) if often => Event::Started(run),
            Effect::Resume(run, _) => Event::ResumeFailed(run),
            Effect::Probe(run) => Event::Heard(run, Word::Heartbeat),
            Effect::Sleep(run) if often => Event::Heard(run, Word::Leaving(Leave::Slept)),
            Effect::Sleep(run) => Event::Heard(run, Word::SleepRefused),
            Effect::Stop(run) | Effect::Kill(run) => Event::Exited(run),
            Effect::RecordEnd(ask) => Event::Recorded(ask, recorded[how.index(5)]),
            Effect::Publish(ask) => Event::Published(ask),
            Effect::HandOver(run) if often => Event::Heard(run, Word::Woke),
            Effect::HandOver(run) => Event::Heard(run, Word::Refused(None)),
            Effect::Deliver(..) | Effect::Look | Effect::Answer(..) | Effect::Report(_) => return,
        };
        self.tell(event);
    }

    fn live(mut self, steps: Vec<Step>) -> Self {
        for step in steps {
            self.step(step);
        }
        self
    }
}

/// An event that nobody asked for, with whatever numbers.
fn event() -> impl Strategy<Value = (u8, Index, u64)> {
    (0_u8..18, any::<Index>(), 0_u64..12)
}

/// Numbers of machines and asks that were given out, from which any other event is made.
fn wild(actor: &Actor, runs: &[Run], (kind, how, number): (u8, Index, u64)) -> Option<Event> {
    let run = (!runs.is_empty()).then(|| runs[how.index(runs.len())]);
    let ask: Option<Ask> = (!actor.asks.is_empty()).then(|| actor.asks[how.index(actor.asks.len())]);
    Some(match kind {
        0 => Event::Proposed(Proposal::new(number, BYS[how.index(5)])),
        1 => Event::Gone(ProposalId(number)),
        2 => Event::Claimed(ask?, Claimed::Won),
        3 => Event::Claimed(ask?, Claimed::Failed),
        4 => Event::Started(run?),
        5 => Event::ResumeFailed(run?),
        6 => Event::Suspended(run?),
        7 => Event::SuspendFailed(run?),
        8 => Event::Attached(run?, ATTACHED[how.index(5)]),
        9 | 10 => Event::Heard(run?, WORDS[how.index(WORDS.len())]),
        11 => Event::Heard(run?, Word::Taken(ProposalId(number))),
        12 => Event::Recorded(ask?, Recorded::Crashed),
        13 => Event::Published(ask?),
        14 => Event::Witnessed,
        15 => Event::GiveUp,
        16 => Event::Tick,
        _ => Event::Exited(run?),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// The watch checks each effect: one machine at a time, never without a claim, no hand-over before both are there, no
    /// delivery before `woke`, each proposal answered once, nothing after `lost` but ending the machine.
    #[test]
    fn in_any_life_one_machine_runs_that_was_claimed_and_everybody_is_answered_once(
        found in found(), steps in prop::collection::vec(step(), 0..120),
    ) {
        Random::new(found).live(steps);
    }

    #[test]
    fn events_that_make_no_sense_change_nothing_that_is_safe(
        found in found(), events in prop::collection::vec(event(), 0..80),
    ) {
        let mut actor = Actor::new(found);
        let mut runs: Vec<Run> = actor.activation.machine().into_iter().collect();
        for event in events {
            if let Some(event) = wild(&actor, &runs, event) {
                actor.tell(event);
            }
            runs.extend(actor.activation.machine().filter(|run| runs.last() != Some(run)));
        }
    }

    #[test]
    fn a_stop_ends_in_time_whatever_is_missing(
        found in found(), steps in calm(), within in 0_u64..60_000, answers in prop::collection::vec(step(), 0..6),
    ) {
        let mut life = Random::new(found).live(steps);
        let within = Duration::from_millis(within);
        let from = life.actor.now;
        life.tell(Event::Stop(Stop::Graceful(within)));
        // Some answers still come; then none does.
        for step in answers {
            if matches!(step, Step::Answer(..) | Step::Hear(_) | Step::Propose(_)) {
                life.step(step);
            }
        }
        let bound = within + life.actor.terms.end_within;
        life.actor.pass(bound.saturating_sub(life.actor.now.since(from)));
        prop_assert!(life.actor.activation.is_over(), "{:?}", life.actor.activation);
        prop_assert!(life.actor.watch.open.is_empty() && !life.actor.watch.has_machine());
        prop_assert!(matches!(life.actor.phase(), Phase::Resting | Phase::Lost));
    }

    #[test]
    fn whoever_waits_is_answered_in_time_though_nothing_else_is(found in found(), steps in calm()) {
        let mut life = Random::new(found).live(steps);
        life.actor.propose(1_000_000, By::Request);
        let terms = life.actor.terms;
        // The longest way: a wake that hangs, a machine that cannot be killed, a record that is not made.
        let longest = [
            terms.wake_within, terms.suspend_within, terms.leave_within, terms.term_within, terms.kill_within * 2,
            terms.attach_within, terms.record_within, terms.beat_within, terms.probe_within, terms.pace.cap,
        ];
        life.actor.pass(longest.iter().sum());
        let waits = |id: &ProposalId| life.actor.watch.open.contains_key(id);
        prop_assert!(!waits(&ProposalId(1_000_000)), "{:?}", life.actor.activation);
    }

    #[test]
    fn a_pause_never_exceeds_the_cap_and_never_keeps_an_owner_away(steps in calm()) {
        let mut life = Random::new(Found::AtRest);
        for step in steps {
            life.step(step);
            let actor = &life.actor;
            let pause = actor.activation.pace().pause(actor.now).unwrap_or_default();
            prop_assert!(pause <= actor.terms.pace.cap);
            if actor.activation.door_decides() {
                let mut owner = actor.clone();
                owner.propose(1_000_000, By::Owner);
                prop_assert!(matches!(owner.phase(), Phase::Starting | Phase::Resuming));
                let mut other = actor.clone();
                other.propose(1_000_001, By::Timer);
                if let Some(Answer::Refused(Refusal::Paused(after))) = other.answer(1_000_001) {
                    prop_assert!(!after.is_zero() && after <= actor.terms.pace.cap);
                }
            }
        }
    }

    #[test]
    fn every_request_gets_exactly_one_answer(
        found in found(), steps in prop::collection::vec((step(), any::<Index>()), 0..100),
    ) {
        let mut life = Random::new(found);
        let mut queue = Queue::default();
        let terms = suijuris_core::activation::requests::Terms::DEFAULT;
        let mut open = std::collections::BTreeSet::new();
        for (number, (step, how)) in steps.into_iter().enumerate() {
            life.step(step);
            let id = RequestId(number as u64);
            let kind = Kind::ALL[how.index(7)];
            if let Verdict::Queue(_) = queue.offer(id, kind, &life.actor.activation, life.actor.now, &terms) {
                open.insert(id);
            }
            while let Some(due) = queue.next(&life.actor.activation, life.actor.now, &terms) {
                match due {
                    Due::Answer(id, _, Verdict::Queue(_)) => prop_assert!(false, "{id:?} waits and is answered"),
                    // Those that the runtime has are answered a second way, and checked by it alone.
                    Due::Answer(id, _, Verdict::Deny(suijuris_core::activation::requests::Denial::Unanswered)) => {
                        prop_assert!(!open.contains(&id));
                    }
                    Due::Answer(id, _, _) => prop_assert!(open.remove(&id), "{id:?} was not waiting"),
                    Due::Meanwhile(Meanwhile::GiveUp) => life.tell(Event::GiveUp),
                    Due::Meanwhile(Meanwhile::Unlock) => {
                        life.proposals += 1;
                        let id = life.proposals;
                        life.tell(Event::Proposed(Proposal::new(id, By::Owner)));
                    }
                    Due::Meanwhile(Meanwhile::Nothing) => prop_assert!(false, "nothing is due"),
                }
            }
        }
        life.actor.pass(terms.wait_within);
        while let Some(due) = queue.next(&life.actor.activation, life.actor.now, &terms) {
            if let Due::Answer(id, _, _) = due {
                open.remove(&id);
            }
        }
        prop_assert_eq!((open.len(), queue.deadline()), (0, None));
    }
}
