//! Whole stories of an activation, as a user would notice them.

use std::time::Duration;

use suijuris_core::activation::{
    Activation, Answer, Attached, By, Claimed, Effect, Event, Failure, Found, HostStop, Leave, Loss, Phase,
    Proposal, ProposalId, Recorded, Refusal, Report, Stop, Word,
};
use suijuris_core::witness::Purpose;

use super::actor::Actor;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_wake_claims_beside_the_start_and_hands_the_result_over_when_both_are_there() {
    for claim_first in [true, false] {
        let mut actor = Actor::new(Found::AtRest);
        let effects = actor.propose(1, By::Request);
        assert!(matches!(
            effects,
            [Effect::Claim(_, Purpose::Wake), Effect::Start(_, ProposalId(1))]
        ));
        let (ask, run) = (actor.asked(), actor.run());
        let mut answers = [Event::Claimed(ask, Claimed::Won), Event::Started(run)];
        if !claim_first {
            answers.reverse();
        }
        assert_eq!(actor.tell(answers[0]), []);
        assert_eq!(actor.tell(answers[1]), [Effect::HandOver(run)]);
        assert_eq!(actor.hear(Word::Woke), [Effect::Deliver(run, ProposalId(1))]);
        assert_eq!(actor.hear(Word::Taken(ProposalId(1))), []);
        assert_eq!(actor.phase(), Phase::Running);
    }
}

#[test]
fn whoever_comes_while_it_wakes_waits_and_whoever_comes_while_it_falls_asleep_is_decided_about_again() {
    let mut actor = Actor::at(Phase::Starting);
    assert_eq!(actor.propose(2, By::Owner), []);
    actor.tell(Event::Gone(ProposalId(1)));
    actor.propose(3, By::Request);
    let (ask, run) = (actor.asked(), actor.run());
    actor.tell(Event::Claimed(ask, Claimed::Won));
    actor.tell(Event::Started(run));
    let owner = Proposal::new(2, By::Owner);
    assert_eq!(
        actor.hear(Word::Woke),
        [
            Effect::Answer(owner, Answer::Woke),
            Effect::Deliver(run, ProposalId(3))
        ],
        "who left is not delivered"
    );
    actor.hear(Word::Taken(ProposalId(3)));
    actor.hear(Word::Serving);
    actor.hear(Word::Draining);
    assert_eq!(actor.propose(4, By::Request), []);
    actor.hear(Word::Leaving(Leave::Slept));
    assert_eq!(actor.propose(5, By::Request), []);
    actor.ends(Recorded::Clean);
    assert_eq!(actor.phase(), Phase::Resting);
    assert_eq!(
        (actor.answer(4), actor.answer(5)),
        (Some(Answer::Again), Some(Answer::Again))
    );
    assert!(matches!(actor.last[..], [Effect::Publish(_), _, _, Effect::Look]));
}

#[test]
fn who_was_not_taken_is_tried_with_another_machine_and_not_for_ever() {
    let mut actor = Actor::new(Found::AtRest);
    let mut proposal = Proposal::new(1, By::Request);
    for machine in 1..=3 {
        actor.tell(Event::Proposed(proposal));
        actor.handed_over();
        actor.hear(Word::Woke);
        actor.hear(Word::Serving);
        actor.hear(Word::Leaving(Leave::Slept));
        let run = actor.run();
        actor.tell(Event::Exited(run));
        if machine == 3 {
            let failed = Refusal::Failed(Failure::Died);
            assert_eq!(actor.answer(1), Some(Answer::Refused(failed)));
            return;
        }
        actor.record(Recorded::Clean);
        proposal.tries = machine;
        assert!(actor.last.contains(&Effect::Answer(proposal, Answer::Again)));
    }
}

