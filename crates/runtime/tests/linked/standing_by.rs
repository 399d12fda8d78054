//! A runtime that is executed before anybody knows for which object.

use std::os::fd::AsFd as _;

use suijuris_guest::standby::Unassigned;
use suijuris_link::launch::Unattended;
use suijuris_link::message::How;
use suijuris_sys::descriptors;

use crate::rig::{Object, StandingBy};

#[tokio::test]
async fn assigned_it_is_what_was_started_for_its_object() {
    let object = Object::new();
    let standing_by = StandingBy::start().await;
    let mut machine = standing_by.assign(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    let mut caller = machine.supervisor.connect(1).await;
    caller.gets_the_page().await;
    machine.lose_the_supervisor();
    caller.gets_the_page().await;
    let second = machine.attach();
    assert_eq!(second.present().await.phase, "active");
    assert_eq!(second.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

/// No key of one is another's: each is drawn when it is needed.
#[tokio::test]
async fn two_that_stood_by_side_by_side_draw_different_keys() {
    let ahead = [StandingBy::start().await, StandingBy::start().await];
    let mut keys = Vec::new();
    for standing_by in ahead {
        // Two objects that are the same in every byte.
        let object = Object::new();
        let mut machine = standing_by.assign(object.launch(Unattended::Stop));
        machine.supervisor.serves().await;
        assert_eq!(machine.supervisor.sleep().await, How::Stop);
        assert_eq!(machine.code().await, Some(0));
        keys.push(std::fs::read(object.data().join("next.key")).unwrap());
    }
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn one_that_nobody_wants_any_more_ends() {
    let StandingBy { mut child, shim } = StandingBy::start().await;
    drop(shim);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn what_makes_no_machine_is_refused_and_ends_it() {
    let null = descriptors::null().unwrap();
    let two = [null.as_fd(), null.as_fd()];
    for (argv, numbers) in [
        // A file that did not come along.
        (&["suijuris-init", "--link-fd", "3"][..], &[3][..]),
        // A number that is its own.
        (&["suijuris-init", "--link-fd", "3"], &[16]),
    ] {
        let StandingBy { mut child, shim } = StandingBy::start().await;
        let assignment = StandingBy::assignment(argv, numbers);
        let refused = shim.assign(&assignment, &two, -1).unwrap_err();
        assert!(matches!(refused, Unassigned::Refused(_)), "{refused}");
        assert_eq!(child.wait().await.unwrap().code(), Some(3));
    }
    // It is assigned, to what it does not run as.
    let StandingBy { mut child, shim } = StandingBy::start().await;
    let assignment = StandingBy::assignment(&["suijuris-init", "--version"], &[]);
    shim.assign(&assignment, &two, -1).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(3));
}
