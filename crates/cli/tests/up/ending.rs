//! An object ends for good: by its owners' word or by its own, asleep and awake, and nothing wakes it again.

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up, until};

/// Owners end it.
const END: &str = r#"
@id("end") permit (principal is Controller, action == Action::"terminate", resource);
"#;

/// Its work done, it ends itself.
const DONE: &str = r#"
@id("done") permit (principal is Self, action == Action::"terminate", resource) when { resource.memory.done };
"#;

const FIELD: &str = "[memory.done]\ntype = \"bool\"\ndefault = false\n";

fn ended(object: &Object) -> Value {
    let records = object.log();
    let last = records.last().unwrap().clone();
    assert_eq!(last["kind"], "terminated", "{last}");
    object.verify();
    last
}

/// Nothing wakes it, and nothing is recorded of who tries.
fn stays_ended(object: &Object, up: &Up) {
    let before = object.log().len();
    let problem = up.get("/").problem(410, "terminated");
    assert!(
        problem["detail"].as_str().unwrap().contains("never wakes"),
        "{problem}"
    );
    let woken = object.ask(&["wake", "--json"]).code(1).json();
    assert_eq!(woken["invariant"], "terminated", "{woken}");
    object.ask(&["memory", "set", "done=true"]).code(1);
    let again = object.ask(&["terminate", "--json"]).code(0).json();
    assert_eq!(again, json!({"outcome": "already", "phase": "terminated"}));
    assert_eq!(object.log().len(), before, "its history is closed");
}

#[test]
fn owners_end_an_object_that_rests_with_and_without_up_and_nothing_wakes_it_again() {
    let object = Object::new(FIELD, &[OPEN, STAY, END].concat());
    let mut up = object.up();
    let verdict = object.ask(&["terminate", "--json"]).code(0).json();
    assert_eq!(
        (&verdict["action"], &verdict["outcome"]),
        (&json!("terminate"), &json!("permit"))
    );
    up.wait_event("terminated");
    ended(&object);
    stays_ended(&object, &up);
    assert_eq!(
        up.count(&json!({"event": "machine"})),
        0,
        "no machine was started"
    );
    assert_eq!(up.interrupt(), Some(0));
    let up = object.up();
    stays_ended(&object, &up);
    assert_eq!(up.interrupt(), Some(0));
    let shown = object.ask(&["show", "--json"]).code(0).json();
    assert_eq!(shown["phase"], "terminated");

    let other = Object::new(FIELD, &[OPEN, STAY, END].concat());
    assert_eq!(other.up().interrupt(), Some(0));
    other.ask(&["terminate"]).code(0);
    ended(&other);
}

#[test]
fn awake_it_drains_and_ends_in_place_of_falling_asleep() {
    let object = Object::new(FIELD, &[OPEN, STAY, END].concat());
    let mut up = object.up();
    up.get("/").status(200);
    object.ask(&["terminate", "--json"]).code(0);
    up.wait_event("terminated");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    let last = ended(&object);
    assert_eq!(object.records("dormant").len(), 0);
    assert_eq!(object.records("unsealed").len(), 0, "{last}");
    stays_ended(&object, &up);
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
}

#[test]
fn without_a_rule_or_an_owners_key_nothing_ends_and_the_refusal_is_recorded() {
    let object = Object::new(FIELD, &[OPEN, STAY].concat());
    let mut up = object.up();
    let refused = |object: &Object| {
        let verdict = object.ask(&["terminate", "--json"]).code(1).json();
        assert_eq!(verdict["outcome"], "refuse", "{verdict}");
    };
    refused(&object);
    up.get("/").status(200);
    up.wait_event("woke");
    refused(&object);
    assert_eq!(up.phase(), "active");
    assert_eq!(up.interrupt(), Some(0));
    refused(&object);
    assert_eq!(object.records("terminated").len(), 0);
    let terminate = |record: &&Value| record["verdict"]["action"] == "terminate";
    assert!(object.records("refused").iter().filter(terminate).count() >= 2);

    let signed = Object::new(FIELD, &[OPEN, STAY, END].concat());
    let up = signed.up();
    std::fs::remove_file(signed.home().join(".config/suijuris/owner.key")).unwrap();
    let ran = signed.ask(&["terminate"]).code(1);
    assert!(ran.err.contains("0 of the 1 owners"), "{ran:?}");
    assert_eq!(up.interrupt(), Some(0));
    let ran = signed.ask(&["terminate"]).code(1);
    assert!(ran.err.contains("0 of the 1 owners"), "{ran:?}");
    assert_eq!(signed.records("terminated").len(), 0);
}

