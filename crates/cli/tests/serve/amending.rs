//! A new definition for what a daemon serves: each object decides, a few of a class first.

use serde_json::Value;

use crate::home::{DORMANT, FOUND, Home, OPEN};

/// Owners amend.
const AMEND: &str = r#"@id("amended") permit (principal, action == Action::"amend", resource);
"#;

/// As [`DORMANT`], in other words.
const CLOSED: &str = r#"
@id("shut") forbid (principal, action == Action::"wake", resource);
"#;

const CLASS: &str = "max_instances = 100\nper_peer = 1000\nper_class = 1000";

/// A class with these rules and five instances, and what callers were refused by.
fn five(home: &Home, daemon: &crate::daemon::Daemon, rules: &str) {
    home.add(&home.class("tenant", CLASS, rules));
    for key in ["a", "b", "c", "d", "e"] {
        daemon
            .get(&format!("{key}.tenant"), "/")
            .problem(403, "wake_refused");
    }
}

/// The rule that `why` names for the last refusal of an instance.
fn refused_by(home: &Home, object: &str) -> String {
    let records = home.log(object);
    let last = records
        .iter()
        .rev()
        .find(|record| record["kind"] == "refused")
        .unwrap();
    last.to_string()
}

// proves G7
#[test]
fn all_instances_of_a_class_take_a_new_definition_a_few_first_and_new_ones_are_founded_from_it() {
    let home = Home::new();
    let daemon = home.serve();
    five(&home, &daemon, &[FOUND, OPEN, DORMANT, AMEND].concat());
    assert!(refused_by(&home, "tenant/a").contains("closed"));

    home.class("tenant", CLASS, &[FOUND, OPEN, CLOSED, AMEND].concat());
    let shown = home
        .suijuris(&["amend", "tenant", "--dry-run", "--json"])
        .code(0)
        .json();
    assert_eq!(shown["amended"], Value::Array(Vec::new()), "{shown}");
    let outcome = home
        .suijuris(&["amend", "tenant", "--canary", "20", "--json"])
        .code(0)
        .json();
    assert_eq!(outcome["amended"].as_array().unwrap().len(), 5, "{outcome}");
    for key in ["a", "e"] {
        let object = format!("tenant/{key}");
        assert!(home.kinds(&object).contains(&"amended".to_owned()), "{object}");
        daemon
            .get(&format!("{key}.tenant"), "/")
            .problem(403, "wake_refused");
        home.verify(&home.instance("tenant", key));
    }
    let again = home.suijuris(&["amend", "tenant", "--json"]).code(0).json();
    assert_eq!(again["in_force"].as_array().unwrap().len(), 5, "{again}");

    daemon.get("new.tenant", "/").problem(403, "wake_refused");
    let founded = &home.log("tenant/new")[0];
    assert_eq!(founded["bundle"], outcome["bundle"], "{founded}");
    daemon.terminate();

    // The class keeps its template.
    let daemon = home.serve();
    daemon.get("late.tenant", "/").problem(403, "wake_refused");
    assert_eq!(home.log("tenant/late")[0]["bundle"], outcome["bundle"]);
    daemon.terminate();
    home.nobody_is_left();
}

// proves G7
#[test]
fn where_the_first_refuses_the_rest_is_left_and_the_refusal_is_recorded() {
    let home = Home::new();
    let daemon = home.serve();
    five(&home, &daemon, &[FOUND, OPEN, DORMANT].concat());
    home.class("tenant", CLASS, &[FOUND, OPEN, CLOSED, AMEND].concat());
    let outcome = home
        .suijuris(&["amend", "tenant", "--canary", "20", "--json"])
        .code(1)
        .json();
    assert_eq!(outcome["refused"][0]["object"], "tenant/a", "{outcome}");
    assert_eq!(outcome["left"].as_array().unwrap().len(), 4, "{outcome}");
    let refusals = |object: &str| {
        let records = home.log(object);
        records
            .iter()
            .filter(|record| record["kind"] == "refused" && record.to_string().contains("amend"))
            .count()
    };
    assert_eq!((refusals("tenant/a"), refusals("tenant/b")), (1, 0));
    // New instances are founded as before.
    let before = home.log("tenant/a")[0]["bundle"].clone();
    daemon.get("new.tenant", "/").problem(403, "wake_refused");
    assert_eq!(home.log("tenant/new")[0]["bundle"], before);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn a_class_that_is_amended_while_instances_are_born_has_each_of_them_once_and_by_one_of_its_definitions() {
    let home = Home::new();
    let daemon = home.serve();
    five(&home, &daemon, &[FOUND, OPEN, DORMANT, AMEND].concat());
    home.class("tenant", CLASS, &[FOUND, OPEN, CLOSED, AMEND].concat());
    let over = std::sync::atomic::AtomicBool::new(false);
    let born = std::thread::scope(|scope| {
        let (daemon, over) = (&daemon, &over);
        let born = scope.spawn(move || {
            let mut born = Vec::new();
            while !over.load(std::sync::atomic::Ordering::Relaxed) && born.len() < 80 {
                let key = format!("n{}", born.len());
                let problem = daemon
                    .get(&format!("{key}.tenant"), "/")
                    .problem(403, "wake_refused");
                born.push((key, problem["object"].clone()));
            }
            born
        });
        home.suijuris(&["amend", "tenant", "--json"]).code(0);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        born.join().unwrap()
    });
    println!("{} were born meanwhile", born.len());
    for (key, object) in &born {
        let again = daemon
            .get(&format!("{key}.tenant"), "/")
            .problem(403, "wake_refused");
        assert_eq!(again["object"], *object, "{key}");
    }
    assert_eq!(home.keys("tenant").len(), 5 + born.len());
    assert_eq!(home.names_in_depot(), home.keys("tenant"));
    daemon.get("later.tenant", "/").problem(403, "wake_refused");
    assert!(refused_by(&home, "tenant/later").contains("shut"));
    daemon.terminate();
    for key in home.keys("tenant") {
        home.verify(&home.instance("tenant", &key));
    }
}
