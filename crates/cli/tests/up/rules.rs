//! The definition changes: the object decides about that too, and stays the same object.

use serde_json::json;

use crate::house::{OPEN, Object, STAY};

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
    let up = object.up();
    assert_eq!(up.id, before);
    assert_eq!(
        up.count(&json!({"event": "verdict", "action": "amend", "outcome": "permit"})),
        1
    );
    let problem = up.get("/").problem(503, "wake_refused");
    assert_eq!(
        problem["rules"][0]["id"], "closed",
        "changing the rules alone turns the answer"
    );
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
    assert!(!object.data().join("lineage").exists(), "nothing was founded");
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
    up.get("/").problem(503, "wake_refused");
    assert_eq!(up.interrupt(), Some(0));
}