#[test]
fn a_machine_that_hangs_at_its_start_is_killed_in_time_and_whoever_waits_is_told() {
    let mut actor = Actor::at(Phase::Starting);
    let run = actor.run();
    let effects = actor.pass(61 * SECOND);
    assert!(effects.contains(&Effect::Kill(run)));
    let late = Refusal::Failed(Failure::Late);
    let told = Effect::Answer(
        Proposal {
            tries: 1,
            ..Proposal::new(1, By::Request)
        },
        Answer::Refused(late),
    );
    assert!(effects.contains(&told), "{effects:?}");
    assert_eq!(actor.phase(), Phase::Stopping);
    // It is started after all, and does not get away.
    assert_eq!(actor.tell(Event::Started(run)), [Effect::Kill(run)]);
    actor.ends(Recorded::Clean);
    assert_eq!(actor.phase(), Phase::BackingOff);
}

#[test]
fn a_runtime_that_stands_still_is_asked_and_then_replaced() {
    let mut actor = Actor::at(Phase::Running);
    let run = actor.run();
    assert_eq!(actor.pass(9 * SECOND), []);
    actor.hear(Word::Heartbeat);
    assert_eq!(actor.pass(9 * SECOND), []);
    assert_eq!(
        actor.pass(SECOND),
        [Effect::Probe(run)],
        "a host that slept itself kills nobody"
    );
    actor.hear(Word::Heartbeat);
    let effects = actor.pass(15 * SECOND);
    let stuck = Refusal::Failed(Failure::Stuck);
    let told = Effect::Answer(Proposal::new(1, By::Request), Answer::Refused(stuck));
    assert_eq!(
        effects,
        [
            Effect::Probe(run),
            Effect::Report(Report::Failed(Failure::Stuck)),
            told,
            Effect::Kill(run)
        ]
    );
    assert_eq!(
        actor.propose(2, By::Request),
        [],
        "the next one waits for the next machine"
    );
    actor.ends(Recorded::Crashed);
    assert_eq!(actor.phase(), Phase::BackingOff);
    assert_eq!(actor.answer(2), None, "a short pause is waited out");
    actor.pass(SECOND);
    assert_eq!(actor.answer(2), Some(Answer::Again));
}

#[test]
fn a_copy_that_is_refused_wakes_nobody_and_only_ends_its_machine() {
    for step in [Phase::Starting, Phase::Resuming] {
        let mut actor = Actor::at(step);
        let (ask, run) = (actor.asked(), actor.run());
        let effects = actor
            .tell(Event::Claimed(ask, Claimed::Refused(Loss::RolledBack)))
            .to_vec();
        assert!(effects.contains(&Effect::Report(Report::Lost(Loss::RolledBack))));
        assert!(effects.contains(&Effect::Kill(run)));
        assert!(!actor.activation.is_over());
        assert!(
            actor.pass(5 * SECOND).contains(&Effect::Kill(run)),
            "again, until it has ended"
        );
        actor.propose(9, By::Owner);
        let refused = Refusal::NotTheObject(Loss::RolledBack);
        assert_eq!(actor.answer(9), Some(Answer::Refused(refused)));
        actor.tell(Event::Exited(run));
        assert!(actor.activation.is_over());
    }
}

#[test]
fn without_a_required_witness_nothing_wakes_until_it_answers() {
    let mut actor = Actor::at(Phase::Starting);
    let ask = actor.asked();
    actor.tell(Event::Claimed(ask, Claimed::Failed));
    let why = Refusal::Failed(Failure::Unwitnessed);
    assert_eq!(actor.answer(1), Some(Answer::Refused(why)));
    actor.ends(Recorded::Clean);
    assert_eq!(actor.phase(), Phase::BackingOff);
    let effects = actor.tell(Event::Witnessed).to_vec();
    assert!(matches!(effects[..], [Effect::Publish(_), Effect::Look]));
    assert_eq!(
        (actor.phase(), actor.activation.pace().failures()),
        (Phase::Resting, 0)
    );
}

#[test]
fn a_runtime_that_wakes_before_it_may_is_killed() {
    let mut actor = Actor::at(Phase::Starting);
    let run = actor.run();
    actor.tell(Event::Started(run));
    let effects = actor.hear(Word::Woke);
    assert!(
        effects.contains(&Effect::Kill(run))
            && effects.contains(&Effect::Report(Report::Failed(Failure::Breach)))
    );
}

