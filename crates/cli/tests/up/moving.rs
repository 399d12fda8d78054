//! Objects that travel as one file.

use std::process::Command;

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, Up};

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

// proves B4
// proves B5
#[test]
fn an_object_goes_on_elsewhere_as_itself_and_the_one_it_left_does_not() {
    let object = Object::new("[memory.note]\ntype = \"string\"\n", &format!("{OPEN}{STAY}"));
    let up = object.up();
    let id = up.id.clone();
    up.set(&json!({"note": "travels"}));
    assert_eq!(up.interrupt(), Some(0));
    let (file, again) = (object.home().join("probe.sui"), object.home().join("again.sui"));
    let data = object.home().join("elsewhere");
    let exported = object
        .ask(&["export", "-o", text(&file), "--json"])
        .code(0)
        .json();
    assert_eq!(exported["object"], json!(id));
    let imported = object
        .suijuris(&["import", text(&file), "--data", text(&data), "--json"])
        .code(0)
        .json();
    assert_eq!(imported["object"], json!(id));
    assert_eq!(imported["head"], exported["head"]);
    assert_eq!(imported["wakes"], json!(true));
    // Exported again without what is sealed afresh each time, it is the same bytes.
    let without = |dir: &str, to: &std::path::Path| {
        object
            .suijuris(&["export", dir, "-o", text(to), "--without-key", "--force"])
            .code(0);
        std::fs::read(to).unwrap()
    };
    assert_eq!(without(text(&data), &again), without(text(object.dir()), &again));
    // It goes on there, and where it came from it is refused from then on.
    let mut command: Command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("up").arg(object.dir()).arg("--data").arg(&data);
    let mut there = Up::start(command);
    assert_eq!(there.id, id);
    there.get("/").status(200);
    there.wait_event("woke");
    assert_eq!(there.interrupt(), Some(0));
    let refused = object.up_fails(&[]).code(1).lines();
    assert!(
        refused.iter().any(|event| event["reason"] == "rolled_back"),
        "{refused:?}"
    );
}

// proves B8
#[test]
fn a_capsule_is_verified_offline_and_its_first_bad_record_is_named() {
    let object = Object::new("[memory.note]\ntype = \"string\"\n", &format!("{OPEN}{STAY}"));
    let up = object.up();
    up.set(&json!({"note": "one"}));
    up.set(&json!({"note": "zwei"}));
    assert_eq!(up.interrupt(), Some(0));
    let file = object.home().join("probe.sui");
    object.ask(&["export", "-o", text(&file)]).code(0);
    let verified = object.suijuris(&["verify", text(&file), "--json"]).code(0).json();
    assert_eq!(
        (&verified["verified"], &verified["records"]),
        (&json!(true), &json!(3))
    );
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(4).position(|window| window == b"zwei").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let broken = object.suijuris(&["verify", text(&file), "--json"]).code(1).json();
    assert_eq!(
        (&broken["verified"], &broken["fault"]["seq"]),
        (&json!(false), &json!(2)),
        "{broken}"
    );
    let data = object.home().join("elsewhere");
    object
        .suijuris(&["import", text(&file), "--data", text(&data)])
        .code(1);
    assert!(!data.join("lineage").exists());
}
