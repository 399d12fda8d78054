//! The control API, byte by byte: who may reach it, what it refuses, how events are followed.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, STAY};
use crate::http::{read_head, send};

const JSON: (&str, &str) = ("content-type", "application/json");
const HOST: (&str, &str) = ("host", "localhost");

#[test]
fn the_socket_is_this_users_alone_and_goes_with_the_daemon() {
    let home = Home::new();
    let daemon = home.serve();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&daemon.control), 0o600);
    assert_eq!(mode(daemon.control.parent().unwrap()), 0o700);
    let control = daemon.control.clone();
    daemon.terminate();
    assert!(!control.exists());
}

#[test]
fn what_is_no_request_of_this_api_is_refused_by_its_fault() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let get = |path: &str, headers: &[(&str, &str)]| daemon.api_with("GET", path, headers, "");
    for host in [
        "example.org",
        "127.0.0.1",
        "localhost.example.org",
        "hello.localhost",
        "",
    ] {
        get("/v1", &[("host", host)]).problem(421, "unknown_host");
    }
    get("/v1", &[HOST]).status(200);
    for route in [
        "/",
        "/v1/",
        "/v2",
        "/v1/nothing",
        "/v1/objects/hello/nothing",
        "/v1/../v1",
    ] {
        get(route, &[HOST]).problem(404, "no_such_route");
    }
    for unknown in [
        "/v1/objects/nobody",
        "/v1/classes/nobody/instances/a",
        "/v1/objects/%2e%2e",
    ] {
        get(unknown, &[HOST]).problem(404, "unknown_object");
    }
    let wake = "/v1/objects/hello/wake";
    for media in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
    ] {
        daemon
            .api_with("POST", wake, &[HOST, ("content-type", media)], "{}")
            .problem(415, "bad_request");
    }
    daemon
        .api_with("POST", wake, &[HOST], "{}")
        .problem(415, "bad_request");
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"signed\": 1}",
        "{\"more\": true}",
        "\u{0}",
    ] {
        daemon
            .api_with("POST", wake, &[HOST, JSON], body)
            .problem(400, "bad_request");
    }
    let patch = "/v1/objects/hello/memory";
    for body in ["{}", "{\"patch\": 1}", "{\"patch\": {\"set\": {}}, \"x\": 1}"] {
        daemon
            .api_with("PATCH", patch, &[HOST, JSON], body)
            .problem(400, "bad_request");
    }
    for (query, what) in [
        ("after=x", "after"),
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("limit=0", "limit"),
    ] {
        let problem = get(&format!("/v1/objects?{query}"), &[HOST]).problem(400, "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains(what), "{problem}");
    }
    for bundle in ["!", "AAAA", ""] {
        let add = json!({
            "name": "x",
            "bundle": {"manifest": bundle, "governance": "", "program": bundle},
            "owners": {"controllers": [], "threshold": 0},
        });
        daemon
            .api("POST", "/v1/objects", &add)
            .problem(400, "bad_request");
    }
    daemon.wait_phase("hello", "dormant");
    assert_eq!(daemon.count(&json!({"event": "machine"})), 0);
    let listed = daemon.api("GET", "/v1/objects", &Value::Null).status(200).json();
    assert_eq!(listed["objects"].as_array().unwrap().len(), 1, "{listed}");
    daemon.terminate();
}

#[test]
fn a_body_beyond_all_bounds_is_refused_and_the_daemon_lives() {
    let home = Home::new();
    let daemon = home.serve();
    let body = " ".repeat((32 << 20) + 1);
    let answer = daemon.api_with("POST", "/v1/objects", &[HOST, JSON], &body);
    answer.problem(413, "body_too_large");
    daemon.api("GET", "/v1", &Value::Null).status(200);
    daemon.terminate();
}

