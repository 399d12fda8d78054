//! Sudden ends: what was acknowledged is there afterwards, and nothing goes on running.

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up, kill};

const COUNTER: &str = "[memory]\ncounter = { type = \"int\", default = 0 }\nitems = { type = { set = \"int\" }, default = [] }\n";

/// Writes 1, 2, 3 … until nobody answers; the last number that was acknowledged.
fn write_until_silence(up: &Up, from: u64) -> u64 {
    let mut last = from;
    loop {
        let answer = up.try_agent("PATCH", "/v1/memory", &json!({"set": {"counter": last + 1}}));
        match answer {
            Some(answer) if answer.status == 200 => last += 1,
            _ => return last,
        }
    }
}

fn counter(object: &Object) -> u64 {
    object
        .ask(&["memory", "get", "counter"])
        .code(0)
        .out
        .trim()
        .parse()
        .unwrap()
}

/// Runs `end` in the middle of a load of writes; the last number that was acknowledged.
fn under_load(up: &Up, from: u64, after: u64, end: impl FnOnce() + Send) -> u64 {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until_silence(up, from));
        crate::rig::until("writes are under way", || {
            up.events()
                .iter()
                .filter(|event| event["event"] == "mutated")
                .count() as u64
                > after
        });
        end();
        writer.join().unwrap()
    })
}

// proves A12, B2, A2
#[test]
fn no_acknowledged_write_is_lost_to_kill_9_of_everything() {
    let object = Object::new(COUNTER, &[OPEN, STAY].concat());
    let mut last = 0;
    for round in 0..3 {
        let up = object.up();
        up.get("/").status(200);
        last = under_load(&up, last, 5 + 13 * round, || up.signal("KILL"));
        drop(up);
        object.nobody_is_left();
        let (kept, kinds) = (counter(&object), object.kinds());
        // The last write may have become durable without its answer.
        assert!(
            kept == last || kept == last + 1,
            "acknowledged {last}, kept {kept}"
        );
        last = kept;
        assert_ne!(kinds.last().unwrap(), "dormant");
    }
    assert_eq!(object.up().interrupt(), Some(0));
    assert_eq!(object.records("unsealed").len(), 3);
    assert_eq!(counter(&object), last);
    object.verify();
}

// proves A12, B2
#[test]
fn no_acknowledged_write_is_lost_to_a_host_that_stops_the_machine() {
    let object = Object::new(COUNTER, &[OPEN, STAY].concat());
    let mut up = object.up();
    let mut last = 0;
    for (round, signal) in ["TERM", "KILL", "TERM"].into_iter().enumerate() {
        up.get("/").status(200);
        let already = up
            .events()
            .iter()
            .filter(|event| event["event"] == "mutated")
            .count() as u64;
        let machine = up.runtime_pid();
        last = under_load(&up, last, already + 7 * (round as u64 + 1), || {
            kill(machine, signal);
        });
        up.wait(json!({"event": "machine", "state": "stopped"}));
        let kept = counter(&object);
        assert!(
            kept == last || kept == last + 1,
            "{signal}: acknowledged {last}, kept {kept}"
        );
        last = kept;
    }
    assert_eq!(up.interrupt(), Some(0));
    let kinds = object.kinds();
    assert_eq!(kinds.iter().filter(|kind| *kind == "woke").count(), 3);
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "unsealed").count(),
        3,
        "the host's stop is no act of the object"
    );
    object.verify();
}

