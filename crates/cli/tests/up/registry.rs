//! Objects that travel through a registry.

use serde_json::json;
use suijuris_testkit::registry::Real;

use crate::rig::{OPEN, Object, STAY, Up};

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

fn lived() -> Object {
    let object = Object::new("[memory.note]\ntype = \"string\"\n", &format!("{OPEN}{STAY}"));
    let up = object.up();
    up.set(&json!({"note": "by registry"}));
    assert_eq!(up.interrupt(), Some(0));
    object
}

// proves B4
#[test]
fn an_object_is_pushed_and_pulled_and_goes_on_elsewhere() {
    let real = Real::open();
    let object = lived();
    let tag = format!("{}/team/probe:v1", real.address);
    let pushed = object
        .suijuris(&["push", text(object.dir()), &tag, "--json"])
        .code(0)
        .json();
    let head = object.ask(&["show", "--json"]).code(0).json()["head"].clone();
    assert_eq!(pushed["head"], head);
    // By tag into a file, and by digest into data.
    let file = object.home().join("pulled.sui");
    let pulled = object
        .suijuris(&["pull", &tag, "-o", text(&file), "--json"])
        .code(0)
        .json();
    assert_eq!((&pulled["digest"], &pulled["head"]), (&pushed["digest"], &head));
    object.suijuris(&["verify", text(&file)]).code(0);
    object.suijuris(&["pull", &tag, "-o", text(&file)]).code(2);
    let digest = pushed["digest"].as_str().unwrap();
    let data = object.home().join("elsewhere");
    let by_digest = format!("{}/team/probe@{digest}", real.address);
    let imported = object
        .suijuris(&["pull", &by_digest, "--data", text(&data), "--json"])
        .code(0)
        .json();
    assert_eq!((&imported["head"], &imported["wakes"]), (&head, &json!(true)));
    let left: Vec<_> = std::fs::read_dir(object.home())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with(".pull")),
        "{left:?}"
    );
    let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("up").arg(object.dir()).arg("--data").arg(&data);
    let up = Up::start(command);
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn an_image_is_named_as_subject_and_what_does_not_hold_is_not_pushed() {
    let real = Real::open();
    let object = lived();
    let (image, tag) = (
        format!("{}/shop:image", real.address),
        format!("{}/shop:probe", real.address),
    );
    // Any manifest can stand in for the image.
    let stand_in = object
        .suijuris(&["push", text(object.dir()), &image, "--json"])
        .code(0)
        .json();
    let pushed = object
        .suijuris(&["push", text(object.dir()), &tag, "--subject", &image, "--json"])
        .code(0)
        .json();
    assert_eq!(pushed["subject"], stand_in["digest"]);
    let file = object.home().join("probe.sui");
    object.ask(&["export", "-o", text(&file)]).code(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let bad = format!("{}/shop:bad", real.address);
    object.suijuris(&["push", text(&file), &bad]).code(1);
    object.suijuris(&["pull", &bad, "-o", "bad.sui"]).code(3);
    // A reference that is none, and a registry that is not there.
    object.suijuris(&["push", text(object.dir()), "shop"]).code(2);
    let ran = object
        .suijuris(&["pull", "127.0.0.1:1/shop:v1", "-o", "none.sui"])
        .code(3);
    assert!(ran.err.contains("cannot be reached"), "{}", ran.err);
    assert!(!object.home().join("none.sui").exists());
}
