//! An object moves: it departs, by its rules, and one copy arrives. Killed anywhere between, it is one object still.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, Up};

const MOVE: &str = r#"
@id("move") permit (principal is Controller, action == Action::"migrate", resource);
"#;

const NOTE: &str = "[memory.note]\ntype = \"string\"\n";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An object with a note and a file in its volume, at rest.
fn settled(rules: &str) -> (Object, String) {
    let object = Object::new(NOTE, rules);
    let up = object.up();
    let id = up.id.clone();
    up.get("/").status(200);
    up.set(&json!({"note": "travels"}));
    assert_eq!(up.interrupt(), Some(0));
    (object, id)
}

fn there(object: &Object, data: &Path) -> Up {
    let mut command: Command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("up").arg(object.dir()).arg("--data").arg(data);
    Up::start(command)
}

fn kinds(object: &Object, data: &Path) -> Vec<String> {
    let records = object.suijuris(&["log", text(data), "--json"]).code(0).lines();
    let kind = |record: &serde_json::Value| record["kind"].as_str().unwrap().to_owned();
    records.iter().map(kind).collect()
}

fn phase(object: &Object, data: &Path) -> String {
    let shown = object.suijuris(&["show", text(data), "--json"]).code(0).json();
    shown["phase"].as_str().unwrap().to_owned()
}

// proves B4
#[test]
fn an_object_departs_arrives_in_another_directory_and_lives_on_there_alone() {
    let (object, id) = settled(&[OPEN, STAY, MOVE].concat());
    let data = object.home().join("elsewhere");
    let events = object
        .ask(&["migrate", "--to-dir", text(&data), "--json"])
        .code(0)
        .lines();
    let names: Vec<_> = events.iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["departed", "arrived"], "{events:?}");
    let received = |data: &Path| std::fs::read(data.join("volume/received")).unwrap();
    assert_eq!(received(&data), received(&object.data()), "its volume came along");
    assert_eq!(phase(&object, &object.data()), "departed");
    object.ask(&["migrate", "--back"]).code(1);
    let left = object.up_fails(&[]).code(1).lines();
    assert!(
        left.iter().any(|event| event["reason"] == "rolled_back"),
        "{left:?}"
    );

    let up = there(&object, &data);
    assert_eq!(up.id, id);
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    let kinds = kinds(&object, &data);
    assert!(
        kinds.windows(2).any(|pair| pair == ["departed", "arrived"]),
        "{kinds:?}"
    );
    object.suijuris(&["verify", text(&data)]).code(0);
}