#[test]
fn a_suspended_object_is_resumed_for_whoever_its_door_permits_and_given_up_for_an_owners_write() {
    let mut actor = Actor::at(Phase::Suspending);
    let run = actor.run();
    assert_eq!(actor.propose(7, By::Request), []);
    actor.tell(Event::Suspended(run));
    let ask = actor.asked();
    actor.tell(Event::Claimed(ask, Claimed::Won));
    assert!(actor.activation.door_decides() && !actor.activation.store_is_ours());
    assert_eq!(
        (actor.answer(1), actor.answer(7)),
        (Some(Answer::Again), Some(Answer::Again))
    );
    let mut other = actor.clone();
    assert!(matches!(
        actor.propose(7, By::Request),
        [Effect::Claim(_, Purpose::Wake), Effect::Resume(..)]
    ));
    actor.handed_over();
    assert_eq!(actor.hear(Word::Woke), [Effect::Deliver(run, ProposalId(7))]);

    assert_eq!(other.tell(Event::GiveUp), [Effect::Kill(run)]);
    other.ends(Recorded::Clean);
    assert_eq!(
        other.phase(),
        Phase::Resting,
        "a machine that was given up is no failure"
    );
}

#[test]
fn a_machine_that_cannot_be_suspended_is_stopped() {
    let mut actor = Actor::at(Phase::Suspending);
    let run = actor.run();
    assert_eq!(
        actor.tell(Event::SuspendFailed(run)),
        [Effect::Report(Report::NotSuspended), Effect::Stop(run)]
    );
    actor.ends(Recorded::Clean);
    assert_eq!(
        (actor.phase(), actor.answer(1)),
        (Phase::Resting, Some(Answer::Again))
    );
}

#[test]
fn what_its_gate_told_everybody_those_whom_it_had_not_taken_are_told_too() {
    let mut actor = Actor::at(Phase::Running);
    let after = Some(40 * SECOND);
    actor.propose(2, By::Request);
    actor.hear(Word::Refused(after));
    actor.hear(Word::Taken(ProposalId(1)));
    let run = actor.run();
    actor.tell(Event::Exited(run));
    let inside = Refusal::Inside(after);
    assert_eq!(
        (actor.answer(1), actor.answer(2)),
        (None, Some(Answer::Refused(inside)))
    );
    actor.record(Recorded::Clean);
    actor.propose(3, By::Request);
    let paused = Refusal::Paused(40 * SECOND);
    assert_eq!(
        actor.answer(3),
        Some(Answer::Refused(paused)),
        "its rules said when to try again"
    );
}

#[test]
fn a_stop_asks_the_object_then_the_machine_and_then_kills_it() {
    let mut actor = Actor::at(Phase::Running);
    let run = actor.run();
    assert_eq!(
        actor.tell(Event::Stop(Stop::Graceful(10 * SECOND))),
        [Effect::Sleep(run)]
    );
    actor.propose(2, By::Owner);
    assert_eq!(actor.answer(2), Some(Answer::Refused(Refusal::Stopping)));
    assert_eq!(actor.pass(5 * SECOND), [Effect::Stop(run)]);
    assert_eq!(actor.pass(5 * SECOND), [Effect::Kill(run)]);
    let effects = actor.pass(10 * SECOND);
    assert!(
        effects.contains(&Effect::Report(Report::Abandoned(run))),
        "{effects:?}"
    );
    assert!(effects.contains(&Effect::Report(Report::Stopped(false))));
    assert!(actor.activation.is_over());
}

#[test]
fn a_stop_that_all_answer_is_clean_and_a_second_one_does_not_wait() {
    let mut actor = Actor::at(Phase::Running);
    actor.tell(Event::Stop(Stop::Graceful(30 * SECOND)));
    let mut hasty = actor.clone();
    actor.hear(Word::Leaving(Leave::Slept));
    actor.ends(Recorded::Clean);
    let ask = actor.asked();
    assert_eq!(
        actor.tell(Event::Published(ask)),
        [Effect::Report(Report::Stopped(true))]
    );
    assert_eq!(actor.activation.host_stop(), HostStop::Done);

    let run = hasty.run();
    assert_eq!(hasty.tell(Event::Stop(Stop::Now)), [Effect::Kill(run)]);
}

