//! Who gets an instance, how many, how fast.

use serde_json::json;

use crate::daemon::Daemon;
use crate::home::{DORMANT, FOUND, Home, OPEN, STAY, until};

#[test]
fn who_is_refused_an_instance_leaves_nothing() {
    let rules = r#"@id("friends") @reason("Friends only.") permit (principal, action == Action::"instantiate", resource)
when { context.key like "friend-*" };"#;
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[rules, OPEN, STAY].concat()));
    for _ in 0..3 {
        daemon.get("foe.tenant", "/").problem(403, "instantiate_refused");
        daemon
            .by_path("/o/tenant/foe/")
            .problem(403, "instantiate_refused");
    }
    assert!(home.keys("tenant").is_empty() && home.names_in_depot().is_empty());
    assert!(home.staged().is_empty());
    daemon.get("friend-1.tenant", "/").status(200);
    assert_eq!(home.keys("tenant"), ["friend-1"]);
    daemon.terminate();
}

#[test]
fn a_full_class_founds_no_more_and_still_serves() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 2", &[FOUND, OPEN, STAY].concat()));
    daemon.get("a.tenant", "/").status(200);
    daemon.get("b.tenant", "/").status(200);
    for _ in 0..3 {
        let answer = daemon.get("c.tenant", "/");
        assert!([403, 429, 503].contains(&answer.status), "{answer:?}");
    }
    daemon.get("a.tenant", "/").status(200);
    assert_eq!(home.keys("tenant"), ["a", "b"]);
    assert_eq!(home.names_in_depot(), ["a", "b"]);
    assert!(home.staged().is_empty());
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn a_class_is_not_filled_beyond_its_size_by_many_at_once() {
    let home = Home::new();
    let daemon = home.serve();
    let class = "max_instances = 3\nper_peer = 1000\nper_class = 1000";
    home.add(&home.class("tenant", class, &[FOUND, OPEN, DORMANT].concat()));
    std::thread::scope(|scope| {
        for n in 0..12 {
            let daemon = &daemon;
            scope.spawn(move || daemon.get(&format!("k{n}.tenant"), "/"));
        }
    });
    assert_eq!(home.keys("tenant").len(), 3, "{:?}", home.keys("tenant"));
    assert_eq!(home.names_in_depot().len(), 3);
    daemon.terminate();
}

#[test]
fn who_founds_too_fast_is_told_when_to_come_back() {
    let home = Home::new();
    let daemon = home.serve();
    let class = "max_instances = 1000\nper_peer = 2";
    home.add(&home.class("tenant", class, &[FOUND, OPEN, DORMANT].concat()));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..10)
            .map(|n| {
                let daemon = &daemon;
                scope.spawn(move || daemon.get(&format!("k{n}.tenant"), "/"))
            })
            .collect();
        let answers = asked.into_iter().map(|thread| thread.join().unwrap());
        answers
            .map(|answer| {
                let status = answer.status;
                if status == 429 {
                    assert_eq!(answer.header("retry-after"), Some("1"));
                    answer.problem(429, "founding_rate");
                } else {
                    answer.problem(403, "wake_refused");
                }
                status
            })
            .collect()
    });
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused > 0, "{statuses:?}");
    assert_eq!(home.keys("tenant").len() + refused, 10, "{statuses:?}");
    assert_eq!(home.names_in_depot().len() + refused, 10);
    // Who is there is no matter of how fast.
    let there = home.keys("tenant");
    for _ in 0..10 {
        daemon
            .get(&format!("{}.tenant", there[0]), "/")
            .problem(403, "wake_refused");
    }
    assert_eq!(daemon.count(&json!({"event": "machine"})), 0);
    daemon.terminate();
}

#[test]
fn where_the_disk_is_full_nothing_is_founded_and_later_it_is_founded_once() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, DORMANT].concat()));
    daemon.get("early.tenant", "/").problem(403, "wake_refused");
    daemon.terminate();

    // Files grow to 64 KiB at most, which a new history is larger than: what a full disk says (no room) comes as "file too large".
    let mut full = home.command("/bin/sh");
    full.args(["-c", "ulimit -f 128; trap '' XFSZ; exec \"$@\"", "sh"]);
    full.args([env!("CARGO_BIN_EXE_suijuris"), "serve"])
        .arg(home.root());
    full.args(["--listen", "127.0.0.1:0", "--json"]);
    let daemon = Daemon::start(full);
    for _ in 0..3 {
        daemon.get("late.tenant", "/").problem(507, "not_durable");
    }
    assert_eq!(home.keys("tenant"), ["early"]);
    assert_eq!(home.names_in_depot(), ["early"]);
    daemon.terminate();

    let daemon = home.serve();
    let object = daemon.get("late.tenant", "/").problem(403, "wake_refused")["object"].clone();
    let again = daemon.get("late.tenant", "/").problem(403, "wake_refused");
    assert_eq!(again["object"], object);
    assert_eq!(home.keys("tenant"), ["early", "late"]);
    assert_eq!(home.names_in_depot(), ["early", "late"]);
    until("nothing is staged", || home.staged().is_empty());
    daemon.terminate();
    home.verify(&home.instance("tenant", "late"));
}

#[test]
fn a_depot_that_loses_the_name_table_founds_nobody_twice() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, DORMANT].concat()));
    let object = |daemon: &Daemon, key: &str| {
        let problem = daemon
            .get(&format!("{key}.tenant"), "/")
            .problem(403, "wake_refused");
        problem["object"].clone()
    };
    let (first, second) = (object(&daemon, "a"), object(&daemon, "b"));
    let classes = home.depot().join("classes");
    std::fs::remove_dir_all(&classes).unwrap();
    // Whoever is here stays who it is, and others are founded.
    assert_eq!(object(&daemon, "a"), first);
    let third = object(&daemon, "c");
    daemon.terminate();

    std::fs::remove_dir_all(&classes).unwrap();
    let daemon = home.serve();
    for (key, is) in [("a", &first), ("b", &second), ("c", &third)] {
        assert_eq!(object(&daemon, key), *is, "{key}");
    }
    until("the table is there again", || {
        home.names_in_depot() == ["a", "b", "c"]
    });
    assert_eq!(home.keys("tenant"), ["a", "b", "c"]);
    daemon.terminate();
    for key in home.keys("tenant") {
        home.verify(&home.instance("tenant", &key));
    }
}
