//! The same proposal has the same answer whoever carries it: a command beside a sleeping `up`, beside a waking one or with
//! none, the control socket, the agent socket, the door of `up` and one that stands alone. Who signed is who the rules see,
//! where is where, and *written* means what the witness setting says.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::outdoors::Door;
use crate::rig::{Object, Ran, STAY, Up, run};

const WAKE: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("sleep") permit (principal, action == Action::"sleep", resource);
"#;

const NOTE: &str = "[memory.note]\ntype = \"string\"\n";

/// Another owner's key of this home, and its public half.
fn key(object: &Object, name: &str) -> (PathBuf, String) {
    let path = object.home().join(name);
    let ran = run(suijuris(object, &["key"]).env("SUIJURIS_OWNER_KEY", &path)).code(0);
    (path, ran.out.trim().to_owned())
}

fn suijuris(object: &Object, args: &[&str]) -> Command {
    let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.args(args);
    command
}

/// `memory set` by the owner whose key is in this file.
fn set(object: &Object, key: &Path, assignment: &str) -> Ran {
    let dir = object.dir().to_str().unwrap();
    run(suijuris(object, &["memory", "set", dir, assignment]).env("SUIJURIS_OWNER_KEY", key))
}

fn note(object: &Object) -> String {
    object.ask(&["memory", "get", "note"]).out.trim().to_owned()
}

// proves A14
#[test]
fn a_write_under_a_rule_for_one_owners_key_is_that_owners_alone_running_or_not() {
    let draft = Object::new("", "");
    let ((first, first_key), (second, second_key)) = (key(&draft, "first.key"), key(&draft, "second.key"));
    let rules = format!(
        "{WAKE}{STAY}@id(\"second\") permit (principal is Controller, action == Action::\"mutate\", resource) \
         when {{ principal.keys.contains(\"{second_key}\") }};"
    );
    let owners = format!("{NOTE}[controllers]\nkeys = [\"{first_key}\", \"{second_key}\"]\n");
    let object = Object::new(&owners, &rules);
    let both = |carrier: &str| {
        let refused = set(&object, &first, &format!("note=first-{carrier}"));
        assert_eq!(refused.code, 1, "{carrier}: {refused:?}");
        let written = set(&object, &second, &format!("note={carrier}"));
        assert_eq!(written.code, 0, "{carrier}: {written:?}");
        assert_eq!(note(&object), carrier);
    };
    let up = object.up();
    both("asleep");
    up.get("/").status(200);
    both("awake");
    assert_eq!(up.interrupt(), Some(0));
    both("stopped");
    object.verify();
}

/// The default depot of this home, in the way of which something stands.
fn without_depot(object: &Object) {
    let depots = object.home().join(".local/share/suijuris");
    let _ = std::fs::remove_dir_all(&depots);
    std::fs::write(&depots, "no directory").unwrap();
}

// proves B12
#[test]
fn a_write_that_the_required_witness_does_not_have_is_not_said_to_be_written_running_or_not() {
    let rules =
        format!("{WAKE}{STAY}@id(\"mutate\") permit (principal, action == Action::\"mutate\", resource);");
    let object = Object::new(&format!("{NOTE}[witness]\nstrength = \"required\"\n"), &rules);
    let up = object.up();
    object.ask(&["memory", "set", "note=kept"]).code(0);
    assert_eq!(up.interrupt(), Some(0));
    without_depot(&object);
    let refused = |carrier: &str| {
        let ran = object.ask(&["memory", "set", &format!("note={carrier}")]);
        assert_eq!(ran.code, 3, "{carrier}: {ran:?}");
        let said = format!("{}{}", ran.out, ran.err);
        assert!(!said.contains("written as record"), "{carrier}: {said}");
        assert!(
            said.contains("not") && said.contains("witness"),
            "{carrier}: {said}"
        );
        assert_eq!(note(&object), "kept", "{carrier}");
    };
    refused("stopped");
    let up = object.up();
    refused("asleep");
    up.interrupt();
}

