//! How long objects of a daemon were awake, by their records: for each, for a class, and for their rules.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, until};

const CLASS: &str = "max_instances = 100\nper_peer = 1000\nper_class = 1000";

/// Awake for a second in all its life, and asleep for good then.
const SPENT: &str = r#"
@id("budget") permit (principal, action == Action::"remain", resource) when { resource.usage.awake < duration("1s") };
@id("spent") forbid (principal, action == Action::"wake", resource) when { resource.usage.awake >= duration("1s") };
"#;

fn awake(daemon: &Daemon, object: &str) -> u64 {
    daemon.document(object)["awake_seconds"].as_u64().unwrap()
}

fn of_class(daemon: &Daemon) -> u64 {
    let classes = daemon.api("GET", "/v1/classes", &Value::Null).status(200).json();
    classes["classes"][0]["awake_seconds"].as_u64().unwrap()
}

#[test]
fn a_budget_of_time_awake_is_spent_once_and_for_all_and_dormant_objects_spend_nothing() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, SPENT].concat()));
    for key in ["a", "b"] {
        assert_eq!(daemon.get(&format!("{key}.tenant"), "/").status, 200);
    }
    for object in ["tenant/a", "tenant/b"] {
        // Its own rules put it to sleep once it is spent.
        until("it sleeps", || home.kinds(object).last().unwrap() == "dormant");
        daemon.wait_phase(object, "dormant");
        // By the daemon's clock, which begins with its machine, until the record is read.
        until("its record is read", || awake(&daemon, object) >= 1);
    }
    let spent = (awake(&daemon, "tenant/a"), of_class(&daemon));
    assert!(spent.1 >= 2, "{spent:?}");
    daemon.get("a.tenant", "/").problem(403, "wake_refused");
    daemon.terminate();

    // By the records, so that the next daemon knows, and so do commands beside it.
    let daemon = home.serve();
    daemon.get("a.tenant", "/").problem(403, "wake_refused");
    until("it is opened", || {
        awake(&daemon, "tenant/a") == spent.0 && of_class(&daemon) == spent.1
    });
    let shown = home.suijuris(&["show", "tenant/a", "--json"]).code(0).json();
    assert_eq!(shown["awake_seconds"], json!(spent.0));
    assert_eq!(shown["crashes"], json!(0));
    daemon.terminate();
    home.nobody_is_left();
}