#[test]
fn what_refuses_to_move_stays_as_it_is_and_says_why() {
    let rules =
        "@id(\"settled\") @reason(\"I stay.\") forbid (principal, action == Action::\"migrate\", resource);";
    let (object, _) = settled(&[OPEN, STAY, rules].concat());
    let data = object.home().join("elsewhere");
    let ran = object.ask(&["migrate", "--to-dir", text(&data)]).code(1);
    assert!(ran.out.contains("I stay."), "{ran:?}");
    assert!(!data.exists());
    assert_eq!(phase(&object, &object.data()), "dormant");
    assert_eq!(
        object.records("refused").last().unwrap()["verdict"]["action"],
        "migrate"
    );
    let up = object.up();
    up.get("/").status(200);
    // Running, it falls asleep to be asked, and goes on.
    let running = object.ask(&["migrate", "--to-dir", text(&data)]).code(1);
    assert!(running.out.contains("I stay."), "{running:?}");
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn in_a_capsule_it_arrives_once_or_is_taken_back_and_never_both() {
    let (object, id) = settled(&[OPEN, STAY, MOVE].concat());
    let file = object.home().join("moved.sui");
    object.ask(&["migrate", "--to", text(&file)]).code(0);
    assert!(object.home().join("moved.sui.volume").exists());
    assert_eq!(phase(&object, &object.data()), "departed");
    // Departed, it wakes nowhere: not here, and not in a copy that has not arrived.
    let up = object.up();
    up.get("/").problem(503, "departed");
    object.ask(&["memory", "set", "note=late"]).code(1);
    object.ask(&["terminate"]).code(1);
    assert_eq!(up.interrupt(), Some(0));
    object.ask(&["memory", "set", "note=late"]).code(1);
    assert_eq!(kinds(&object, &object.data()).last().unwrap(), "departed");
    let foreign = object.home().join("foreign");
    let foreign_depot = object.home().join("other-depot");
    let ran = object.suijuris(&[
        "import",
        text(&file),
        "--data",
        text(&foreign),
        "--depot",
        &format!("file://{}", text(&foreign_depot)),
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(
        phase(&object, &foreign),
        "departed",
        "a depot that does not know it"
    );

    let (first, second) = (object.home().join("first"), object.home().join("second"));
    object
        .suijuris(&["import", text(&file), "--data", text(&first)])
        .code(0);
    assert_eq!(phase(&object, &first), "dormant");
    assert_eq!(
        std::fs::read(first.join("volume/received")).unwrap(),
        std::fs::read(object.data().join("volume/received")).unwrap()
    );
    object
        .suijuris(&["import", text(&file), "--data", text(&second)])
        .code(1);
    object.ask(&["migrate", "--back"]).code(1);
    let up = there(&object, &first);
    assert_eq!(up.id, id);
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));

    // Taken back before anybody arrived, the capsule is worth nothing.
    let (other, _) = settled(&[OPEN, STAY, MOVE].concat());
    let file = other.home().join("moved.sui");
    other
        .ask(&["migrate", "--to", text(&file), "--leave-volume"])
        .code(0);
    let late = other.home().join("late");
    other.ask(&["migrate", "--back"]).code(0);
    other
        .suijuris(&["import", text(&file), "--data", text(&late)])
        .code(1);
    let up = other.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    other.verify();
}

#[test]
fn killed_anywhere_on_its_way_it_is_one_object_and_goes_on() {
    let (object, id) = settled(&[OPEN, STAY, MOVE].concat());
    let began = std::time::Instant::now();
    let whole = object.home().join("whole");
    object.ask(&["migrate", "--to-dir", text(&whole)]).code(0);
    let takes = began.elapsed();
    let mut at = whole;
    let (mut departed, mut moved) = (0, 0);
    for round in 0_u32..16 {
        let next = object.home().join(format!("round-{round}"));
        let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
        command.args(["migrate", text(&at), "--to-dir", text(&next)]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // A fault at a moment of its own each time; nothing waits for it.
        std::thread::sleep(takes * round / 12 + Duration::from_millis(1));
        let _ = child.kill();
        child.wait().unwrap();
        let (here, there) = (phase(&object, &at), next.join("lineage").exists());
        let arrived = there && phase(&object, &next) == "dormant";
        assert!(!(here == "dormant" && arrived), "two of one in round {round}");
        match (here.as_str(), arrived) {
            ("dormant", false) => {}
            ("departed", true) => {
                let back = object.suijuris(&["migrate", text(&at), "--back"]);
                if back.code == 0 {
                    // It was killed before the mark followed its arrival: that copy is refused for good.
                    let twin = object.suijuris(&["memory", "set", text(&next), "note=twin"]);
                    assert_eq!(twin.code, 1, "{twin:?}");
                } else {
                    moved += 1;
                    assert_eq!(back.code, 1, "{back:?}");
                    at = next;
                }
            }
            ("departed", false) if round % 2 == 0 => {
                departed += 1;
                object.suijuris(&["migrate", text(&at), "--back"]).code(0);
                if there {
                    let late = object.suijuris(&["migrate", text(&next), "--back"]);
                    assert_eq!(late.code, 1, "{late:?}");
                }
            }
            ("departed", false) => {
                departed += 1;
                object
                    .suijuris(&["migrate", text(&at), "--to-dir", text(&next)])
                    .code(0);
                at = next;
            }
            other => panic!("{other:?}"),
        }
        object.suijuris(&["verify", text(&at)]).code(0);
    }
    let note = object.suijuris(&["memory", "get", text(&at), "note"]).code(0);
    assert_eq!(note.out.trim(), "travels", "{departed} departed, {moved} moved");
    let up = there(&object, &at);
    assert_eq!(up.id, id);
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
}
