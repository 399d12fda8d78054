//! Machines in which the object does not wake: it is left alone for a while, so that callers cannot start one after the
//! other.

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, Up};

/// Each failure doubles the pause, so that a request within it comes soon, however slow this machine is.
const TRIES: usize = 20;

// proves D4
#[test]
fn an_object_that_did_not_wake_is_left_alone_for_a_while_but_not_by_its_owner() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    // Where the runtime's agent socket belongs, so that each boot ends before the object wakes.
    let in_the_way = object.data().join("run/agent.sock/taken");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let started = |up: &Up| up.count(&json!({"event": "machine", "state": "started"}));
    let paused = (0..TRIES).find_map(|_| {
        let before = started(&up);
        let problem = up.get("/").status(503).json();
        if problem["code"] == "wake_paused" {
            return Some((problem, started(&up) - before));
        }
        assert_eq!(problem["code"], "machine_failed", "{problem}");
        None
    });
    let (problem, machines) = paused.expect("the object is never left alone");
    assert_eq!(machines, 0, "{problem}");
    assert!(
        problem["retry_after"]
            .as_u64()
            .is_some_and(|seconds| (1..=300).contains(&seconds))
    );
    assert_eq!(problem["object"], up.id);

    std::fs::remove_dir_all(object.data().join("run/agent.sock")).unwrap();
    let woken = object.ask(&["wake", "--json"]).code(0).json();
    assert_eq!(woken["outcome"], "permit");
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}
