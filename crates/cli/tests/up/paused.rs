//! Machines in which the object does not wake: it is left alone for a while, so that callers cannot start one after the
//! other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

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

fn started(up: &Up) -> usize {
    up.count(&json!({"event": "machine", "state": "started"}))
}

/// Asks again and again, as clients do, until the object is left alone for the fourth time at the most or 5 s are over;
/// machines that were started, and how the pauses were told.
fn asked_all_the_time(up: &Up) -> (usize, Vec<String>) {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let answer = up.get("/exit");
        if answer.status == 503 && answer.json()["code"] == "wake_paused" {
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
    }
    let pauses = up.events().into_iter().filter(|event| event["state"] == "paused");
    let details = pauses.map(|event| event["detail"].as_str().unwrap().to_owned());
    (started(up), details.collect())
}

fn crashes(object: &Object) -> Value {
    object.ask(&["show", "--json"]).code(0).json()["crashes"].clone()
}

fn shell(script: &str, keys: &str) -> Object {
    let script = serde_json::to_string(script).unwrap();
    let definition = format!("name = \"bad\"\n[workload]\ncommand = [\"sh\", \"-c\", {script}]\n{keys}");
    Object::defined(&definition, &[OPEN, STAY].concat())
}

/// In 5 s there is room for the machines after 0, 1 and 3 s, and for one more that starts late.
const MACHINES: usize = 4;

// proves C15
#[test]
fn a_workload_that_crashes_on_requests_is_not_started_at_its_clients_speed() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    let (machines, pauses) = asked_all_the_time(&up);
    assert!((2..=MACHINES).contains(&machines), "{machines}: {pauses:?}");
    assert_eq!(
        pauses[0], "crashed (exit 7), next try in 1 s (1 failure)",
        "{pauses:?}"
    );
    assert_eq!(
        pauses[1], "crashed (exit 7), next try in 2 s (2 failures in a row)",
        "{pauses:?}"
    );
    assert_eq!(up.interrupt(), Some(0));
    let crashed = crashes(&object).as_u64().unwrap();
    assert!((2..=4).contains(&crashed), "{crashed}");
    // Records stay few: two or three an activation.
    assert!(object.log().len() <= 1 + 4 * MACHINES, "{:?}", object.kinds());
    // One that serves and sleeps well ends the count.
    let up = object.up();
    object.ask(&["wake"]).code(0);
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(crashes(&object), 0);
    object.verify();
}

// proves C15
#[test]
fn nor_is_one_that_ends_well_and_serves_nobody_or_never_becomes_ready() {
    for (script, keys, why, counted) in [
        (
            "sleep 0.1; exit 0",
            "ready = \"spawned\"\n",
            "ended before it had done anything (exit 0)",
            false,
        ),
        (
            "sleep 0.3; exit 1",
            "ready = \"spawned\"\n",
            "crashed (exit 1)",
            true,
        ),
        (
            "exit 3",
            "",
            "the workload ended before it was ready: exited 3",
            true,
        ),
        (
            "exec sleep 1000",
            "ready_within = \"100ms\"\nstop_within = \"1s\"\n",
            "the workload was not ready within 100ms",
            true,
        ),
    ] {
        let object = shell(script, keys);
        let up = object.up();
        let (machines, pauses) = asked_all_the_time(&up);
        assert!(
            (2..=MACHINES).contains(&machines),
            "{script}: {machines}: {pauses:?}"
        );
        assert!(pauses[0].starts_with(why), "{script}: {pauses:?}");
        assert_eq!(up.interrupt(), Some(0));
        let crashed = |record: &Value| {
            let end = &record["body"]["decision"]["inputs"]["standing"]["workload"];
            end == "crashed" || end == "failed"
        };
        let crashed = object
            .records("dormant")
            .iter()
            .filter(|record| crashed(record))
            .count();
        assert_eq!(crashed > 0, counted, "{script}");
        object.verify();
    }
}

// proves C15
#[test]
fn messages_and_timers_start_it_no_faster() {
    let object = shell(
        "sleep 0.2; exit 1",
        "ready = \"spawned\"\n[messages]\ntopics = [\"job\"]\n[timers.tick]\nevery = \"1s\"\n",
    );
    let up = object.up();
    let dir = object.dir().to_str().unwrap();
    let sent = ["send", dir, "--type", "job", "--id", "1", "--data", "{}"];
    object.suijuris(&sent).code(0);
    std::thread::sleep(Duration::from_secs(5));
    let machines = started(&up);
    assert!((2..=MACHINES).contains(&machines), "{machines}");
    assert_eq!(up.interrupt(), Some(0));
}

// proves C15
#[test]
fn a_rule_can_give_up_on_a_workload_that_crashes() {
    const GIVE_UP: &str = r#"@id("give-up") @reason("it crashed twice")
forbid (principal, action == Action::"wake", resource) when { resource.lineage.crashes >= 2 };"#;
    let object = Object::new("", &[OPEN, STAY, GIVE_UP].concat());
    let mut up = object.up();
    for _ in 0..2 {
        up.get("/exit");
        up.wait(json!({"event": "machine", "state": "paused"}));
        let shown = object.ask(&["show", "--json"]).code(0).json();
        assert_eq!(shown["paused"]["why"], "crashed (exit 7)", "{shown}");
    }
    let problem = up.get("/").status(403).json();
    assert!(problem.to_string().contains("it crashed twice"), "{problem}");
    assert_eq!(up.interrupt(), Some(0));
}
