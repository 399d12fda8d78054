//! The pauses after failures, and messages that kill their readers.

use std::time::Duration;

use suijuris_core::activation::pace::{Fate, Outcome, Pace, Terms, fate};
use suijuris_core::activation::{
    Answer, By, Claimed, Effect, Event, Found, Leave, Phase, Recorded, Refusal, Report, Word,
};
use suijuris_core::witness::Mono;

use super::actor::Actor;

const SECOND: Duration = Duration::from_secs(1);
const CRASHED: Outcome = Outcome::Failed(Duration::ZERO);

fn pauses(pace: &mut Pace, outcomes: &[Outcome]) -> Vec<u64> {
    let each = outcomes
        .iter()
        .map(|outcome| pace.ended(Mono(0), *outcome, &Terms::DEFAULT));
    each.map(|pause| pause.map_or(0, |pause| pause.as_secs()))
        .collect()
}

#[test]
fn pauses_double_up_to_the_cap_and_end_with_service() {
    let mut pace = Pace::default();
    assert_eq!(
        pauses(&mut pace, &[CRASHED; 12]),
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    );
    assert_eq!(pauses(&mut pace, &[Outcome::Served, CRASHED]), [0, 1]);
    let long = Outcome::Failed(Duration::from_secs(60));
    let short = Outcome::Failed(Duration::from_secs(59));
    assert_eq!(pauses(&mut pace, &[short, short, long, short]), [2, 4, 1, 2]);
}

#[test]
fn when_to_ask_again_is_what_the_rules_say_within_bounds() {
    let after = |seconds| Outcome::Refused(Some(Duration::from_secs(seconds)));
    let mut pace = Pace::default();
    assert_eq!(
        pauses(
            &mut pace,
            &[after(0), after(90), after(86_400), Outcome::Refused(None)]
        ),
        [1, 90, 300, 8]
    );
}

#[test]
fn a_program_that_exits_at_once_is_not_woken_at_its_clients_speed() {
    let mut actor = Actor::new(Found::AtRest);
    let mut machines = 0;
    // A client that asks every 100 ms for 15 s.
    for id in 0..150 {
        if actor.activation.door_decides() {
            let effects = actor.propose(id, By::Request).to_vec();
            if effects.iter().any(|effect| matches!(effect, Effect::Start(..))) {
                machines += 1;
                actor.handed_over();
                actor.hear(Word::Woke);
                actor.hear(Word::Leaving(Leave::WorkloadFailed));
                actor.ends(Recorded::Clean);
            }
        }
        actor.pass(Duration::from_millis(100));
    }
    assert_eq!(machines, 4, "after 0, 1, 3 and 7 s");
}

#[test]
fn an_owner_passes_the_pause_and_others_are_told_when_to_come_back() {
    let mut actor = Actor::at(Phase::BackingOff);
    assert!(actor.last.contains(&Effect::Report(Report::Paused(SECOND, 1))));
    actor.propose(2, By::Request);
    assert_eq!(actor.answer(2), None, "whoever connects waits out a short pause");
    actor.propose(5, By::Timer);
    let paused = Refusal::Paused(SECOND);
    assert_eq!(actor.answer(5), Some(Answer::Refused(paused)));
    assert_eq!(paused.retry_after(), Some(SECOND));
    actor.propose(3, By::Memory);
    assert_eq!(actor.answer(3), None, "nobody would propose it again");
    let mut other = actor.clone();
    assert!(
        actor.pass(SECOND).contains(&Effect::Look),
        "timers and messages are looked at again"
    );
    assert_eq!(
        (actor.phase(), actor.answer(3)),
        (Phase::Resting, Some(Answer::Again))
    );
    assert!(matches!(
        other.propose(4, By::Owner),
        [Effect::Claim(..), Effect::Start(..)]
    ));
    assert_eq!(other.phase(), Phase::Starting);
}

#[test]
fn an_object_that_served_and_fell_asleep_is_not_paused_and_one_that_never_served_is() {
    for (serves, phase) in [(true, Phase::Resting), (false, Phase::BackingOff)] {
        let mut actor = Actor::at(Phase::Running);
        if serves {
            actor.hear(Word::Serving);
        }
        actor.hear(Word::Leaving(Leave::Slept));
        actor.ends(Recorded::Clean);
        assert_eq!(actor.phase(), phase);
    }
    let mut actor = Actor::at(Phase::Running);
    actor.hear(Word::Serving);
    actor.hear(Word::Leaving(Leave::Slept));
    actor.ends(Recorded::Crashed);
    assert_eq!(actor.phase(), Phase::BackingOff, "what the history says counts");
}

#[test]
fn a_suspended_object_that_never_served_is_paused_too() {
    let mut actor = Actor::at(Phase::Running);
    actor.hear(Word::Suspend);
    let run = actor.run();
    actor.tell(Event::Suspended(run));
    let ask = actor.asked();
    actor.tell(Event::Claimed(ask, Claimed::Won));
    assert_eq!(actor.phase(), Phase::Suspended);
    actor.propose(2, By::Request);
    assert_eq!(actor.answer(2), Some(Answer::Refused(Refusal::Paused(SECOND))));
    let mut other = actor.clone();
    assert_eq!(actor.pass(SECOND), [Effect::Look]);
    actor.propose(3, By::Request);
    other.propose(3, By::Owner);
    assert_eq!((actor.phase(), other.phase()), (Phase::Resuming, Phase::Resuming));
}

#[test]
fn a_message_that_kills_its_reader_is_set_aside() {
    assert_eq!(
        [fate(1, 3), fate(2, 3), fate(3, 3)],
        [Fate::Again, Fate::Again, Fate::SetAside]
    );
    assert_eq!(fate(1, 0), Fate::SetAside);
}
