//! An object leaves its daemon by its own rules, and what is to be kept of it is kept; killed on the way, nothing is lost and
//! nothing is there twice.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, MOVE, OPEN, STAY, names, until};

const CLASS: &str = "max_instances = 100\nper_peer = 1000\nper_class = 1000";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn path(value: &Value) -> PathBuf {
    value.as_str().unwrap_or_else(|| panic!("a path: {value}")).into()
}

/// What the archive of the daemon has of an object comes back as itself, its volume included.
#[track_caller]
fn comes_back(home: &Home, capsule: &Path, id: &Value) -> PathBuf {
    let data = home.path().join("back");
    let imported = home
        .suijuris(&["import", text(capsule), "--data", text(&data), "--json"])
        .code(0)
        .lines();
    assert_eq!(imported[0]["object"], *id, "{imported:?}");
    assert!(
        imported.iter().any(|event| event["event"] == "arrived"),
        "{imported:?}"
    );
    home.verify(&data);
    data
}

#[test]
fn an_object_that_is_awake_is_put_to_sleep_and_kept_as_a_capsule_with_its_volume() {
    let home = Home::new();
    let mut daemon = home.serve();
    let dir = home.object("hello", &[OPEN, STAY, MOVE].concat());
    let added = home.add(&dir);
    home.suijuris(&["memory", "set", "hello", "note=kept"]).code(0);
    daemon.get("hello", "/").status(200);
    std::fs::write(path(&added["data"]).join("volume/file"), b"kept too").unwrap();
    let removed = home.suijuris(&["remove", "hello", "--json"]).code(0).json();
    assert_eq!(removed["object"], added["object"]);
    daemon.wait(json!({"event": "dormant", "name": "hello"}));
    daemon.wait(json!({"event": "departed", "name": "hello", "to": "archive"}));
    daemon.get("hello", "/").problem(404, "unknown_object");
    assert!(!path(&added["data"]).exists());
    assert!(names(&home.root().join("removed")).is_empty());
    let capsule = path(&removed["capsule"]);
    assert!(capsule.starts_with(home.root().canonicalize().unwrap().join("archive")));
    let back = comes_back(&home, &capsule, &added["object"]);
    assert_eq!(std::fs::read(back.join("volume/file")).unwrap(), b"kept too");
    let note = home.suijuris(&["memory", "get", text(&back), "note"]).code(0);
    assert_eq!(note.out.trim(), "kept");
    // The name is free, for another object.
    assert_ne!(home.add(&dir)["object"], added["object"]);
    daemon.get("hello", "/").status(200);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn what_refuses_to_sleep_or_to_leave_stays_and_says_why() {
    let home = Home::new();
    let daemon = home.serve();
    let stays =
        r#"@id("settled") @reason("I stay.") forbid (principal, action == Action::"migrate", resource);"#;
    let awake =
        r#"@id("busy") @reason("I am busy.") forbid (principal, action == Action::"sleep", resource);"#;
    home.add(&home.object("settled", &[OPEN, STAY, MOVE, stays].concat()));
    home.add(&home.object("busy", &[OPEN, STAY, MOVE, awake].concat()));
    home.add(&home.object("silent", &[OPEN, STAY].concat()));
    daemon.get("busy", "/").status(200);
    for (name, reason) in [
        ("settled", "I stay."),
        ("busy", "I am busy."),
        ("silent", "migrate"),
    ] {
        let refused = home.suijuris(&["remove", name]).code(1);
        assert!(refused.out.contains(reason), "{refused:?}");
        daemon.get(name, "/").status(200);
    }
    assert_eq!(
        home.suijuris(&["remove", "settled", "--json"]).code(1).json()["rules"],
        json!(["settled"])
    );
    assert!(names(&home.root().join("archive")).is_empty());
    // Nobody's key is here: it is asked by the host, whom no rule lets.
    let mut stranger = home.command(env!("CARGO_BIN_EXE_suijuris"));
    stranger.env("SUIJURIS_OWNER_KEY", home.path().join("none.key"));
    let ran = crate::ran::run(stranger.args(["remove", "silent", "--forget"])).code(1);
    assert!(ran.err.contains("sent as the host"), "{ran:?}");
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn by_force_it_goes_against_its_rules_and_its_history_says_that_the_host_did_it() {
    let home = Home::new();
    let daemon = home.serve();
    let awake =
        r#"@id("busy") @reason("I am busy.") forbid (principal, action == Action::"sleep", resource);"#;
    let added = home.add(&home.object("busy", &[OPEN, STAY, awake].concat()));
    daemon.get("busy", "/").status(200);
    let removed = home
        .suijuris(&["remove", "busy", "--force", "--json"])
        .code(0)
        .json();
    daemon.get("busy", "/").problem(404, "unknown_object");
    let data = home.path().join("back");
    let capsule = path(&removed["capsule"]);
    let imported = home.suijuris(&["import", text(&capsule), "--data", text(&data), "--json"]);
    assert_eq!(imported.code(0).json()["object"], added["object"]);
    let kinds = home.kinds(text(&data));
    assert_eq!(kinds.last().unwrap(), "quarantined", "{kinds:?}");
    let last = home.log(text(&data)).pop().unwrap();
    assert!(last.to_string().contains("removed by its host"), "{last}");
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn what_is_forgotten_leaves_nothing_and_rules_can_tell() {
    let home = Home::new();
    let daemon = home.serve();
    let kept = r#"@id("kept") @reason("Not without a copy.") forbid (principal, action == Action::"migrate", resource)
        when { context.target.provider == "nowhere" };"#;
    home.add(&home.object("dear", &[OPEN, STAY, MOVE, kept].concat()));
    let added = home.add(&home.object("cheap", &[OPEN, STAY, MOVE].concat()));
    let refused = home.suijuris(&["remove", "dear", "--forget"]).code(1);
    assert!(refused.out.contains("Not without a copy."), "{refused:?}");
    let gone = home
        .suijuris(&["remove", "cheap", "--forget", "--json"])
        .code(0)
        .json();
    assert_eq!(gone["capsule"], Value::Null);
    assert!(!path(&added["data"]).exists() && names(&home.root().join("archive")).is_empty());
    let file = home.path().join("dear.sui");
    let removed = home
        .suijuris(&["remove", "dear", "--to", text(&file), "--json"])
        .code(0)
        .json();
    assert_eq!(removed["capsule"], text(&file));
    home.verify(&file);
    daemon.terminate();
}

#[test]
fn the_key_of_a_removed_instance_stays_taken_until_an_owner_frees_it() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, STAY, MOVE].concat()));
    daemon.get("acme.tenant", "/").status(200);
    let first = daemon.document("tenant/acme")["object"].clone();
    let removed = home.suijuris(&["remove", "tenant/acme", "--json"]).code(0).json();
    assert_eq!(removed["object"], first);
    daemon.get("acme.tenant", "/").problem(410, "removed");
    daemon.terminate();

    let daemon = home.serve();
    daemon.get("acme.tenant", "/").problem(410, "removed");
    daemon.get("other.tenant", "/").status(200);
    assert_eq!(home.keys("tenant"), ["other"]);
    let stranger = home.path().join("stranger.key");
    let ran = home.suijuris(&["remove", "--free", "tenant/other"]).code(3);
    assert!(ran.err.contains("in use"), "{ran:?}");
    let free = |key: &Path| {
        let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
        command.env("SUIJURIS_OWNER_KEY", key);
        crate::ran::run(command.args(["remove", "--free", "tenant/acme"]))
    };
    assert!(free(&stranger).code(3).err.contains("no owner's key"));
    crate::ran::run(
        home.command(env!("CARGO_BIN_EXE_suijuris"))
            .arg("key")
            .env("SUIJURIS_OWNER_KEY", &stranger),
    )
    .code(0);
    let ran = free(&stranger).code(3);
    assert!(ran.err.contains("not an owner"), "{ran:?}");
    daemon.get("acme.tenant", "/").problem(410, "removed");
    home.suijuris(&["remove", "--free", "tenant/acme"]).code(0);
    daemon.get("acme.tenant", "/").status(200);
    assert_ne!(daemon.document("tenant/acme")["object"], first);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn what_has_ended_for_good_is_removed_without_being_asked() {
    let home = Home::new();
    let daemon = home.serve();
    let end = r#"@id("end") permit (principal is Controller, action == Action::"terminate", resource);"#;
    home.add(&home.object("done", &[OPEN, STAY, end].concat()));
    home.suijuris(&["terminate", "done"]).code(0);
    let removed = home.suijuris(&["remove", "done", "--json"]).code(0).json();
    home.verify(&path(&removed["capsule"]));
    daemon.get("done", "/").problem(404, "unknown_object");
    daemon.terminate();
}

