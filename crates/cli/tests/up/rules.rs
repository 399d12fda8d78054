//! The definition changes: the object decides about that too, and stays the same object.

use serde_json::json;

use crate::rig::{OPEN, Object, STAY};

fn id(object: &Object) -> String {
    object.ask(&["show", "--json"]).code(0).json()["object"]
        .as_str()
        .unwrap()
        .to_owned()
}

// proves B9, A1
#[test]
fn an_amendment_that_is_permitted_is_recorded_and_changes_no_identity() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    let before = up.id.clone();
    assert_eq!(up.interrupt(), Some(0));
    let closed = "@id(\"closed\") forbid (principal, action == Action::\"wake\", resource);";
    object.file("governance.cedar", &[OPEN, STAY, closed].concat());
    let mut up = object.up();
    assert_eq!(up.id, before);
    up.wait(json!({"event": "verdict", "action": "amend", "outcome": "permit"}));
    up.get("/").problem(403, "wake_refused");
    up.wait(json!({"event": "refused", "action": "wake", "rules": ["closed"]}));
    assert_eq!(up.interrupt(), Some(0));
    let amended = object.records("amended");
    assert_eq!(amended.len(), 1);
    assert_eq!(amended[0]["verdict"]["action"], "amend");
    object.verify();
    assert_eq!(id(&object), before);
}

