//! The door as routes of the daemon: what a proxy asks, what a sender leaves, what is counted.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{Home, OPEN, STAY};
use crate::http::{Answer, read_answer, send};

fn ask(daemon: &Daemon, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut socket = daemon.control();
    send(&mut socket, method, path, headers, body);
    read_answer(&mut socket).expect("an answer")
}

/// What nginx's `auth_request` asks about a request for this path of this host.
fn check(daemon: &Daemon, host: &str, path: &str) -> Answer {
    let headers = [
        ("host", host),
        ("x-original-method", "GET"),
        ("x-original-uri", path),
    ];
    ask(daemon, "GET", "/ext_authz?mode=nginx", &headers, "")
}

const PICKY: &str = r#"@id("not-there") @reason("Not there")
forbid (principal, action == Action::"wake", resource)
when { context has request && context.request.path == "/not-there" };
"#;

// proves G9
#[test]
fn proxies_senders_and_those_who_count_find_the_door_in_the_daemon() {
    let home = Home::new();
    let mut daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    let added = home.add(&home.object("hello", &[OPEN, STAY, PICKY].concat()));
    let id = added["object"].as_str().unwrap();
    daemon.wait_phase("hello", "dormant");
    for host in [
        "hello.localhost",
        "hello.localhost:8080",
        &format!("{id}.example"),
    ] {
        let passed = check(&daemon, host, "/").status(200);
        assert_eq!(passed.header("x-suijuris-object"), Some(id), "{host}");
        assert_eq!(passed.header("x-suijuris-passed"), Some("permitted"), "{host}");
        let refused = check(&daemon, host, "/not-there");
        assert_eq!(
            (refused.status, refused.header("x-suijuris-refused")),
            (403, Some("wake_refused"))
        );
    }
    check(&daemon, "nobody.localhost", "/").status(403);
    assert_eq!(
        daemon.count(&json!({"event": "machine"})),
        0,
        "asking starts nothing"
    );
    let event = json!({"specversion": "1.0", "id": "1", "source": "/shop", "type": "t"}).to_string();
    let sent = [
        ("host", "localhost"),
        ("content-type", "application/cloudevents+json"),
    ];
    ask(&daemon, "POST", &format!("/objects/{id}/messages"), &sent, &event).status(202);
    let listed = daemon
        .api("GET", "/v1/objects/hello/messages", &Value::Null)
        .json();
    assert_eq!(listed["waiting"], 1, "{listed}");
    let here = [("host", "localhost")];
    ask(&daemon, "GET", "/healthz", &here, "").status(200);
    let counted = ask(&daemon, "GET", "/metrics", &here, "").status(200).body;
    for line in [
        "suijuris_serve_objects{phase=\"dormant\"} 1",
        "suijuris_door_answers_total{outcome=\"refused\"}",
        "# EOF",
    ] {
        assert!(counted.contains(line), "{line}: {counted}");
    }
    ask(&daemon, "GET", "/metrics", &[("host", "evil.example")], "").problem(421, "unknown_host");
    // Awake, it decides itself.
    home.suijuris(&["wake", "hello"]).code(0);
    daemon.wait(json!({"event": "woke"}));
    home.suijuris(&["sleep", "hello"]).code(0);
    daemon.terminate();
}

// proves G9
#[test]
fn the_door_on_an_address_takes_a_token_beside_the_callers_own() {
    let home = Home::new();
    let daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let token = home.suijuris(&["token", "api", "create", "proxy"]).code(0).out;
    let token = token.trim();
    daemon.wait_phase("hello", "dormant");
    let url = daemon.api_url();
    let at = |headers: &[(&str, &str)], path: &str| {
        let mut socket = std::net::TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        send(&mut socket, "GET", path, headers, "");
        read_answer(&mut socket).expect("an answer")
    };
    let asked = [
        ("host", "hello.localhost"),
        ("x-original-method", "GET"),
        ("x-original-uri", "/"),
    ];
    let bearer = format!("Bearer {token}");
    at(&asked, "/ext_authz?mode=nginx").problem(401, "token_required");
    let callers = [asked.as_slice(), &[("authorization", bearer.as_str())]].concat();
    at(&callers, "/ext_authz?mode=nginx").problem(401, "token_required");
    let shown = [asked.as_slice(), &[("x-suijuris-token", token)]].concat();
    at(&shown, "/ext_authz?mode=nginx").status(200);
    for name in ["x-suijuris-token", "authorization"] {
        at(&[("host", "localhost"), (name, &bearer)], "/metrics").status(200);
    }
    at(&[("host", "localhost")], "/metrics").problem(401, "token_required");
    daemon.terminate();
}
