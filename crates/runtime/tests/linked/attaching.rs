//! A machine that outlives its supervisor: it goes on serving, and another one finds it as it is.

use suijuris_api::Event;
use suijuris_core::lineage::Body;
use suijuris_link::launch::Unattended;
use suijuris_link::message::How;
use suijuris_link::{ToRuntime, ToSupervisor};
use tokio::time::timeout;

use crate::rig::{Machine, Object, PATIENCE};

#[tokio::test]
async fn it_serves_on_and_another_supervisor_takes_over() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    let mut early = machine.supervisor.connect(4).await;
    let mut idle = machine.supervisor.connect(5).await;
    early.gets_the_page().await;
    machine.lose_the_supervisor();
    early.gets_the_page().await;
    idle.gets_the_page().await;

    let second = machine.attach();
    let present = second.present().await;
    let records = object.records();
    assert_eq!(present.object.to_string(), object.id);
    assert_eq!(present.phase, "active");
    assert_eq!((present.epoch, present.generation), (1, 0));
    assert_eq!(present.seq, records.last().unwrap().seq);
    assert_eq!(present.taken, [4, 5]);

    let mut late = second.connect(6).await;
    late.gets_the_page().await;
    early.gets_the_page().await;
    assert_eq!(second.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    let last = object.records().pop().unwrap();
    assert!(matches!(last.body, Body::Dormant(_)), "{last:?}");
}

#[tokio::test]
async fn the_newest_supervisor_counts_and_the_one_before_is_let_go() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    // The first one is still there.
    let second = machine.attach();
    second.present().await;
    while let Ok(Some(_)) = timeout(PATIENCE, machine.supervisor.link.receive())
        .await
        .unwrap()
    {}
    let third = machine.attach();
    assert_eq!(third.present().await.phase, "active");
    while let Ok(Some(_)) = timeout(PATIENCE, second.link.receive()).await.unwrap() {}
    let mut caller = third.connect(1).await;
    caller.gets_the_page().await;
    assert_eq!(third.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

#[tokio::test]
async fn a_supervisor_that_hears_nothing_any_more_keeps_no_other_out() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    machine.stop_the_supervisor();
    let second = machine.attach();
    second.present().await;
    let mut caller = second.connect(1).await;
    caller.gets_the_page().await;
    assert_eq!(second.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

#[tokio::test]
async fn a_suspended_machine_is_found_and_resumed_by_the_next_supervisor() {
    let object = Object::that_suspends();
    let launch = object.launch(Unattended::Serve);
    let cause = launch.cause.clone();
    let mut machine = Machine::start(launch);
    machine.supervisor.serves().await;
    assert_eq!(machine.supervisor.sleep().await, How::Suspend);
    machine.lose_the_supervisor();
    let second = machine.attach();
    let present = second.present().await;
    assert_eq!((present.phase.as_str(), present.epoch), ("dormant", 1));
    let resumed = ToRuntime::Resumed {
        generation: 1,
        cause: Box::new(cause),
    };
    second.link.queue(resumed).unwrap();
    second.serves().await;
    let mut caller = second.connect(1).await;
    caller.gets_the_page().await;
    let third = machine.attach();
    let present = third.present().await;
    assert_eq!((present.phase.as_str(), present.generation), ("active", 1));
    machine.child.start_kill().unwrap();
}

#[tokio::test]
async fn a_machine_that_nobody_suspends_any_more_stops() {
    let object = Object::that_suspends();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    assert_eq!(machine.supervisor.sleep().await, How::Suspend);
    machine.lose_the_supervisor();
    assert_eq!(machine.code().await, Some(4));
    let last = object.records().pop().unwrap();
    assert!(matches!(last.body, Body::Dormant(_)), "{last:?}");
}

#[tokio::test]
async fn what_happened_while_nobody_was_there_is_told_after_how_it_is() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.lose_the_supervisor();
    // It boots with nobody at the other end.
    object.is_awake().await;
    let second = machine.attach();
    let present = second.present().await;
    assert_eq!(present.epoch, 1);
    second
        .until(|message| match message {
            ToSupervisor::Event(event) => matches!(event.0.event, Event::Woke { epoch: 1, .. }).then_some(()),
            _ => None,
        })
        .await;
    assert_eq!(second.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

#[tokio::test]
async fn what_falls_asleep_with_nobody_there_stops_and_is_not_suspended() {
    let object = Object::that_suspends();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    machine.lose_the_supervisor();
    object.is_told_to_sleep().await;
    assert_eq!(machine.code().await, Some(0));
    let last = object.records().pop().unwrap();
    let Body::Dormant(dormant) = last.body else {
        panic!("{last:?}")
    };
    assert!(!dormant.suspend && dormant.workload != "suspended", "{dormant:?}");
}

#[tokio::test]
async fn a_machine_that_nobody_can_attach_to_any_more_stops() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    let (nobody, _end) = suijuris_sys::link::pair().unwrap();
    drop(std::mem::replace(&mut machine.outlet, nobody));
    machine.lose_the_supervisor();
    assert_eq!(machine.code().await, Some(4));
}

#[tokio::test]
async fn a_machine_that_was_launched_to_stop_stops_with_its_supervisor() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Stop));
    machine.supervisor.serves().await;
    machine.lose_the_supervisor();
    assert_eq!(machine.code().await, Some(4));
}
