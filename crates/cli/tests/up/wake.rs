//! What may wake an object: requests, timers, memory, its owner; and what must not.

use serde_json::{Value, json};
use suijuris_core::key::SecretKey;
use suijuris_core::time::Timestamp;
use suijuris_store::{BundleFiles, Creation, ObjectDir, create};

use crate::rig::{OPEN, Object, STAY, Up, until};

/// Awake for as long as there is traffic.
const BRIEFLY: &str = r#"
@id("briefly") permit (principal, action == Action::"remain", resource)
when { context.activity.in_flight > 0 || context.activity.idle < duration("300ms") };
"#;

const CLOSED: &str = r#"
@id("closed") @reason("Closed today.") @retry_after("90s")
forbid (principal, action == Action::"wake", resource) when { !resource.memory.open };
"#;

const OPEN_FIELD: &str = "[memory]\nopen = { type = \"bool\", default = true }\n";

fn started(up: &Up) -> usize {
    up.count(&json!({"event": "machine", "state": "started"}))
}

// proves D4, A10
#[test]
fn a_request_wakes_again_and_again_and_the_door_decides_first() {
    let object = Object::new("", &[OPEN, BRIEFLY].concat());
    let mut up = object.up();
    for epoch in 1..=2 {
        assert_eq!(up.get("/here").status(200).body, "served /here\n");
        up.wait(json!({"event": "proposal", "action": "wake", "by": "caller", "trigger": "request"}));
        up.wait(json!({"event": "verdict", "outcome": "permit", "place": "door", "rules": ["wake"]}));
        up.wait(json!({"event": "machine", "state": "started"}));
        up.wait(json!({"event": "verdict", "outcome": "permit", "place": "runtime", "rules": ["wake"]}));
        up.wait(json!({"event": "woke", "epoch": epoch}));
        up.wait(json!({"event": "dormant"}));
        up.wait(json!({"event": "machine", "state": "stopped"}));
    }
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
    assert_eq!(object.records("woke").len(), 2);
}

// proves D4, D5, A2, C14
#[test]
fn a_refused_request_starts_nothing() {
    let object = Object::new(OPEN_FIELD, &[OPEN, BRIEFLY, CLOSED].concat());
    let mut up = object.up();
    up.set(&json!({"open": false}));
    for _ in 0..20 {
        let problem = up.get("/").problem(503, "wake_refused");
        assert_eq!(
            (problem.get("rules"), &problem["detail"]),
            (None, &json!("Closed today."))
        );
        assert_eq!(problem["retry_after"], 90);
        assert_eq!(problem["object"], up.id.as_str());
    }
    up.wait(json!({"event": "refused", "action": "wake", "rules": ["closed"], "times": 1}));
    assert_eq!(started(&up), 0);
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.received(), "");
    let times: Vec<_> = object
        .records("refused")
        .iter()
        .map(|r| r["body"]["times"].clone())
        .collect();
    assert_eq!(times, [1, 19], "the first in full, the rest counted");
    object.verify();
}

// proves A2, A10
#[test]
fn whoever_starts_the_machine_by_force_is_refused_and_recorded() {
    let rules = OPEN.replace(
        "resource);\n@id(\"admit\")",
        "resource)\nwhen { context.trigger.kind != \"boot\" };\n@id(\"admit\")",
    );
    let object = Object::new("", &[rules.as_str(), STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    let (data, dir) = (object.data(), object.dir());
    for _ in 0..5 {
        let mut init = object.command(env!("CARGO_BIN_EXE_suijuris"));
        init.args(["__init", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .arg("--object")
            .arg(dir);
        let ran = crate::rig::run(&mut init).code(1);
        assert!(
            ran.err.contains("refuse") && !ran.err.contains("woke"),
            "{}",
            ran.err
        );
    }
    let kinds = object.kinds();
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "woke").count(),
        1,
        "{kinds:?}"
    );
    let refused = object.records("refused");
    assert_eq!(refused.len(), 5, "{kinds:?}");
    for record in refused {
        assert_eq!(record["verdict"]["place"], "runtime", "{record}");
        assert_eq!(record["verdict"]["outcome"], "refuse", "{record}");
    }
    object.verify();
}

// proves A2, A10, C8
#[test]
fn a_bare_boot_that_the_rules_permit_serves_without_up_or_anything_of_a_platform() {
    let object = Object::new("", &[OPEN, BRIEFLY].concat());
    assert_eq!(object.up().interrupt(), Some(0));
    let mut init = object.command(env!("CARGO_BIN_EXE_suijuris"));
    init.env_clear().env("PATH", "/usr/bin:/bin");
    init.args(["__init", "--listen", "127.0.0.1:0", "--data"])
        .arg(object.data());
    let ran = crate::rig::run(init.arg("--object").arg(object.dir())).code(0);
    assert!(ran.err.contains("dormant"), "{}", ran.err);
    let woke = &object.records("woke")[0];
    assert_eq!(woke["verdict"]["outcome"], "permit", "{woke}");
    object.verify();
}

// proves A2
#[test]
fn a_restart_is_no_resumption() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    up.kill();
    object.nobody_is_left();
    let up = object.up();
    assert_eq!(up.phase(), "dormant");
    assert_eq!(started(&up), 0, "{:?}", up.events());
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.kinds().last().unwrap(), "unsealed");
    object.verify();
}

