//! Single objects and instances as commands see them through the daemon.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::home::{FOUND, Home, OPEN, STAY};
use crate::http::{read_answer, send};

#[test]
fn commands_name_an_object_by_name_id_and_directory_and_answer_as_with_files() {
    let home = Home::new();
    let daemon = home.serve();
    let added = home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let id = added["object"].as_str().unwrap();
    let data = added["data"].as_str().unwrap();
    daemon.get("hello", "/").status(200);
    home.suijuris(&["memory", "set", "hello", "note=first"]).code(0);
    home.suijuris(&["sleep", "hello"]).code(0);
    daemon.wait_phase("hello", "dormant");
    home.suijuris(&["memory", "set", id, "note=second"]).code(0);
    home.suijuris(&["memory", "set", data, "note=third"]).code(0);
    let commands: [&[&str]; 5] = [
        &["show", "--json"],
        &["log", "--json"],
        &["why", "--json"],
        &["memory", "get", "--json"],
        &["verify", "--json"],
    ];
    let asked = |name: &str| -> Vec<String> {
        let with = |command: &&[&str]| {
            let mut args = command.to_vec();
            args.insert(args.len() - 1, name);
            home.suijuris(&args).code(0).out
        };
        commands.iter().map(with).collect()
    };
    let by_name = asked("hello");
    for other in [id, data] {
        assert_eq!(asked(other), by_name, "{other}");
    }
    let memory: Value = serde_json::from_str(&by_name[3]).unwrap();
    assert!(memory.to_string().contains("third"), "{memory}");
    daemon.terminate();
    // As files: all but who runs it is the same.
    let files = asked(data);
    assert_eq!(files[1..4], by_name[1..4]);
    home.nobody_is_left();
}

#[test]
fn instances_are_named_by_class_and_key() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    daemon.get("acme.tenant", "/").status(200);
    home.suijuris(&["memory", "set", "tenant/acme", "note=mine"])
        .code(0);
    let shown = home.suijuris(&["show", "tenant/acme", "--json"]).code(0).json();
    assert_eq!(shown["object"], daemon.document("tenant/acme")["object"]);
    let ran = home.suijuris(&["memory", "get", "tenant/acme", "note"]).code(0);
    assert!(ran.out.contains("mine"), "{}", ran.out);
    home.suijuris(&["why", "tenant/acme"]).code(0);
    for unknown in ["tenant/nobody", "nobody/acme", "nobody"] {
        let ran = home.suijuris(&["show", unknown]).code(3);
        assert!(ran.err.contains("no object"), "{}", ran.err);
    }
    assert_eq!(home.keys("tenant"), ["acme"], "a command founds nothing");
    daemon.terminate();
}

#[test]
fn wake_and_sleep_go_through_the_daemon_and_its_rules() {
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let closed =
        r#"@id("closed") @reason("Closed.") forbid (principal, action == Action::"wake", resource);"#;
    home.add(&home.object("shut", &[OPEN, STAY, closed].concat()));
    for _ in 0..2 {
        home.suijuris(&["wake", "hello"]).code(0);
        daemon.wait(json!({"event": "woke", "name": "hello"}));
        daemon.wait_phase("hello", "active");
        home.suijuris(&["sleep", "hello"]).code(0);
        daemon.wait(json!({"event": "dormant", "name": "hello"}));
        daemon.wait_phase("hello", "dormant");
    }
    let refused = home.suijuris(&["wake", "shut", "--json"]).code(1).json();
    assert_eq!(refused["rules"], json!(["closed"]));
    daemon.wait_phase("shut", "dormant");
    assert_eq!(daemon.count(&json!({"event": "machine", "name": "shut"})), 0);
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn ps_lists_what_the_daemon_serves() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    home.add(&home.class("tenant", "max_instances = 9", &[FOUND, OPEN, STAY].concat()));
    daemon.get("acme.tenant", "/").status(200);
    let listed = home.suijuris(&["ps", "--json"]).code(0).json();
    let mut ids: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["object"].to_string())
        .collect();
    let mut expected = ["hello", "tenant/acme"].map(|name| daemon.document(name)["object"].to_string());
    let acme = listed.as_array().unwrap().iter().find(|one| one["key"] == "acme");
    assert_eq!(acme.unwrap()["epoch"], 1, "{listed}");
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    daemon.terminate();
}

#[test]
fn an_approval_is_handed_in_where_the_object_is_served() {
    let home = Home::new();
    let daemon = home.serve();
    let dir = home.object("hello", &[OPEN, STAY].concat());
    home.add(&dir);
    let nothing = home.suijuris(&["approve", "hello"]).code(1);
    assert!(nothing.err.contains("nothing to approve"), "{nothing:?}");
    let more = r#"@id("more") permit (principal, action == Action::"amend", resource);"#;
    std::fs::write(dir.join("governance.cedar"), [OPEN, STAY, more].concat()).unwrap();
    let approved = home.suijuris(&["approve", "hello"]).code(0);
    assert!(approved.err.contains("1 of the 1 owners needed"), "{approved:?}");
    let waiting = daemon
        .api("GET", "/v1/objects/hello/approvals", &Value::Null)
        .status(200)
        .json();
    let paper: Value = serde_json::from_str(&approved.out).unwrap();
    assert_eq!(waiting["approvals"][0]["sig"], paper["sig"], "{waiting}");
    daemon.terminate();
}

#[test]
fn names_are_taken_once() {
    let home = Home::new();
    let daemon = home.serve();
    let dir = home.object("hello", &[OPEN, STAY].concat());
    let added = home.add(&dir);
    let again = home.suijuris(&["add", dir.to_str().unwrap()]).code(3);
    assert!(again.err.contains("is there already"), "{}", again.err);
    home.suijuris(&["add", dir.to_str().unwrap(), "--name", "second"])
        .code(0);
    assert_ne!(daemon.document("second")["object"], added["object"]);
    for bad in ["A", "a.b", "..", "xn--a", "a/b", ""] {
        home.suijuris(&["add", dir.to_str().unwrap(), "--name", bad])
            .code(3);
    }
    daemon.terminate();
}

#[test]
fn up_runs_an_object_of_its_own_beside_a_daemon() {
    let home = Home::new();
    let daemon = home.serve();
    let dir = home.object("alone", &[OPEN, STAY].concat());
    let mut up = home.command(env!("CARGO_BIN_EXE_suijuris"));
    up.args(["up", "--json"]).arg(&dir).stdout(Stdio::piped());
    let mut up = up.spawn().unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let listening = lines.find_map(|line| {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        (event["event"] == "listening").then_some(event)
    });
    let listening = listening.expect("it listens");
    let address = listening["url"].as_str().unwrap();
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let mut socket = TcpStream::connect(address).unwrap();
    send(&mut socket, "GET", "/", &[("host", "alone")], "");
    read_answer(&mut socket).unwrap().status(200);
    // Whoever asks for its phase hears it from `up`, not from the daemon.
    let shown = home
        .suijuris(&["show", "--json", dir.to_str().unwrap()])
        .code(0)
        .json();
    assert_eq!(shown["phase"], "active", "{shown}");
    let ended = Command::new("kill").args(["-INT", &up.id().to_string()]).status();
    assert!(ended.unwrap().success());
    // Read on, so that its output stands in nobody's way.
    lines.for_each(drop);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    daemon.terminate();
    home.nobody_is_left();
}