// proves B9, A1
#[test]
fn an_object_may_refuse_to_be_amended() {
    let fixed = OPEN.replace(
        "@id(\"amend\") permit",
        "@id(\"amend\") @reason(\"Written in stone.\") forbid",
    );
    let object = Object::new("", &[fixed.as_str(), STAY].concat());
    let up = object.up();
    let before = up.id.clone();
    assert_eq!(up.interrupt(), Some(0));
    let log = object.log();
    object.file("governance.cedar", &[OPEN, STAY].concat());
    let ran = object.up_fails(&[]).code(1);
    assert!(ran.out.contains("Written in stone."), "{}", ran.out);
    assert!(!ran.out.contains("listening"), "{}", ran.out);
    assert_eq!(
        object
            .log()
            .iter()
            .filter(|record| record["kind"] == "amended")
            .count(),
        0
    );
    assert_eq!(log[0], object.log()[0]);
    let refused = object.records("refused");
    assert_eq!(refused.len(), 1, "the refusal is recorded: {refused:?}");
    assert_eq!(refused[0]["verdict"]["action"], "amend");
    object.file("governance.cedar", &[fixed.as_str(), STAY].concat());
    let up = object.up();
    assert_eq!(up.id, before, "with its own rules it goes on");
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves B9
#[test]
fn somebody_elses_key_does_not_amend() {
    let object = Object::new("", &[OPEN, STAY].concat());
    assert_eq!(object.up().interrupt(), Some(0));
    std::fs::remove_file(object.home().join(".config/suijuris/owner.key")).unwrap();
    object.file("governance.cedar", OPEN);
    let ran = object.suijuris(&["up", object.dir().to_str().unwrap(), "--json"]);
    assert!(ran.code == 1 || ran.code == 3, "{ran:?}");
    assert!(!ran.out.contains("listening"), "{}", ran.out);
    assert_eq!(object.records("amended").len(), 0);
    object.verify();
}

/// An object that two owners have, both of whom must approve; the key of one is the one that `up` finds.
fn of_two_owners() -> Object {
    let object = Object::new("", &[OPEN, STAY].concat());
    let bob = object.home().join("bob.key");
    std::fs::write(&bob, format!("{}\n", "b0".repeat(32))).unwrap();
    std::fs::set_permissions(&bob, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let alice = object.suijuris(&["key"]).code(0).out;
    let bob = object.suijuris(&["key", "--key", "bob.key"]).code(0).out;
    let keys = format!("keys = [\"{}\", \"{}\"]", alice.trim(), bob.trim());
    let path = object.dir().join("object.toml");
    let definition = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        path,
        format!("{definition}\n[controllers]\n{keys}\nthreshold = 2\n"),
    )
    .unwrap();
    assert_eq!(object.up().interrupt(), Some(0));
    object
}

// proves B9
#[test]
fn two_owners_amend_together_and_neither_alone() {
    let object = of_two_owners();
    let before = id(&object);
    object.ask(&["approve"]).code(1);
    let closed = "@id(\"closed\") forbid (principal, action == Action::\"wake\", resource);";
    object.file("governance.cedar", &[OPEN, STAY, closed].concat());

    let ran = object.up_fails(&[]).code(1);
    assert!(
        ran.out.contains("approvals_missing") && ran.out.contains("1 of the 2"),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains("listening"), "{}", ran.out);
    // Twice the same owner is one owner.
    object.ask(&["approve", "-o", "alice.approval"]).code(0);
    object.up_fails(&["--approval", "alice.approval"]).code(1);
    assert_eq!(object.records("amended").len(), 0);

    object
        .ask(&["approve", "--key", "bob.key", "-o", "bob.approval"])
        .code(0);
    let mut up = object.up_with(&["--approval", "bob.approval"]);
    up.get("/").problem(403, "wake_refused");
    up.wait(json!({"event": "refused", "action": "wake", "rules": ["closed"]}));
    assert_eq!(up.interrupt(), Some(0));
    let amended = object.records("amended");
    assert_eq!(amended.len(), 1);
    assert_eq!(amended[0]["body"]["approvals"].as_array().unwrap().len(), 2);
    assert_eq!(id(&object), before);
    object.verify();

    // What was approved once is spent: the same definition needs new approvals to come back.
    object.file("governance.cedar", &[OPEN, STAY].concat());
    object
        .ask(&["approve", "--key", "bob.key", "-o", "back.approval"])
        .code(0);
    assert_eq!(
        object.up_with(&["--approval", "back.approval"]).interrupt(),
        Some(0)
    );
    object.file("governance.cedar", &[OPEN, STAY, closed].concat());
    let ran = object.up_fails(&["--approval", "bob.approval"]).code(3);
    assert!(ran.err.contains("amended since"), "{}", ran.err);
    assert_eq!(object.records("amended").len(), 2);
    object.verify();
}

// proves B9
#[test]
fn approvals_that_are_altered_foreign_or_none_are_refused() {
    let object = of_two_owners();
    object.file("governance.cedar", OPEN);
    let ran = object.ask(&["approve", "--key", "bob.key"]).code(0);
    let good = ran.json();
    let refused = |paper: &str, why: &str| {
        std::fs::write(object.home().join("paper"), paper).unwrap();
        let ran = object.up_fails(&["--approval", "paper"]).code(3);
        assert!(ran.err.contains(why), "{paper}: {}", ran.err);
    };
    let with = |member: &str, value: &str| {
        let mut paper = good.clone();
        paper[member] = json!(value);
        paper.to_string()
    };
    refused("", "not an approval");
    refused("{}", "not an approval");
    refused(&"x".repeat(5_000), "longer than 4096 bytes");
    refused(&with("sig", &"0".repeat(128)), "signature is not valid");
    refused(&with("key", &"1".repeat(64)), "belongs to no owner of the object");
    refused(&with("object", &good["bundle"].to_string()), "for the object");
    refused(&with("bundle", "another"), "for the definition another");
    refused(&with("content", &"0".repeat(64)), "approve again");
    object.file("governance.cedar", &[OPEN, STAY, "// another text"].concat());
    refused(&good.to_string(), "approve again");
    let stranger = object.home().join("stranger.key");
    suijuris_testkit::program::copy(object.home().join("bob.key"), &stranger);
    std::fs::write(&stranger, "5e".repeat(32)).unwrap();
    let ran = object.ask(&["approve", "--key", "stranger.key"]).code(1);
    assert!(
        ran.err.contains("belongs to no owner of the object"),
        "{}",
        ran.err
    );
    assert_eq!(object.records("amended").len(), 0);
    object.verify();
}

// proves A8
#[test]
fn rules_that_do_not_fit_memory_never_start() {
    let object = Object::new(
        "[memory]\nopen = \"bool\"\n",
        &[
            OPEN,
            STAY,
            "@id(\"typo\") forbid (principal, action, resource) when { resource.memory.opne == 3 };",
        ]
        .concat(),
    );
    let ran = object.up_fails(&[]).code(3);
    assert!(
        ran.err.contains("governance.cedar") && ran.err.contains("opne"),
        "{}",
        ran.err
    );
    assert!(!object.data().join("lineage").exists(), "nothing was created");
}

// proves A9
#[test]
fn to_wake_and_to_remain_are_two_permissions() {
    let only_wake = Object::new("", OPEN);
    let mut up = only_wake.up();
    // Served or not: it sleeps again as soon as it is awake.
    assert!(matches!(up.get("/").status, 200 | 503));
    up.wait_event("woke");
    up.wait(json!({"event": "verdict", "action": "remain", "outcome": "refuse"}));
    up.wait_event("dormant");
    up.interrupt();
    let only_remain = Object::new(
        "",
        &[
            &OPEN.replace("@id(\"wake\") permit", "@id(\"wake\") forbid"),
            STAY,
        ]
        .concat(),
    );
    let up = only_remain.up();
    up.get("/").problem(403, "wake_refused");
    assert_eq!(up.interrupt(), Some(0));
}

// proves A1, A3, A8
#[test]
fn a_worker_that_counts_cannot_begin_anew_and_its_budget_ends_its_day() {
    let memory = "[memory]\ndone = { type = \"int\", default = 0 }\ncalls = { type = { counter = { window = \"366d\" } } }\n";
    let counts = r#"
@id("only-grows") forbid (principal is Workload, action == Action::"mutate", resource)
when { context.change has done && context.change.done.new < context.change.done.old };
@id("spent") @status("429") forbid (principal, action in [Action::"remain", Action::"admit"], resource)
when { resource.memory.calls >= 3 };
"#;
    let object = Object::new(memory, &[OPEN, STAY, counts].concat());
    let mut up = object.up();
    up.get("/").status(200);
    let write = |up: &crate::rig::Up, patch| up.agent("PATCH", "/v1/memory", &patch);
    write(&up, json!({"set": {"done": 2}})).status(200);
    let refused = write(&up, json!({"set": {"done": 1}}));
    assert_eq!(refused.status, 403, "{refused:?}");
    write(&up, json!({"set": {"calls": 0}})).status(422);
    write(&up, json!({"add": {"calls": 2}})).status(200);
    let calls = up
        .agent("GET", "/v1/memory/calls", &json!(null))
        .status(200)
        .json();
    assert_eq!((&calls["value"], &calls["type"]), (&json!(2), &json!("counter")));
    write(&up, json!({"add": {"calls": 1}})).status(200);
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
    let why = object
        .ask(&["why", "--action", "mutate", "--json"])
        .code(0)
        .json();
    assert_eq!(why["replay"]["same"], true, "{why}");
    assert_eq!(why["inputs"]["written"]["done"]["int"], 1, "{why}");
    object.verify();
}
