//! The definition changes while it runs: it is shown what that would have changed, and the object decides. `--in-force` and
//! `diff`, where it refused.

use std::process::Stdio;

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, Up, until};

const CLOSED: &str =
    "\n@id(\"closed\") @reason(\"Closed.\") forbid (principal, action == Action::\"wake\", resource);";

/// An object that is never amended.
fn in_stone() -> Object {
    let fixed = OPEN.replace(
        "@id(\"amend\") permit",
        "@id(\"amend\") @reason(\"Written in stone.\") forbid",
    );
    Object::new("", &[fixed.as_str(), STAY].concat())
}

fn amended(up: &Up) -> usize {
    up.count(&json!({"event": "verdict", "action": "amend"}))
}

// proves G10
#[test]
fn what_is_saved_is_checked_shown_and_taken_by_an_object_that_sleeps() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/ok").status(200);
    assert_eq!(up.interrupt(), Some(0));

    let mut up = object.up_with(&["--watch=amend"]);
    object.file("governance.cedar", "permit (");
    up.wait(json!({"event": "error", "code": "definition_broken"}));
    assert_eq!(amended(&up), 0);
    object.file("governance.cedar", &[OPEN, STAY, CLOSED].concat());
    let shown = up.wait(json!({"event": "definition", "state": "changed"}));
    assert_eq!(shown["would_change"], 1, "{shown}");
    let woke = &shown["changed"][0];
    assert_eq!(
        (&woke["action"], &woke["was"], &woke["would_be"]),
        (&json!("wake"), &json!("permit"), &json!("refuse")),
        "{shown}"
    );
    up.wait(json!({"event": "verdict", "action": "amend", "outcome": "permit"}));
    let taken = up.wait(json!({"event": "definition", "state": "in_force"}));
    assert_eq!(taken["bundle"], shown["bundle"]);
    up.get("/").problem(403, "wake_refused");
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.records("amended").len(), 1);
    object.verify();
}

// proves G10
#[test]
fn an_object_that_is_awake_falls_asleep_for_it() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut up = object.up_with(&["--watch=amend"]);
    up.get("/ok").status(200);
    object.file("governance.cedar", &[OPEN, STAY, CLOSED].concat());
    up.wait(json!({"event": "definition", "state": "changed"}));
    up.wait_event("dormant");
    up.wait(json!({"event": "definition", "state": "in_force"}));
    up.get("/").problem(403, "wake_refused");
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves G10
#[test]
fn somebody_is_asked_first() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command
        .arg("up")
        .arg(object.dir())
        .arg("--watch")
        .stdin(Stdio::piped());
    let mut up = Up::start(command);
    object.file("governance.cedar", &[OPEN, STAY, CLOSED].concat());
    up.wait(json!({"event": "definition", "state": "changed"}));
    // It is still the old one that decides.
    up.get("/ok").status(200);
    assert_eq!(amended(&up), 0, "nobody has said so");
    up.types("no");
    up.types("a");
    up.wait(json!({"event": "definition", "state": "in_force"}));
    up.get("/").problem(403, "wake_refused");
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves G10
#[test]
fn what_the_object_refuses_is_recorded_and_it_goes_on_as_it_was() {
    let object = in_stone();
    let mut up = object.up_with(&["--watch=amend"]);
    object.file("governance.cedar", &[OPEN, STAY, CLOSED].concat());
    up.wait(json!({"event": "verdict", "action": "amend", "outcome": "refuse"}));
    let recorded = || {
        let refused = object.records("refused");
        refused.len() == 1 && refused[0]["verdict"]["action"] == "amend"
    };
    until("the refusal is recorded", recorded);
    up.get("/ok").status(200);
    assert_eq!(up.interrupt(), Some(0));

    let ran = object.up_fails(&[]).code(1);
    assert!(ran.err.contains("--in-force"), "{}", ran.err);
    let up = object.up_with(&["--in-force"]);
    up.get("/ok").status(200);
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.records("amended").len(), 0);
    object.verify();
}

#[test]
fn both_definitions_are_shown() {
    let object = in_stone();
    assert_eq!(object.up().interrupt(), Some(0));
    let same = object.ask(&["diff"]).code(0);
    assert!(same.out.contains("is in force"), "{}", same.out);

    object.file("governance.cedar", &[OPEN, STAY, CLOSED].concat());
    let path = object.dir().join("object.toml");
    let definition = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, definition + "[gate]\ndrain = \"3s\"\n").unwrap();
    let shown = object.ask(&["diff"]).code(1).out;
    for line in [
        "-gate.drain = 10000",
        "+gate.drain = 3000",
        "--- in force",
        "+@id(\"closed\") @reason(\"Closed.\")",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let json = object.ask(&["diff", "--json"]).code(1).json();
    assert_ne!(json["in_force"], json["files"]);
    assert_eq!(json["settings"][0]["setting"], "gate.drain");
    assert_eq!(
        object.ask(&["log", "--json"]).code(0).lines().len(),
        object.log().len()
    );
}
