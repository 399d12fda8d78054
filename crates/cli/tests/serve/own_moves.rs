//! An object moves of its own accord, to a place that its host names and its rules permit.

use std::path::Path;

use serde_json::{Value, json};

use crate::home::{Home, OPEN, STAY, names, until};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const RESIDENCY: &str = r#"
[workload]
command = ["python3", "-m", "http.server", "{port}"]
cwd = "{data}"

[memory]
home = { type = "string", default = "local" }
"#;

/// It goes where its memory says that it lives.
const GO: &str = r#"@id("go-home") permit (principal is Self, action == Action::"migrate", resource)
    when { resource.memory.home == context.target.region && context.target.region != context.host.region };
"#;

/// A home whose daemon knows a place in each of two regions.
fn home_with_places() -> Home {
    let home = Home::new();
    let recipient = home
        .suijuris(&["key", "--recipient"])
        .code(0)
        .out
        .trim()
        .to_owned();
    let place = |region: &str| {
        let dir = home.path().join(region);
        json!({"region": region, "provider": "process", "id": region, "dir": dir, "seal_to": [recipient]})
    };
    std::fs::create_dir_all(home.root()).unwrap();
    let places = json!([place("us"), place("eu")]);
    std::fs::write(home.root().join("destinations.json"), places.to_string()).unwrap();
    home
}

/// What was handed out for `region` arrives as the object `id`, with its file.
fn arrives(home: &Home, region: &str, id: &Value) {
    let file = home
        .path()
        .join(region)
        .join(format!("{}.sui", id.as_str().unwrap()));
    until("it is handed out", || file.exists());
    let data = home.path().join(format!("arrived-{}", id.as_str().unwrap()));
    let events = home
        .suijuris(&["import", text(&file), "--data", text(&data), "--json"])
        .code(0)
        .lines();
    assert_eq!(events[0]["object"], *id);
    assert_eq!(events.last().unwrap()["event"], "arrived", "{events:?}");
    let home_of = home.suijuris(&["memory", "get", text(&data), "home"]).code(0);
    assert_eq!(home_of.out.trim(), region);
    let log = home.log(text(&data));
    let departed = log.iter().find(|record| record["kind"] == "departed").unwrap();
    assert_eq!(departed["verdict"]["rules"], json!(["go-home"]), "{departed}");
    home.verify(&data);
}

// proves A13
#[test]
fn an_object_whose_residency_changed_departs_to_where_its_rules_say() {
    let home = home_with_places();
    let mut daemon = home.serve();
    let dir = home.define("nomad", RESIDENCY, &[OPEN, STAY, GO].concat());
    let add = |name: &str| {
        home.suijuris(&["add", text(&dir), "--name", name, "--json"])
            .code(0)
            .json()
    };
    let (asleep, awake) = (add("asleep"), add("awake"));
    home.suijuris(&["memory", "set", "asleep", "home=eu"]).code(0);
    daemon.wait(json!({"event": "proposal", "object": asleep["object"], "action": "migrate", "by": "self"}));
    daemon
        .wait(json!({"event": "departed", "object": asleep["object"], "to": text(&home.path().join("eu"))}));
    daemon.wait_phase("asleep", "departed");
    // While what held it goes, its host says that it stops.
    until("callers are told that it has departed", || {
        daemon.get("asleep", "/").json()["code"] == "departed"
    });
    arrives(&home, "eu", &asleep["object"]);
    assert!(names(&home.path().join("us")).is_empty());

    // Awake it is asked to sleep, and goes then.
    daemon.get("awake", "/").status(200);
    home.suijuris(&["memory", "set", "awake", "home=us"]).code(0);
    daemon.wait(json!({"event": "proposal", "object": awake["object"], "action": "sleep", "by": "host"}));
    daemon.wait(json!({"event": "departed", "object": awake["object"]}));
    daemon.wait_phase("awake", "departed");
    arrives(&home, "us", &awake["object"]);
    daemon.terminate();
    home.nobody_is_left();
}

// proves A13
#[test]
fn it_stays_where_no_place_fits_and_is_handed_out_after_a_kill() {
    let home = home_with_places();
    let mut daemon = home.serve();
    let dir = home.define("nomad", RESIDENCY, &[OPEN, STAY, GO].concat());
    let added = home.suijuris(&["add", text(&dir), "--json"]).code(0).json();
    home.suijuris(&["memory", "set", "nomad", "home=mars"]).code(0);
    daemon.get("nomad", "/").status(200);
    home.suijuris(&["sleep", "nomad"]).code(0);
    daemon.wait_phase("nomad", "dormant");
    assert_eq!(daemon.count(&json!({"event": "proposal", "by": "self"})), 0);
    home.suijuris(&["memory", "set", "nomad", "home=eu"]).code(0);
    daemon.wait(json!({"event": "departed", "name": "nomad"}));
    daemon.kill();
    let daemon = home.serve();
    daemon.wait_phase("nomad", "departed");
    arrives(&home, "eu", &added["object"]);
    daemon.terminate();
    home.nobody_is_left();
}

// proves A13
#[test]
fn awake_it_stays_where_its_rules_do_not_let_it_sleep_for_that() {
    let home = home_with_places();
    let mut daemon = home.serve();
    let busy = r#"@id("busy") forbid (principal is Host, action == Action::"sleep", resource);
"#;
    let dir = home.define("nomad", RESIDENCY, &[OPEN, STAY, GO, busy].concat());
    let added = home.suijuris(&["add", text(&dir), "--json"]).code(0).json();
    daemon.get("nomad", "/").status(200);
    home.suijuris(&["memory", "set", "nomad", "home=eu"]).code(0);
    daemon
        .wait(json!({"event": "verdict", "object": added["object"], "action": "sleep", "outcome": "refuse"}));
    daemon.get("nomad", "/").status(200);
    assert_eq!(daemon.count(&json!({"event": "departed"})), 0);
    // Whoever may put it to sleep lets it go.
    home.suijuris(&["sleep", "nomad"]).code(0);
    daemon.wait(json!({"event": "departed", "object": added["object"]}));
    daemon.wait_phase("nomad", "departed");
    arrives(&home, "eu", &added["object"]);
    daemon.terminate();
    home.nobody_is_left();
}