#[test]
fn several_owners_end_it_together() {
    let draft = Object::new("", "");
    let key = |object: &Object, name: &str| {
        let path = object.home().join(name);
        let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
        command.arg("key").env("SUIJURIS_OWNER_KEY", &path);
        (path, crate::rig::run(&mut command).code(0).out.trim().to_owned())
    };
    let ((first, first_key), (second, second_key)) = (key(&draft, "first.key"), key(&draft, "second.key"));
    let owners = format!("{FIELD}[controllers]\nkeys = [\"{first_key}\", \"{second_key}\"]\nthreshold = 2\n");
    let object = Object::new(&owners, &[OPEN, STAY, END].concat());
    let up = object.up();
    let dir = object.dir().to_str().unwrap();
    let ask = |key: &std::path::Path, args: &[&str]| {
        let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
        command.args(args).env("SUIJURIS_OWNER_KEY", key);
        crate::rig::run(&mut command)
    };
    let alone = ask(&first, &["terminate", dir]).code(1);
    assert!(alone.err.contains("1 of the 2 owners"), "{alone:?}");
    let paper = draft.home().join("end.approval");
    let paper = paper.to_str().unwrap();
    ask(&second, &["approve", dir, "--terminate", "-o", paper]).code(0);
    ask(&first, &["terminate", dir, "--approval", paper]).code(0);
    ended(&object);
    assert_eq!(up.interrupt(), Some(0));
}

// proves A13
#[test]
fn an_object_whose_work_is_done_ends_itself_awake_and_asleep() {
    let object = Object::new(FIELD, &[OPEN, STAY, DONE].concat());
    let mut up = object.up();
    up.get("/").status(200);
    up.wait_event("woke");
    assert_eq!(object.records("terminated").len(), 0);
    up.set(&json!({"done": true}));
    up.wait(json!({"event": "proposal", "action": "terminate", "by": "self"}));
    up.wait_event("terminated");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    let last = ended(&object);
    assert_eq!(last["verdict"]["rules"], json!(["done"]), "{last}");
    up.get("/").problem(410, "terminated");
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();

    let asleep = Object::new(FIELD, &[OPEN, STAY, DONE].concat());
    let mut up = asleep.up();
    asleep.ask(&["memory", "set", "done=true"]).code(0);
    up.wait(json!({"event": "proposal", "action": "terminate", "by": "self"}));
    up.wait_event("terminated");
    ended(&asleep);
    assert_eq!(
        up.count(&json!({"event": "machine"})),
        0,
        "nothing was started for it"
    );
    assert_eq!(up.interrupt(), Some(0));
}

// proves A13
#[test]
fn written_to_while_nobody_runs_it_it_ends_itself_when_somebody_does() {
    let object = Object::new(FIELD, &[OPEN, STAY, DONE].concat());
    assert_eq!(object.up().interrupt(), Some(0));
    object.ask(&["memory", "set", "done=true"]).code(0);
    assert_eq!(object.records("terminated").len(), 0);
    let mut up = object.up();
    up.wait_event("terminated");
    until("the end is recorded", || object.records("terminated").len() == 1);
    assert_eq!(up.interrupt(), Some(0));
    // Rules for anybody end nothing by themselves.
    let anybody = "permit (principal, action, resource);";
    let other = Object::new(FIELD, anybody);
    let up = other.up();
    up.set(&json!({"done": true}));
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(other.records("terminated").len(), 0);
}

/// Awake for a moment after each request.
const BRIEFLY: &str = r#"
@id("briefly") permit (principal, action == Action::"remain", resource) when {
    context.activity.in_flight > 0 || context.activity.idle < duration("300ms") };
"#;

#[test]
fn in_a_suspended_machine_it_ends_all_the_same_by_its_own_word_and_its_owners() {
    let suspend = format!("{FIELD}[sleep]\nmode = \"suspend\"\n");
    let once = r#"
@id("once") permit (principal is Self, action == Action::"terminate", resource) when { resource.lineage has last_dormant };
"#;
    let object = Object::new(&suspend, &[OPEN, BRIEFLY, once].concat());
    let mut up = object.up();
    up.get("/").status(200);
    up.wait(json!({"event": "machine", "state": "suspended"}));
    up.wait_event("terminated");
    ended(&object);
    up.get("/").problem(410, "terminated");
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();

    let other = Object::new(&suspend, &[OPEN, BRIEFLY, END].concat());
    let mut up = other.up();
    up.get("/").status(200);
    up.wait(json!({"event": "machine", "state": "suspended"}));
    other.ask(&["terminate"]).code(0);
    ended(&other);
    assert_eq!(up.interrupt(), Some(0));
    other.nobody_is_left();
}