// proves A12
#[test]
fn an_activation_that_was_cut_off_is_a_fact_that_rules_can_see() {
    let careful = r#"@id("cut-off") @reason("The last activation was cut off.")
        forbid (principal, action == Action::"wake", resource) when { resource.lineage.unsealed && context.trigger.kind != "manual" };"#;
    let object = Object::new(COUNTER, &[OPEN, STAY, careful].concat());
    let up = object.up();
    up.get("/").status(200);
    up.kill();
    object.nobody_is_left();
    let up = object.up();
    let problem = up.get("/").problem(403, "wake_refused");
    assert_eq!(problem["detail"], "The last activation was cut off.");
    assert_eq!(
        object.ask(&["wake", "--json"]).code(0).json()["outcome"],
        "permit"
    );
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves C7
#[test]
fn nothing_outlives_a_killed_up() {
    for args in [&[][..], &["--plain"]] {
        let object = Object::new("", &[OPEN, STAY].concat());
        let up = object.up_with(args);
        up.get("/").status(200);
        assert!(up.machine_pids().len() >= 2, "runtime and workload");
        up.kill();
        object.nobody_is_left();
    }
}

// proves C7
#[test]
fn nothing_outlives_an_up_that_is_killed_while_its_machine_is_frozen() {
    let suspend = "[sleep]\nmode = \"suspend\"\n";
    for args in [&[][..], &["--plain"]] {
        let object = Object::new(suspend, OPEN);
        let mut up = object.up_with(args);
        up.get("/");
        up.wait(json!({"event": "machine", "state": "suspended"}));
        up.kill();
        object.nobody_is_left();
        assert_eq!(object.up_with(args).interrupt(), Some(0));
        object.verify();
    }
}

// proves C7
#[test]
fn ctrl_c_puts_it_to_sleep_properly() {
    let object = Object::new("", &[OPEN, STAY].concat());
    for signal in ["INT", "TERM"] {
        let mut up = object.up();
        up.get("/").status(200);
        up.signal(signal);
        let dormant = up.wait_event("dormant");
        up.wait(json!({"event": "machine", "state": "stopped"}));
        assert_eq!(up.ended().code(), Some(0));
        let last = object.log().pop().unwrap();
        assert_eq!(
            (&last["kind"], &last["seq"]),
            (&json!("dormant"), &dormant["seq"])
        );
    }
    object.nobody_is_left();
    object.verify();
}

// proves A1, A4
#[test]
fn an_object_that_refuses_to_sleep_is_stopped_without_a_record_of_sleep_and_says_so() {
    let rules = OPEN.replace(
        "@id(\"sleep\") permit",
        "@id(\"sleep\") @reason(\"Not now.\") forbid",
    );
    let object = Object::new("", &[rules.as_str(), STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    up.signal("INT");
    up.wait(json!({"event": "verdict", "action": "sleep", "outcome": "refuse", "rules": ["sleep"]}));
    up.wait(json!({"event": "error", "code": "sleep_refused"}));
    assert_eq!(up.ended().code(), Some(1));
    assert!(!object.kinds().contains(&"dormant".to_owned()));
    object.verify();
}

// proves C7
#[test]
fn a_workload_is_asked_to_stop_and_then_made_to() {
    let deaf = "import signal, sys, runpy\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0])\n";
    let object = Object::defined(
        "name = \"deaf\"\n[workload]\ncommand = [\"python3\", \"{object}/deaf.py\", \"{object}/server.py\", \"{port}\", \"{data}\"]\nstop_within = \"1s\"\n",
        &[OPEN, STAY].concat(),
    );
    object.file("deaf.py", deaf);
    object.file("server.py", include_str!("server.py"));
    let mut up = object.up();
    up.get("/").status(200);
    let sleep = up.control(&json!("sleep"));
    assert_eq!(sleep["verdict"]["outcome"], "permit", "{sleep}");
    let exited = up.wait(json!({"event": "workload", "state": "exited"}));
    assert_eq!(exited["how"], "killed by signal 9");
    up.wait_event("dormant");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    kill_while_deaf(&object, &mut up);
    object.verify();
}

/// The host's own stop is graceful inside the budget of the bundle, and then not.
fn kill_while_deaf(object: &Object, up: &mut Up) {
    up.get("/again").status(200);
    kill(up.runtime_pid(), "TERM");
    let exited = up.wait(json!({"event": "workload", "state": "exited"}));
    assert_eq!(exited["how"], "killed by signal 9");
    let stopped: Value = up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(stopped["detail"], "exited with code 4", "the host stopped it");
    up.signal("INT");
    assert_eq!(up.ended().code(), Some(0));
    object.nobody_is_left();
}

/// However close a signal comes to the object's own sleep, that is a good end.
#[test]
fn a_stop_beside_the_objects_own_sleep_is_a_good_end() {
    let object = Object::new("", &[OPEN, STAY].concat());
    for ms in [0, 1, 2, 3, 5, 10, 30] {
        let mut up = object.up();
        up.get("/").status(200);
        let sleep = up.control(&json!("sleep"));
        assert_eq!(sleep["verdict"]["outcome"], "permit", "{sleep}");
        std::thread::sleep(std::time::Duration::from_millis(ms));
        up.signal("TERM");
        assert_eq!(up.ended().code(), Some(0), "{ms} ms later");
        assert_eq!(
            up.count(&json!({"event": "error"})),
            0,
            "{ms} ms later: {:?}",
            up.events()
        );
        assert_eq!(
            object.kinds().last().map(String::as_str),
            Some("dormant"),
            "{ms} ms later"
        );
    }
    object.verify();
}

/// While it drains it has decided to sleep already: nothing is refused, and nobody is told so.
#[test]
fn a_stop_while_it_drains_waits_for_that() {
    let object = Object::new("[gate]\ndrain = \"20s\"\n", &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| up.get("/slow/1.5"));
        crate::rig::until("the request is with the workload", || {
            object.received().contains("/slow/")
        });
        assert_eq!(up.control(&json!("sleep"))["verdict"]["outcome"], "permit");
        crate::rig::until("it drains", || up.phase() == "draining");
        up.signal("TERM");
        assert_eq!(slow.join().unwrap().status(200).body, "served /slow/1.5\n");
    });
    assert_eq!(up.ended().code(), Some(0), "{:?}", up.events());
    for refused in [
        json!({"event": "verdict", "outcome": "refuse"}),
        json!({"event": "error"}),
    ] {
        assert_eq!(up.count(&refused), 0, "{:?}", up.events());
    }
    assert_eq!(object.kinds().last().map(String::as_str), Some("dormant"));
    object.verify();
}

// proves C13
#[test]
fn a_second_ctrl_c_waits_for_no_workload() {
    let deaf = "trap '' TERM INT; while :; do sleep 1; done";
    let object = Object::defined(
        &format!(
            "name = \"deaf\"\n[workload]\ncommand = [\"sh\", \"-c\", {deaf:?}]\nready = \"spawned\"\nstop_within = \"5m\"\n"
        ),
        &[OPEN, STAY].concat(),
    );
    let mut up = object.up();
    up.get("/");
    up.wait(json!({"event": "workload", "state": "ready"}));
    up.signal("INT");
    up.wait(json!({"event": "verdict", "action": "sleep", "outcome": "permit"}));
    let asked = std::time::Instant::now();
    up.signal("INT");
    up.ended();
    assert!(
        asked.elapsed() < std::time::Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    object.nobody_is_left();
    object.verify();
}

// proves C13
#[test]
fn under_nohup_the_end_of_the_terminal_is_nobodys() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut command = object.command("nohup");
    command
        .args([env!("CARGO_BIN_EXE_suijuris"), "up"])
        .arg(object.dir());
    let mut up = Up::start(command);
    up.get("/").status(200);
    up.signal("HUP");
    up.get("/again").status(200);
    assert_eq!(
        (up.phase().as_str(), up.count(&json!({"event": "dormant"}))),
        ("active", 0)
    );
    up.signal("TERM");
    assert_eq!(up.ended().code(), Some(0));
    object.verify();
}

// proves C4, C7
#[test]
fn whatever_ends_the_object_a_request_in_flight_is_told_to_come_again() {
    let rules = r#"@id("undone") permit (principal, action == Action::"remain", resource) when { !resource.memory.done };"#;
    let definition = "[gate]\ndrain = \"300ms\"\n[memory]\ndone = { type = \"bool\", default = false }\n";
    for end in ["sleep", "memory", "signal", "suspend"] {
        let suspend = if end == "suspend" {
            "[sleep]\nmode = \"suspend\"\n"
        } else {
            ""
        };
        let object = Object::new(&format!("{suspend}{definition}"), &[OPEN, rules].concat());
        let mut up = object.up();
        up.get("/").status(200);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| up.get("/slow/600"));
            crate::rig::until("the request is with the workload", || {
                object.received().contains("/slow/")
            });
            match end {
                "signal" => up.signal("TERM"),
                "memory" => drop(up.set(&json!({"done": true}))),
                _ => drop(up.control(&json!("sleep"))),
            }
            let problem = slow.join().unwrap().problem(503, "draining");
            assert!(problem["retry_after"].is_u64(), "{end}: {problem}");
        });
        let dormant = up.wait_event("dormant");
        assert_eq!(dormant["cut"], 1, "{end}: {dormant}");
        assert_eq!(
            up.count(&json!({"event": "error"})),
            0,
            "{end}: {:?}",
            up.events()
        );
        up.signal("TERM");
        assert_eq!(up.ended().code(), Some(0), "{end}");
        object.verify();
    }
}
