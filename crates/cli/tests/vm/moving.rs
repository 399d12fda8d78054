//! An object moves from one vehicle to another: by its rules, by a record of its departure and one of its arrival, with all that it has.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::rig::{Home, is_served};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn events(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn kinds(home: &Home) -> Vec<String> {
    let records = events(&home.run(&["log", "vm", "--json"]));
    let kind = |record: &Value| record["kind"].as_str().unwrap().to_owned();
    records.iter().map(kind).collect()
}

fn phase(home: &Home) -> String {
    let shown: Value = serde_json::from_str(&home.run(&["show", "vm", "--json"])).unwrap();
    shown["phase"].as_str().unwrap().to_owned()
}

/// At rest, on processes, with something to remember and a file in its volume.
fn settled() -> (Home, String) {
    let home = Home::new();
    let mut up = home.up("process");
    is_served(&up.get());
    let id = up.object.clone();
    up.event("woke", |_| true);
    assert_eq!(up.interrupt(), Some(0));
    home.run(&["memory", "set", "vm", "linger=4s"]);
    fs::write(home.data().join("volume/kept"), "kept").unwrap();
    (home, id)
}

fn moves(home: &Home, to: &str) {
    let said = events(&home.run(&["migrate", "vm", "--to-vehicle", to, "--json"]));
    let names: Vec<_> = said.iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["departed", "arrived"], "{said:?}");
    assert_eq!(said[0]["to"], to);
}

fn is_whole(home: &Home) {
    home.run(&["verify", "vm"]);
    assert_eq!(home.run(&["memory", "get", "vm", "linger"]).trim(), "4s");
    assert_eq!(
        fs::read_to_string(home.data().join("volume/kept")).unwrap(),
        "kept"
    );
}

/// Processes, a virtual machine, processes again: one id and one history, and a copy that was left behind is refused.
// proves B4
#[test]
fn an_object_moves_into_a_virtual_machine_and_back_as_itself() {
    let (home, id) = settled();
    let behind = home.object().join("behind");
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .args([home.data(), behind.clone()])
            .status()
            .unwrap()
            .success()
    );
    moves(&home, "qemu");
    is_whole(&home);
    let again = home.ask(&["migrate", "vm", "--to-vehicle", "qemu"]);
    assert_eq!(again.0, Some(2), "{again:?}");

    // It is carried by what it moved to, without being told.
    let mut up = home.up_as_it_is();
    assert_eq!(up.object, id);
    is_served(&up.get());
    up.event("machine", |event| {
        event["state"] == "started" && event["detail"].as_str().unwrap().contains("virtual machine")
    });
    up.event("machine", |event| event["state"] == "suspended");
    // While its machine is suspended it may move, too: `up` lets go of it.
    moves(&home, "process");
    assert_eq!(up.ended(), Some(0));
    is_whole(&home);

    let mut up = home.up_as_it_is();
    assert_eq!(up.object, id);
    is_served(&up.get());
    up.event("machine", |event| {
        event["state"] == "started" && !event["detail"].as_str().unwrap().contains("virtual machine")
    });
    assert_eq!(up.interrupt(), Some(0));
    is_whole(&home);
    let kinds = kinds(&home);
    let moved = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    assert_eq!((moved("departed"), moved("arrived")), (2, 2), "{kinds:?}");

    let (code, out, _) = home.ask(&["up", "vm", "--data", text(&behind), "--json"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(
        events(&out).iter().any(|event| event["reason"] == "rolled_back"),
        "{out}"
    );
}

/// Killed at any step it is one object, on one vehicle, and the same command goes on; or it is taken back to what carried it before.
#[test]
fn killed_on_its_way_to_another_vehicle_it_goes_on_or_is_taken_back() {
    let (home, _) = settled();
    let begin = std::time::Instant::now();
    moves(&home, "qemu");
    let takes = begin.elapsed();
    let mut on = "qemu";
    for round in 0_u32..16 {
        let to = if on == "qemu" { "process" } else { "qemu" };
        let mut command = home.command(&["migrate", "vm", "--to-vehicle", to]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // A fault at a moment of its own each time; nothing waits for it.
        std::thread::sleep(takes * round / 12 + Duration::from_millis(1));
        let _ = child.kill();
        child.wait().unwrap();
        match phase(&home).as_str() {
            "departed" if round % 2 == 0 => {
                home.run(&["migrate", "vm", "--back"]);
            }
            "departed" => {
                // What it is noted on already does not keep the move from being ended.
                home.run(&["migrate", "vm", "--to-vehicle", to]);
                on = to;
            }
            "dormant" if noted(&home) == to => on = to,
            "dormant" => {}
            other => panic!("{other}"),
        }
        assert_eq!(phase(&home), "dormant");
        assert_eq!(noted(&home), on, "round {round}");
        is_whole(&home);
    }
}

/// What carries it, as it is noted.
fn noted(home: &Home) -> String {
    let note = fs::read_to_string(home.data().join("vehicle"));
    note.map_or_else(|_| "process".to_owned(), |note| note.trim().to_owned())
}

#[test]
fn what_cannot_carry_it_is_said_before_it_departs() {
    let (home, _) = settled();
    let before = kinds(&home);
    let mut command = home.command(&["migrate", "vm", "--to-vehicle", "qemu"]);
    let ran = command.env("SUIJURIS_KERNEL", "/nowhere").output().unwrap();
    assert_eq!(ran.status.code(), Some(3));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("suijuris kernel install"), "{said}");
    assert_eq!(kinds(&home), before, "it has not departed");
    let rules = fs::read_to_string(home.object().join("governance.cedar")).unwrap();
    assert!(rules.contains("Action::\"migrate\""));
}
