//! The control API on an address: nobody without a token, nothing beyond its scope, no page of a browser, and no stream that
//! outlives the token.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{Home, OPEN, PATIENCE, STAY};
use crate::http::{Answer, read_answer, read_head, send};

/// One request at the address of the API.
fn at_address(daemon: &Daemon, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut socket = connect(daemon);
    send(&mut socket, method, path, headers, body);
    read_answer(&mut socket).expect("an answer")
}

fn connect(daemon: &Daemon) -> TcpStream {
    let address = daemon.api_url();
    let socket = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn made(home: &Home, name: &str, scope: &str) -> String {
    let ran = home
        .suijuris(&["token", "api", "create", name, "--scope", scope])
        .code(0);
    format!("Bearer {}", ran.out.trim())
}

// proves G9
#[test]
fn nobody_asks_without_a_token_nor_beyond_its_scope() {
    let home = Home::new();
    let daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let url = daemon.api_url();
    let host = ("host", url.trim_start_matches("http://"));
    let json = ("content-type", "application/json");
    let (read, operate) = (made(&home, "r", "read"), made(&home, "o", "operate"));
    let ask = |method: &str, path: &str, token: &str| {
        at_address(
            &daemon,
            method,
            path,
            &[host, json, ("authorization", token)],
            "{}",
        )
    };
    at_address(&daemon, "GET", "/v1", &[host], "").problem(401, "token_required");
    for wrong in [
        "Bearer x",
        "Bearer ",
        "Basic eDp5",
        &format!("{read}x"),
        &read.replace("Bearer ", ""),
    ] {
        let refused = ask("GET", "/v1", wrong);
        assert_eq!(
            refused.header("www-authenticate"),
            Some("Bearer error=\"invalid_token\"")
        );
        refused.problem(401, "invalid_token");
    }
    for token in [&read, &operate] {
        for path in [
            "/v1",
            "/v1/objects",
            "/v1/objects/hello/log",
            "/v1/objects/hello/state",
        ] {
            ask("GET", path, token).status(200);
        }
        // The daemon is managed where it runs.
        for (method, path) in [
            ("POST", "/v1/objects"),
            ("POST", "/v1/classes"),
            ("POST", "/v1/objects/hello/remove"),
            ("GET", "/v1/tokens"),
            ("POST", "/v1/tokens"),
            ("DELETE", "/v1/tokens/r"),
        ] {
            ask(method, path, token).problem(403, "scope_missing");
        }
    }
    for path in ["/v1/objects/hello/wake", "/v1/objects/hello/messages"] {
        ask("POST", path, &read).problem(403, "scope_missing");
    }
    ask("POST", "/v1/objects/hello/wake", &operate).status(200);
    // Neither a name of a browser's, nor anything that lets a page read what is answered.
    for foreign in ["evil.example", "localhost.evil.example", ""] {
        let asked = [("host", foreign), ("authorization", read.as_str())];
        at_address(&daemon, "GET", "/v1", &asked, "").problem(421, "unknown_host");
    }
    let page = [
        host,
        ("authorization", read.as_str()),
        ("origin", "http://evil.example"),
        ("cookie", "a=b"),
    ];
    let answer = at_address(&daemon, "GET", "/v1", &page, "").status(200);
    let revealing = |name: &str| name.starts_with("access-control") || name == "set-cookie";
    assert!(
        !answer.headers.iter().any(|(name, _)| revealing(name)),
        "{answer:?}"
    );
    let preflight = at_address(&daemon, "OPTIONS", "/v1", &page, "");
    assert_eq!(preflight.header("allow"), Some("GET"));
    preflight.problem(405, "method_not_allowed");
    daemon.terminate();
}

// proves G9
#[test]
fn a_token_that_is_revoked_in_mid_stream_ends_the_stream() {
    let home = Home::new();
    let mut daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let (revoked, kept) = (made(&home, "revoked", "read"), made(&home, "kept", "read"));
    let follow = |token: &str| {
        let mut socket = connect(&daemon);
        let headers = [
            ("host", "localhost"),
            ("authorization", token),
            ("last-event-id", "0"),
        ];
        send(&mut socket, "GET", "/v1/events", &headers, "");
        assert!(read_head(&mut socket).unwrap().starts_with("HTTP/1.1 200"));
        BufReader::new(socket)
    };
    let (mut one, mut other) = (follow(&revoked), follow(&kept));
    home.suijuris(&["wake", "hello"]).code(0);
    daemon.wait(json!({"event": "woke"}));
    until_event(&mut one, "woke");
    until_event(&mut other, "woke");
    home.suijuris(&["token", "api", "revoke", "revoked"]).code(0);
    let mut rest = Vec::new();
    one.read_to_end(&mut rest).expect("it ends by itself");
    let headers = [("host", "localhost"), ("authorization", revoked.as_str())];
    at_address(&daemon, "GET", "/v1", &headers, "").problem(401, "invalid_token");
    home.suijuris(&["sleep", "hello"]).code(0);
    until_event(&mut other, "dormant");
    let listed = home.suijuris(&["token", "api", "ls", "--json"]).code(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    home.suijuris(&["token", "api", "revoke", "revoked"]).code(1);
    daemon.terminate();
}

fn until_event(lines: &mut BufReader<TcpStream>, event: &str) {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "the stream ended before {event}"
        );
        let data = line
            .strip_prefix("data: ")
            .and_then(|data| serde_json::from_str::<Value>(data).ok());
        if data.is_some_and(|data| data["event"] == event) {
            return;
        }
    }
}

#[test]
fn tokens_outlive_the_daemon_and_are_made_without_one() {
    let home = Home::new();
    home.serve().terminate();
    let token = made(&home, "early", "read");
    let file = home.root().join("api-tokens.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(
        !kept.contains(token.trim_start_matches("Bearer suijuris_")),
        "{kept}"
    );
    let daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    let headers = [("host", "localhost"), ("authorization", token.as_str())];
    at_address(&daemon, "GET", "/v1", &headers, "").status(200);
    let again = home.suijuris(&["token", "api", "create", "early"]);
    assert!(again.code == 3 && again.err.contains("revoke it"), "{again:?}");
    daemon.terminate();
    home.suijuris(&["token", "api", "revoke", "early"]).code(0);
    let daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    at_address(&daemon, "GET", "/v1", &headers, "").problem(401, "invalid_token");
    daemon.terminate();
}
