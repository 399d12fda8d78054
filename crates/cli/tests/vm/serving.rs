//! The daemon of many objects on virtual machines, which outlive it.

use crate::rig::{Home, is_served};

/// Suspended and awake, a machine is found again by the next daemon: the same activation goes on, and nothing is started anew.
#[test]
fn machines_outlive_a_daemon_that_is_killed_and_the_next_one_goes_on_with_them() {
    let home = Home::new();
    let mut daemon = home.serve("qemu");
    home.run(&["add", "vm"]);
    is_served(&daemon.get());
    assert_eq!(daemon.event("woke", |_| true)["epoch"], 1);
    daemon.event("machine", |event| event["state"] == "suspended");
    daemon.killed();

    let mut daemon = home.serve("qemu");
    daemon.event("machine", |event| event["state"] == "attached");
    is_served(&daemon.get());
    assert_eq!(daemon.event("resumed", |_| true)["epoch"], 2);
    daemon.killed();

    // It was awake, and may have been on its way to sleep.
    let mut daemon = home.serve("qemu");
    daemon.event("machine", |event| event["state"] == "attached");
    is_served(&daemon.get());
    let started = |event: &serde_json::Value| event["event"] == "woke";
    assert!(!daemon.heard.iter().any(started), "{:#?}", daemon.heard);
    // Its own rules go on, and what both wrote since is one copy's.
    daemon.event("machine", |event| event["state"] == "suspended");
    is_served(&daemon.get());
    assert_eq!(daemon.event("resumed", |_| true)["epoch"], 3);
    assert_eq!(daemon.interrupt(), Some(0));
}