// proves A2, A12
#[test]
fn a_machine_killed_by_its_host_stays_down_until_somebody_asks() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    crate::rig::kill(up.machine_pids()[0], "KILL");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.phase(), "dormant");
    assert_eq!(started(&up), 1);
    up.get("/again").status(200);
    up.wait(json!({"event": "woke", "epoch": 2}));
    assert_eq!(up.interrupt(), Some(0));
    let kinds = object.kinds();
    assert!(
        kinds.windows(2).any(|pair| pair == ["unsealed", "woke"]),
        "{kinds:?}"
    );
    object.verify();
}

// proves A10
#[test]
fn its_owner_wakes_it_by_hand_and_is_decided_about_too() {
    let object = Object::new(OPEN_FIELD, &[OPEN, BRIEFLY, CLOSED].concat());
    let mut up = object.up();
    assert_eq!(
        object.ask(&["wake", "--json"]).code(0).json()["outcome"],
        "permit"
    );
    up.wait(json!({"event": "proposal", "by": "controller", "trigger": "manual"}));
    up.wait_event("woke");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    up.set(&json!({"open": false}));
    assert_eq!(
        object.ask(&["wake", "--json"]).code(1).json()["rules"],
        json!(["closed"])
    );
    assert_eq!(started(&up), 1);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves D3, A10
#[test]
fn only_fields_that_wake_do() {
    let memory = "[memory]\njobs = { type = { set = \"string\" }, default = [], wakes = true }\nnote = { type = \"string\", default = \"\" }\n";
    let object = Object::new(memory, &[OPEN, BRIEFLY].concat());
    let mut up = object.up();
    assert!(up.set(&json!({"note": "x"}))["patched"]["seq"].is_u64());
    up.wait(json!({"event": "mutated", "fields": ["note"]}));
    assert_eq!(started(&up), 0);
    assert!(up.set(&json!({"jobs": ["a"]}))["patched"]["seq"].is_u64());
    let proposal = up.wait_event("proposal");
    assert_eq!(proposal["trigger"], "memory", "{proposal}");
    assert_eq!(proposal["detail"], "jobs", "{proposal}");
    up.wait_event("woke");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.count(&json!({"event": "proposal", "action": "wake"})), 1);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves D2, A10
#[test]
fn timers_wake_a_sleeping_object_and_their_runs_are_recorded() {
    let timers = "[timers.tick]\nevery = \"2s\"\n[timers.never]\ncron = \"0 0 29 2 *\"\nzone = \"Europe/Berlin\"\n[gate]\nwakes = false\n";
    let object = Object::new(timers, &[OPEN, BRIEFLY].concat());
    let mut up = object.up();
    for _ in 0..2 {
        let proposal = up.wait(json!({"event": "proposal", "by": "timer", "trigger": "timer"}));
        assert_eq!(proposal["detail"], "tick");
        up.wait_event("woke");
        up.wait(json!({"event": "machine", "state": "stopped"}));
    }
    assert_eq!(up.interrupt(), Some(0));
    let fired: Vec<_> = object
        .records("woke")
        .iter()
        .map(|woke| woke["body"]["fired"]["tick"].clone())
        .collect();
    assert!(
        fired[0].as_i64().unwrap() < fired[1].as_i64().unwrap(),
        "{fired:?}"
    );
    object.verify();
}

// proves D2
#[test]
fn an_instant_wakes_once_and_so_do_runs_that_nobody_ran() {
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    let timers =
        format!("[timers.once]\nat = \"{soon:.0}\"\n[timers.skipped]\nevery = \"1s\"\nmissed = \"skip\"\n");
    let only = OPEN.replace(
        "@id(\"wake\") permit (principal, action == Action::\"wake\", resource);",
        "@id(\"wake\") permit (principal, action == Action::\"wake\", resource) when { context.trigger.kind == \"timer\" && context.trigger has name && context.trigger.name == \"once\" };",
    );
    let object = Object::new(&timers, &[only.as_str(), BRIEFLY].concat());
    assert_eq!(object.up().interrupt(), Some(0));
    // Due while nobody ran.
    until("the instant has passed", || {
        jiff::Timestamp::now() > soon + jiff::SignedDuration::from_secs(2)
    });
    let mut up = object.up();
    let proposal = up.wait(json!({"event": "proposal", "trigger": "timer"}));
    assert!(
        proposal["detail"].as_str().unwrap().contains("once"),
        "{proposal}"
    );
    up.wait_event("woke");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
    let again = object.up();
    assert_eq!(again.interrupt(), Some(0));
    assert_eq!(object.records("woke").len(), 1, "it fired once");
    object.verify();
}

// proves D6
#[test]
fn looking_never_wakes() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    let before = object.log();
    for command in [
        &["show", "--json"][..],
        &["log", "--json"],
        &["verify"],
        &["memory", "get"],
    ] {
        object.ask(command).code(0);
    }
    object.suijuris(&["ps", "--json"]).code(0);
    object
        .ask(&["what-if", "--action", "wake", "--trigger", "request", "--json"])
        .code(0);
    assert_eq!(up.phase(), "dormant");
    assert_eq!(started(&up), 0);
    assert_eq!(object.log(), before);
    assert_eq!(up.interrupt(), Some(0));
}