#[test]
fn pages_end_and_miss_nobody() {
    let home = Home::new();
    let daemon = home.serve();
    let class = "max_instances = 100\nper_peer = 100\nper_class = 100";
    home.add(&home.class("tenant", class, &[FOUND, OPEN, crate::home::DORMANT].concat()));
    for n in 0..7 {
        daemon
            .get(&format!("k{n}.tenant"), "/")
            .problem(403, "wake_refused");
    }
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let (mut after, mut found, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let path = format!("/v1/objects?class=tenant&limit=3{after}");
        let list = daemon.api("GET", &path, &Value::Null).status(200).json();
        let keys = list["objects"].as_array().unwrap().iter();
        found.extend(keys.map(|one| one["key"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(next) = list["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    found.sort();
    assert_eq!((pages, found), (3, (0..7).map(|n| format!("k{n}")).collect()));
    let classes = daemon.api("GET", "/v1/classes", &Value::Null).status(200).json();
    assert_eq!(classes["classes"][0]["instances"], 7, "{classes}");
    daemon.terminate();
}

/// Follows events until one is `last`; their numbers and documents.
fn follow(daemon: &Daemon, after: Option<u64>, last: impl Fn(&Value) -> bool) -> Vec<(u64, Value)> {
    let mut socket = daemon.control();
    let number = after.map(|after| after.to_string());
    let mut headers = vec![HOST];
    headers.extend(number.as_deref().map(|number| ("last-event-id", number)));
    send(&mut socket, "GET", "/v1/events", &headers, "");
    let head = read_head(&mut socket).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    read_events(socket, last)
}

fn read_events(socket: impl Read, last: impl Fn(&Value) -> bool) -> Vec<(u64, Value)> {
    let (mut found, mut id) = (Vec::new(), 0);
    for line in BufReader::new(socket).lines() {
        let line = line.unwrap();
        if let Some(number) = line.strip_prefix("id: ") {
            id = number.parse().unwrap();
        } else if let Some(data) = line.strip_prefix("data: ") {
            found.push((id, serde_json::from_str(data).unwrap()));
            if last(&found[found.len() - 1].1) {
                return found;
            }
        }
    }
    panic!("the stream ended: {found:?}");
}

#[test]
fn events_are_followed_and_resumed_where_a_reader_was() {
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    home.suijuris(&["wake", "hello"]).code(0);
    daemon.wait(json!({"event": "woke"}));
    home.suijuris(&["sleep", "hello"]).code(0);
    daemon.wait(json!({"event": "dormant"}));
    let all = follow(&daemon, Some(0), |event| event["event"] == "dormant");
    let numbers: Vec<u64> = all.iter().map(|(number, _)| *number).collect();
    let expected: Vec<u64> = (1..=u64::try_from(all.len()).unwrap()).collect();
    assert_eq!(numbers, expected, "none is left out");
    let woke = all.iter().find(|(_, event)| event["event"] == "woke").unwrap();
    assert_eq!(woke.1["name"], "hello");
    let rest = follow(&daemon, Some(woke.0), |event| event["event"] == "dormant");
    assert_eq!(
        rest[..],
        all[usize::try_from(woke.0).unwrap()..],
        "what came after it"
    );
    // The same events as on standard output.
    let printed: Vec<Value> = daemon.events()[1..=all.len()].to_vec();
    let streamed: Vec<Value> = all.into_iter().map(|(_, event)| event).collect();
    assert_eq!(printed, streamed);
    // Without a number: from now on.
    let mut socket = daemon.control();
    send(&mut socket, "GET", "/v1/events", &[HOST], "");
    read_head(&mut socket).unwrap();
    home.suijuris(&["wake", "hello"]).code(0);
    let fresh = read_events(socket, |event| event["event"] == "woke");
    assert_eq!(fresh[fresh.len() - 1].1["epoch"], 2, "{fresh:?}");
    assert!(fresh[0].0 > u64::try_from(streamed.len()).unwrap(), "{fresh:?}");
    daemon.terminate();
}

#[test]
fn reaching_the_socket_makes_nobody_an_owner() {
    let owners = OPEN.replace(
        r#"permit (principal, action == Action::"mutate", resource);"#,
        r#"permit (principal is Controller, action == Action::"mutate", resource);"#,
    );
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.object("hello", &[owners.as_str(), STAY].concat()));
    for phase in ["dormant", "active"] {
        let set = json!({"patch": {"set": {"note": "by nobody"}}});
        let answer = daemon.api("PATCH", "/v1/objects/hello/memory", &set);
        assert!(!answer.body.contains("patched"), "{answer:?}");
        let mut stranger = home.command(env!("CARGO_BIN_EXE_suijuris"));
        stranger.env("SUIJURIS_OWNER_KEY", home.path().join("none.key"));
        let ran = crate::ran::run(stranger.args(["memory", "set", "hello", "note=by-host"]));
        assert_eq!(ran.code, 1, "{ran:?}");
        let got = home.suijuris(&["memory", "get", "hello", "note"]).code(0).out;
        assert!(!got.contains("by"), "{phase}: {got}");
        home.suijuris(&["memory", "set", "hello", "note="]).code(0);
        let record = home
            .log("hello")
            .into_iter()
            .rfind(|record| record["kind"] == "mutated")
            .unwrap();
        assert!(record.to_string().contains("controller"), "{record}");
        if phase == "dormant" {
            home.suijuris(&["wake", "hello"]).code(0);
            daemon.wait(json!({"event": "woke"}));
        }
    }
    daemon.terminate();
}
