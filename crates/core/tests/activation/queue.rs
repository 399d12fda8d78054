//! The request queue beside the machine.

use std::time::Duration;

use suijuris_core::activation::requests::{
    Denial, Due, Kind, Meanwhile, Queue, RequestId, Terms, Verdict, Way,
};
use suijuris_core::activation::{Event, Loss, Phase, Recorded, Stop, Word};

use super::actor::Actor;

const TERMS: Terms = Terms::DEFAULT;

fn offer(queue: &mut Queue, actor: &Actor, id: u64, kind: Kind) -> Verdict {
    queue.offer(RequestId(id), kind, &actor.activation, actor.now, &TERMS)
}

fn next(queue: &mut Queue, actor: &Actor) -> Option<Due> {
    queue.next(&actor.activation, actor.now, &TERMS)
}

const fn denied(id: u64, kind: Kind, denial: Denial) -> Option<Due> {
    Some(Due::Answer(RequestId(id), kind, Verdict::Deny(denial)))
}

#[test]
fn a_write_is_done_where_the_store_is_or_waits_for_it() {
    let mut queue = Queue::default();
    let resting = Actor::at(Phase::Resting);
    assert_eq!(
        offer(&mut queue, &resting, 1, Kind::Write),
        Verdict::Accept(Way::AtRest)
    );
    let mut actor = Actor::at(Phase::Starting);
    assert_eq!(
        offer(&mut queue, &actor, 2, Kind::Write),
        Verdict::Queue(Meanwhile::Nothing)
    );
    assert_eq!(next(&mut queue, &actor), None);
    actor.handed_over();
    actor.hear(Word::Woke);
    let run = actor.run();
    let to_runtime = Verdict::Accept(Way::Runtime(run));
    assert_eq!(
        next(&mut queue, &actor),
        Some(Due::Answer(RequestId(2), Kind::Write, to_runtime))
    );
    assert_eq!(next(&mut queue, &actor), None);
    assert!(queue.answered(RequestId(2)) && !queue.answered(RequestId(2)));
}

#[test]
fn whoever_asked_a_machine_that_ended_is_told_so() {
    let mut queue = Queue::default();
    let mut actor = Actor::at(Phase::Running);
    offer(&mut queue, &actor, 1, Kind::Sleep);
    let run = actor.run();
    actor.tell(Event::Exited(run));
    assert_eq!(
        next(&mut queue, &actor),
        denied(1, Kind::Sleep, Denial::Unanswered)
    );
    assert_eq!(next(&mut queue, &actor), None);
}

#[test]
fn a_runtime_that_does_not_reply_keeps_nobody_waiting_for_ever() {
    let mut queue = Queue::default();
    let mut actor = Actor::at(Phase::Running);
    offer(&mut queue, &actor, 1, Kind::Write);
    for _ in 0..13 {
        actor.hear(Word::Heartbeat);
        actor.pass(Duration::from_secs(5));
    }
    assert!(queue.deadline() <= Some(actor.now));
    assert_eq!(
        next(&mut queue, &actor),
        denied(1, Kind::Write, Denial::Unanswered)
    );
}

#[test]
fn an_owners_write_unlocks_a_suspended_machine_once_and_an_amendment_gives_it_up() {
    let mut queue = Queue::default();
    let mut actor = Actor::at(Phase::Suspended);
    assert_eq!(
        offer(&mut queue, &actor, 1, Kind::Write),
        Verdict::Queue(Meanwhile::Unlock)
    );
    assert_eq!(next(&mut queue, &actor), Some(Due::Meanwhile(Meanwhile::Unlock)));
    assert_eq!(next(&mut queue, &actor), None);
    assert_eq!(
        offer(&mut queue, &actor, 2, Kind::Amend),
        Verdict::Queue(Meanwhile::GiveUp)
    );
    assert_eq!(next(&mut queue, &actor), Some(Due::Meanwhile(Meanwhile::GiveUp)));
    assert_eq!(next(&mut queue, &actor), None);
    actor.tell(Event::GiveUp);
    assert_eq!(next(&mut queue, &actor), None);
    actor.ends(Recorded::Clean);
    let at_rest = Verdict::Accept(Way::AtRest);
    assert_eq!(
        next(&mut queue, &actor),
        Some(Due::Answer(RequestId(1), Kind::Write, at_rest))
    );
    assert_eq!(
        next(&mut queue, &actor),
        Some(Due::Answer(RequestId(2), Kind::Amend, at_rest))
    );
    assert_eq!(next(&mut queue, &actor), None);
}

#[test]
fn what_will_never_be_done_is_denied_at_once() {
    let mut queue = Queue::default();
    let mut actor = Actor::at(Phase::Starting);
    offer(&mut queue, &actor, 1, Kind::Write);
    offer(&mut queue, &actor, 2, Kind::Sleep);
    actor.tell(Event::Stop(Stop::Graceful(Duration::from_secs(9))));
    assert_eq!(next(&mut queue, &actor), denied(1, Kind::Write, Denial::Stopping));
    assert_eq!(
        next(&mut queue, &actor),
        Some(Due::Answer(RequestId(2), Kind::Sleep, Verdict::Ignore))
    );
    let mut lost = Actor::at(Phase::Starting);
    offer(&mut queue, &lost, 3, Kind::Write);
    lost.tell(Event::Lost(Loss::Twin));
    assert_eq!(
        next(&mut queue, &lost),
        denied(3, Kind::Write, Denial::NotTheObject)
    );
    assert_eq!(
        offer(&mut queue, &lost, 4, Kind::Amend),
        Verdict::Deny(Denial::NotTheObject)
    );
    assert_eq!(
        offer(&mut queue, &lost, 5, Kind::Status),
        Verdict::Accept(Way::Answer)
    );
}

#[test]
fn the_queue_is_bounded_in_number_and_time() {
    let mut queue = Queue::default();
    let mut actor = Actor::at(Phase::Starting);
    for id in 0..64 {
        assert_eq!(
            offer(&mut queue, &actor, id, Kind::Write),
            Verdict::Queue(Meanwhile::Nothing)
        );
    }
    assert_eq!(
        offer(&mut queue, &actor, 64, Kind::Write),
        Verdict::Deny(Denial::Full)
    );
    queue.forget(RequestId(0));
    actor.pass(Duration::from_secs(60));
    assert_eq!(next(&mut queue, &actor), denied(1, Kind::Write, Denial::Late));
}