#[test]
fn an_object_that_refuses_to_sleep_is_stopped_without_its_consent_and_that_is_told() {
    let mut actor = Actor::at(Phase::Running);
    let run = actor.run();
    actor.tell(Event::Stop(Stop::Graceful(30 * SECOND)));
    assert_eq!(
        actor.hear(Word::SleepRefused),
        [Effect::Report(Report::SleepRefused), Effect::Stop(run)]
    );
}

#[test]
fn a_stop_while_it_starts_kills_what_cannot_have_begun() {
    let mut actor = Actor::at(Phase::Starting);
    let run = actor.run();
    let stop = Event::Stop(Stop::Graceful(30 * SECOND));
    assert!(actor.tell(stop).contains(&Effect::Kill(run)));
    let mut actor = Actor::new(Found::AtRest);
    actor.propose(1, By::Timer);
    actor.handed_over();
    let run = actor.run();
    assert!(
        actor.tell(stop).contains(&Effect::Stop(run)),
        "here `woke` may be on its way"
    );
}

#[test]
fn after_a_restart_a_machine_that_runs_is_gone_on_with() {
    let mut actor = Actor::attached(Attached::Serving);
    let run = actor.run();
    assert_eq!(
        actor.propose(1, By::Request),
        [Effect::Deliver(run, ProposalId(1))]
    );
    let mut actor = Actor::attached(Attached::Waiting);
    assert!(matches!(actor.last[..], [Effect::Claim(_, Purpose::Wake)]));
    let (ask, run) = (actor.asked(), actor.run());
    assert_eq!(
        actor.tell(Event::Claimed(ask, Claimed::Won)),
        [Effect::HandOver(run)]
    );
    let actor = Actor::attached(Attached::Suspended);
    assert!(matches!(actor.last[..], [Effect::Claim(_, Purpose::Rest)]));
    let actor = Actor::attached(Attached::Nothing);
    assert!(matches!(actor.last[..], [Effect::RecordEnd(_)]));
    let actor = Actor::attached(Attached::Failed);
    assert!(matches!(actor.last[..], [Effect::Report(_), Effect::Kill(_)]));
    let mut hanging = Actor::new(Found::Machine);
    hanging.propose(1, By::Request);
    let run = hanging.run();
    assert!(hanging.pass(10 * SECOND).contains(&Effect::Kill(run)));
}

#[test]
fn what_cannot_be_recorded_is_tried_again_and_an_owner_need_not_wait() {
    let mut actor = Actor::at(Phase::Settling);
    actor.propose(2, By::Request);
    actor.record(Recorded::Failed);
    let refused = Refusal::NotRecorded(SECOND);
    assert_eq!(actor.answer(2), Some(Answer::Refused(refused)));
    let mut other = actor.clone();
    assert!(matches!(actor.pass(SECOND)[..], [Effect::RecordEnd(_)]));
    assert!(matches!(other.propose(3, By::Owner), [Effect::RecordEnd(_)]));
    other.record(Recorded::Clean);
    assert_eq!(other.answer(3), Some(Answer::Again));
}

#[test]
fn a_process_that_is_replaced_leaves_its_machines_and_tells_who_waits() {
    let actor = Actor::at(Phase::Starting);
    let facts = suijuris_core::activation::Facts {
        now: actor.now,
        terms: &actor.terms,
    };
    let effects = actor.activation.detach(facts);
    let told = Effect::Answer(Proposal::new(1, By::Request), Answer::Refused(Refusal::Stopping));
    assert_eq!(effects, [told]);
}

#[test]
fn no_more_than_so_many_wait() {
    let mut actor = Actor::at(Phase::Starting);
    for id in 2..=1_024 {
        assert_eq!(actor.propose(id, By::Request), []);
    }
    actor.propose(5_000, By::Request);
    assert_eq!(actor.answer(5_000), Some(Answer::Refused(Refusal::Full)));
}

#[test]
fn a_sleeper_is_small() {
    assert!(size_of::<Activation>() <= 128, "{}", size_of::<Activation>());
}