// proves A10, A5
#[test]
fn a_suspended_object_asks_its_rules_again_before_it_goes_on() {
    let object = Object::new("[sleep]\nmode = \"suspend\"\n", &[OPEN, BRIEFLY].concat());
    let mut up = object.up();
    up.get("/one").status(200);
    up.wait(json!({"event": "machine", "state": "suspended"}));
    assert_eq!(up.phase(), "suspended");
    assert_eq!(up.get("/two").status(200).body, "served /two\n");
    up.wait(json!({"event": "machine", "state": "resumed"}));
    up.wait(json!({"event": "verdict", "action": "wake", "outcome": "permit", "place": "runtime"}));
    up.wait(json!({"event": "resumed", "epoch": 2}));
    up.wait(json!({"event": "dormant"}));
    up.wait(json!({"event": "machine", "state": "suspended"}));
    up.get("/three").status(200);
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.kinds().last().unwrap(), "dormant");
    object.nobody_is_left();
    object.verify();
}

// proves A10, D4
#[test]
fn a_suspended_object_refuses_at_the_door_and_stays_frozen() {
    let definition = [OPEN_FIELD, "[sleep]\nmode = \"suspend\"\n"].concat();
    let object = Object::new(&definition, &[OPEN, BRIEFLY, CLOSED].concat());
    let mut up = object.up();
    up.get("/one").status(200);
    // The last thing it does before it is suspended.
    up.write(&json!({"open": false})).status(200);
    up.wait(json!({"event": "machine", "state": "suspended"}));
    let before = object.log();
    for _ in 0..5 {
        up.get("/two").problem(503, "wake_refused");
        up.wait(json!({"event": "verdict", "action": "wake", "outcome": "refuse", "place": "door"}));
    }
    let woken = up.control(&json!("wake"));
    assert_eq!(woken["verdict"]["outcome"], "refuse", "{woken}");
    assert_eq!(up.phase(), "suspended");
    assert_eq!(up.count(&json!({"event": "machine", "state": "resumed"})), 0);
    assert_eq!(object.log(), before, "its runtime holds the lock");
    // An owner's write needs the lock; the object does not let anybody wake it, so its machine is given up.
    let written = up.set(&json!({"open": true}));
    assert!(written["patched"].is_object(), "{written}");
    assert_eq!(up.phase(), "dormant");
    assert_eq!(refused_times(&object), 6, "each refusal is recorded");
    assert!(!object.received().contains("/two"));
    up.get("/three").status(200);
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.records("resumed").len(), 0);
    object.verify();
}