// proves A14
#[test]
fn the_rules_see_the_same_place_running_or_not() {
    let rules = format!(
        "{WAKE}{STAY}@id(\"here\") permit (principal, action == Action::\"mutate\", resource) \
         when {{ context.host.region == \"local\" && context.host.provider == \"process\" && context.host.id != \"\" }};"
    );
    let object = Object::new(NOTE, &rules);
    let in_region = |region: &str| {
        let dir = object.dir().to_str().unwrap();
        run(
            suijuris(&object, &["memory", "set", dir, &format!("note={region}")])
                .env("SUIJURIS_REGION", region),
        )
    };
    let up = object.up();
    object.ask(&["memory", "set", "note=asleep"]).code(0);
    up.get("/").status(200);
    object.ask(&["memory", "set", "note=awake"]).code(0);
    up.write(&json!({"note": "agent"})).status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.ask(&["memory", "set", "note=stopped"]).code(0);
    let supposed = object.ask(&["what-if", "--action", "mutate", "--field", "note"]);
    assert_eq!(supposed.code, 0, "{supposed:?}");
    in_region("fra").code(1);
    let mut elsewhere = suijuris(&object, &["up", object.dir().to_str().unwrap()]);
    elsewhere.env("SUIJURIS_REGION", "fra");
    let up = Up::start(elsewhere);
    object.ask(&["memory", "set", "note=fra"]).code(1);
    up.get("/").status(200);
    object.ask(&["memory", "set", "note=fra"]).code(1);
    up.write(&json!({"note": "fra"})).problem(403, "refused");
    up.interrupt();
    assert_eq!(note(&object), "stopped");
}

/// Who proposes in [`a_proposal_has_one_verdict_whoever_carries_it`], and the field that the rules let it write.
const WRITERS: [(&str, &str); 3] = [
    ("Controller", "owners"),
    ("Host", "hosts"),
    ("Workload", "workers"),
];

// proves A14
#[test]
fn a_proposal_has_one_verdict_whoever_carries_it() {
    let mut rules = format!("{WAKE}{STAY}");
    let mut fields = String::new();
    for (who, field) in WRITERS {
        rules += &format!(
            "@id(\"{field}\") permit (principal is {who}, action == Action::\"mutate\", resource) \
             when {{ [\"{field}\"].containsAll(context.fields) }};\n"
        );
        fields += &format!("[memory.{field}]\ntype = \"int\"\n");
    }
    let object = Object::new(&fields, &rules);
    let nobody = object.home().join("nobody.key");
    let mut count = 0;
    // Each carrier says who it proposes as, by what is written and what is not.
    let mut check = |carrier: &str, who: &str, write: &dyn Fn(&str, u32) -> bool| {
        for (principal, field) in WRITERS {
            count += 1;
            assert_eq!(write(field, count), principal == who, "{carrier}: {field}");
        }
    };
    let command = |field: &str, value: u32| {
        let ran = object.ask(&["memory", "set", &format!("{field}={value}")]);
        assert!(matches!(ran.code, 0 | 1), "{ran:?}");
        ran.code == 0
    };
    let stranger = |field: &str, value: u32| {
        let ran = set(&object, &nobody, &format!("{field}={value}"));
        assert!(matches!(ran.code, 0 | 1), "{ran:?}");
        ran.code == 0
    };
    let up = object.up();
    let socket = |field: &str, value: u32| up.set(&json!({field: value}))["patched"].is_object();
    check("a command, asleep", "Controller", &command);
    check("a command without an owner's key, asleep", "Host", &stranger);
    check("the socket, asleep", "Host", &socket);
    up.get("/").status(200);
    check("a command, awake", "Controller", &command);
    check("a command without an owner's key, awake", "Host", &stranger);
    check("the socket, awake", "Host", &socket);
    check("the agent socket", "Workload", &|field, value| {
        up.write(&json!({field: value})).status == 200
    });
    assert_eq!(up.interrupt(), Some(0));
    check("a command, nobody running", "Controller", &command);
    check(
        "a command without an owner's key, nobody running",
        "Host",
        &stranger,
    );
    object.verify();
}

// proves A14
#[test]
fn a_request_to_a_sleeping_object_has_one_verdict_at_either_door() {
    for (region, status) in [("local", 200), ("fra", 403)] {
        let rules = format!(
            "{STAY}@id(\"sleep\") permit (principal, action == Action::\"sleep\", resource);\
             @id(\"wake\") permit (principal, action == Action::\"wake\", resource) \
             when {{ context.host.region == \"{region}\" && context.host.provider == \"process\" }};\
             @id(\"admit\") permit (principal, action == Action::\"admit\", resource) \
             when {{ context.host.region == \"{region}\" && context.host.id != \"\" }};"
        );
        let object = Object::new("", &rules);
        let up = object.up();
        let id = up.id.clone();
        assert_eq!(up.get("/").status, status, "{region}");
        assert_eq!(up.interrupt(), Some(0));
        let door = Door::of(&object);
        let head = format!("GET /ext_authz/ HTTP/1.1\r\nhost: door\r\nx-suijuris-object: {id}");
        assert_eq!(door.ask(&head, "").0, status, "{region}");
        let supposed = object.ask(&["what-if", "--action", "wake", "--path", "/"]);
        assert_eq!(supposed.code, i32::from(status != 200), "{region}: {supposed:?}");
    }
}
