//! Instances that slept as long as their class says go into the archive, and first use brings them back as themselves.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, STAY, names, until};

const CLASS: &str = "max_instances = 100\narchive_after = \"1m\"";

/// The shortest time that a class can say, on a machine that is slow.
const LONG: Duration = Duration::from_secs(300);

#[track_caller]
fn wait_archived(daemon: &Daemon, name: &str) {
    let deadline = Instant::now() + LONG;
    while daemon.document(name)["phase"] != "archived" {
        assert!(Instant::now() < deadline, "{}", daemon.document(name));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn who_slept_long_is_archived_and_first_use_brings_the_same_object_back() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, STAY].concat()));
    for key in ["a", "b", "busy"] {
        daemon.get(&format!("{key}.tenant"), "/").status(200);
    }
    let first = daemon.document("tenant/a")["object"].clone();
    home.suijuris(&["memory", "set", "tenant/a", "note=kept"]).code(0);
    std::fs::write(home.instance("tenant", "a").join("volume/file"), b"kept too").unwrap();
    for key in ["a", "b"] {
        home.suijuris(&["sleep", &format!("tenant/{key}")]).code(0);
    }
    let before = home.log("tenant/a");
    for key in ["a", "b"] {
        wait_archived(&daemon, &format!("tenant/{key}"));
        assert!(!home.instance("tenant", key).exists());
    }
    assert_eq!(
        daemon.document("tenant/busy")["phase"],
        "active",
        "it never slept"
    );
    assert_eq!(
        names(&home.root().join("archived/tenant"))
            .iter()
            .filter(|name| name.ends_with(".sui"))
            .count(),
        2
    );
    let listed = home
        .suijuris(&["ps", "--phase", "archived", "--json"])
        .code(0)
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");

    // The next daemon knows them, and leaves them where they are.
    daemon.terminate();
    let daemon = home.serve();
    assert_eq!(daemon.document("tenant/a")["phase"], "archived");
    daemon.get("a.tenant", "/").status(200);
    assert_eq!(daemon.document("tenant/a")["object"], first);
    assert_eq!(
        std::fs::read(home.instance("tenant", "a").join("volume/file")).unwrap(),
        b"kept too"
    );
    let after = home.log("tenant/a");
    assert_eq!(after[..before.len()], before[..], "the same history goes on");
    let note = home.suijuris(&["memory", "get", "tenant/a", "note"]).code(0);
    assert_eq!(note.out.trim(), "kept");
    home.verify(&home.instance("tenant", "a"));
    // Whoever looks at one uses it.
    home.suijuris(&["show", "tenant/b"]).code(0);
    assert!(home.instance("tenant", "b").exists());
    assert!(names(&home.root().join("archived/tenant")).is_empty());
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn killed_while_it_archives_an_instance_is_there_once() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, STAY].concat()));
    let keys = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"];
    for key in keys {
        // One client founds so many a second and no more.
        until("an instance is founded", || {
            daemon.get(&format!("{key}.tenant"), "/").status == 200
        });
    }
    let id = |daemon: &Daemon, key: &str| daemon.document(&format!("tenant/{key}"))["object"].clone();
    let before: Vec<Value> = keys.iter().map(|key| id(&daemon, key)).collect();
    for key in keys {
        home.suijuris(&["sleep", &format!("tenant/{key}")]).code(0);
    }
    // As soon as the first goes, while others are on their way.
    let deadline = Instant::now() + LONG;
    while names(&home.root().join("archived/tenant")).is_empty() {
        assert!(Instant::now() < deadline, "nobody is archived");
        std::thread::sleep(Duration::from_millis(2));
    }
    daemon.kill();
    let daemon = home.serve();
    for (key, object) in keys.iter().zip(&before) {
        daemon.get(&format!("{key}.tenant"), "/").status(200);
        assert_eq!(id(&daemon, key), *object);
        home.verify(&home.instance("tenant", key));
    }
    assert!(names(&home.root().join("archived/tenant")).is_empty());
    daemon.terminate();
    home.nobody_is_left();
}

/// With a timer that comes after the time to archive.
const TIMED: &str = "[timers.tick]\nevery = \"80s\"\n";

#[test]
fn a_timer_is_never_lost_to_the_archive_neither_one_that_an_amendment_brought() {
    let home = Home::new();
    let daemon = home.serve();
    let amend = "@id(\"amend\") permit (principal is Controller, action == Action::\"amend\", resource);\n";
    let rules = [FOUND, OPEN, STAY, amend].concat();
    let timed = format!("{CLASS}\n{TIMED}");
    home.add(&home.class("tenant", CLASS, &rules));
    home.add(&home.class("clock", &timed, &rules));
    home.add(&home.class("late", CLASS, &rules));
    for name in ["tenant", "clock", "late"] {
        daemon.get(&format!("a.{name}"), "/").status(200);
        home.suijuris(&["sleep", &format!("{name}/a")]).code(0);
        daemon.wait_phase(&format!("{name}/a"), "dormant");
    }
    let dir = home.class("late", &timed, &rules);
    home.suijuris(&["amend", "late", dir.to_str().unwrap()]).code(0);
    wait_archived(&daemon, "tenant/a");
    for name in ["clock", "late"] {
        assert_ne!(
            daemon.document(&format!("{name}/a"))["phase"],
            "archived",
            "{name}"
        );
        let fired = serde_json::json!({"event": "proposal", "class": name, "trigger": "timer"});
        until("its timer proposes to wake it", || daemon.count(&fired) > 0);
    }
    assert!(names(&home.root().join("archived/clock")).is_empty());
    daemon.terminate();
    home.nobody_is_left();
}