/// How many refusals the records stand for.
fn refused_times(object: &Object) -> u64 {
    let times = |record: &Value| {
        record["body"]["times"]
            .as_u64()
            .unwrap_or_else(|| panic!("{record}"))
    };
    object.records("refused").iter().map(times).sum()
}

// proves D4
#[test]
fn what_was_refused_while_frozen_is_recorded_by_the_runtime_that_is_thawed() {
    let rules = r#"@id("gets") permit (principal, action == Action::"admit", resource) when { context.request.method == "GET" };
        @id("wake") permit (principal, action == Action::"wake", resource);"#;
    let object = Object::new("[sleep]\nmode = \"suspend\"\n", &[rules, BRIEFLY].concat());
    let mut up = object.up();
    up.get("/one").status(200);
    up.wait(json!({"event": "machine", "state": "suspended"}));
    for _ in 0..3 {
        up.http("POST", "/two").problem(403, "admit_refused");
    }
    assert_eq!(up.count(&json!({"event": "machine", "state": "resumed"})), 0);
    up.get("/three").status(200);
    up.wait(json!({"event": "refused", "action": "admit", "times": 3}));
    up.wait(json!({"event": "resumed", "epoch": 2}));
    up.wait(json!({"event": "machine", "state": "suspended"}));
    up.http("POST", "/four").problem(403, "admit_refused");
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(refused_times(&object), 4, "what `up` ends with is recorded too");
    assert!(!object.received().contains("POST"));
    object.verify();
}

// proves D2
#[test]
fn a_timer_wakes_a_suspended_object() {
    let definition = "[sleep]\nmode = \"suspend\"\n[timers.tick]\nevery = \"2s\"\n";
    let object = Object::new(definition, &[OPEN, BRIEFLY].concat());
    let mut up = object.up();
    up.wait(json!({"event": "woke", "epoch": 1}));
    up.wait(json!({"event": "machine", "state": "suspended"}));
    up.wait(json!({"event": "proposal", "by": "timer", "trigger": "timer"}));
    up.wait(json!({"event": "resumed", "epoch": 2}));
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
    object.verify();
}

// proves D2
#[test]
fn nights_that_nobody_ran_count_as_one_and_their_number_is_told() {
    let nightly = "[timers.nightly]\ncron = \"0 3 * * *\"\nzone = \"Europe/Berlin\"\nmissed = \"once\"\n";
    let object = Object::new(nightly, &[OPEN, BRIEFLY].concat());
    let four_days_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(96);
    let built = suijuris_bundle::build(object.dir()).unwrap();
    let files = built.files();
    let creation = Creation {
        name: "probe".to_owned(),
        controllers: vec![SecretKey::from_seed(&[7; 32]).public()],
        threshold: 1,
        nonce: vec![1; 16],
        parent: None,
        class: None,
        at: Timestamp(four_days_ago.as_millisecond()),
        bundle: BundleFiles {
            manifest: files.manifest,
            governance: files.governance.into_bytes(),
            program: files.program,
        },
        seed: [1; 32].into(),
    };
    create(&ObjectDir::at(object.data()), creation).unwrap();
    let mut up = object.up();
    let proposal = up.wait(json!({"event": "proposal", "by": "timer", "trigger": "timer"}));
    assert_eq!(proposal["detail"], "nightly");
    up.wait_event("woke");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
    let woke = object.records("woke");
    assert_eq!(woke.len(), 1, "once for all nights");
    let missed = woke[0]["body"]["decision"]["inputs"]["trigger"]["missed"]
        .as_u64()
        .unwrap();
    assert!((3..=4).contains(&missed), "{}", woke[0]);
    object.verify();
}