/// How an instance stands, in whichever step its removal was cut off.
fn stands(home: &Home, daemon: &Daemon, key: &str) -> &'static str {
    let shown = daemon.api(
        "GET",
        &format!("/v1/classes/tenant/instances/{key}"),
        &Value::Null,
    );
    let archived = names(&home.root().join("archive"));
    match shown.status {
        200 if shown.json()["phase"] == "departed" => "departed",
        200 => "here",
        _ if archived.iter().any(|name| name.ends_with(".sui")) => "gone",
        _ => "lost",
    }
}

#[test]
fn killed_anywhere_on_its_way_out_nothing_is_lost_and_nothing_twice() {
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, STAY, MOVE].concat()));
    let mut found = std::collections::BTreeMap::<&str, u32>::new();
    // Each round halves what lies between the latest moment at which nothing had happened and the earliest at which
    // all had; so the rounds gather at the steps between, however fast this machine is.
    let (mut early, mut late) = (Duration::ZERO, None);
    for round in 0_u32..40 {
        if round >= 12 && found.len() > 1 {
            break;
        }
        let moment = late.map_or(early * 2 + Duration::from_millis(1), |late| (early + late) / 2);
        let key = format!("k{round}");
        daemon.get(&format!("{key}.tenant"), "/").status(200);
        let name = format!("tenant/{key}");
        let id = daemon.document(&name)["object"].clone();
        std::fs::write(home.instance("tenant", &key).join("volume/file"), b"kept").unwrap();
        let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
        command
            .args(["remove", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // A fault at a moment of its own each time; nothing waits for it.
        std::thread::sleep(moment);
        daemon.kill();
        child.wait().unwrap();
        daemon = home.serve();
        until("what was under way is finished", || {
            names(&home.root().join("removed")).is_empty()
        });
        let how = stands(&home, &daemon, &key);
        *found.entry(how).or_default() += 1;
        if how == "here" {
            early = moment;
        } else {
            late = Some(moment);
        }
        match how {
            "gone" => {}
            "here" | "departed" => {
                home.suijuris(&["remove", &name]).code(0);
            }
            other => panic!("{other} in round {round}"),
        }
        daemon.get(&format!("{key}.tenant"), "/").problem(410, "removed");
        let capsule = home.root().join(format!("archive/{}.sui", id.as_str().unwrap()));
        let back = comes_back(&home, &capsule, &id);
        assert_eq!(std::fs::read(back.join("volume/file")).unwrap(), b"kept");
        std::fs::remove_dir_all(back).unwrap();
        std::fs::remove_dir_all(home.root().join("archive")).unwrap();
    }
    assert!(found.len() > 1, "killed at one step alone: {found:?}");
    daemon.terminate();
    home.nobody_is_left();
}
