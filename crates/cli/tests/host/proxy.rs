//! Apps through the proxy of the host: found by name, started by a request, stopped without one.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::rig::{Host, PATIENCE, until};

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A small web server, which answers with its name, its id and what it was sent.
const SERVER: &str = r#"
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        text = os.environ.get("FLY_MACHINE_ID", "?") + "\n" + self.command + " " + self.path + "\n" + str(self.headers) + "\n" + body.decode()
        self.send_response(500 if self.path == "/sick" else 200)
        for name, value in [p.split("=", 1) for p in os.environ.get("ANSWER", "").split("|") if p]:
            self.send_header(name, value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"#;

/// The config of a machine that serves HTTP at `port`; `more` changes its service.
pub(crate) fn config(port: u16, env: &Value, more: &Value) -> Value {
    let mut service = json!({"protocol": "tcp", "internal_port": port, "ports": [
        {"port": 80, "handlers": ["http"]}, {"port": 443, "handlers": ["tls", "http"]}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        service[key] = value.clone();
    }
    let mut all = json!({"PORT": port.to_string()});
    for (key, value) in env.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    json!({"image": "host:python3", "init": {"exec": ["/usr/bin/env", "python3", "-c", SERVER]}, "restart": {"policy": "no"},
        "env": all, "services": [service]})
}

/// A machine of `app` that serves; started.
pub(crate) fn serve(host: &Host, app: &str, env: &Value, more: &Value) -> String {
    let config = config(free_port(), env, more);
    let made = host
        .post(&format!("/apps/{app}/machines"), &json!({ "config": config }))
        .is(200);
    let id = made["id"].as_str().unwrap().to_owned();
    wait(host, app, &id, "started");
    id
}

pub(crate) fn wait(host: &Host, app: &str, id: &str, state: &str) {
    until(state, || {
        host.get(&format!("/apps/{app}/machines/{id}")).is(200)["state"] == state
    });
}

/// Status, head in lower case, and body of one request through the proxy.
pub(crate) fn ask(at: &str, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), head.to_lowercase(), body.to_owned())
}

pub(crate) fn get(host: &Host, app: &str, path: &str, fields: &str) -> (u16, String, String) {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {app}.localhost\r\n{fields}Connection: close\r\n\r\n");
    ask(&host.proxy[0], &request)
}

pub(crate) fn with_proxy(more: &[&str]) -> Host {
    let mut args = vec!["--no-rate-limit", "--proxy", "127.0.0.1:0"];
    args.extend(more);
    Host::start_with(&args)
}

// proves F3
#[test]
fn an_app_is_reached_by_its_name_and_started_by_a_request() {
    let host = with_proxy(&[]);
    host.app("a");
    let (status, _, body) = get(&host, "a", "/", "");
    assert_eq!(status, 404);
    assert!(body.contains("no_service"), "{body}");
    let id = serve(&host, "a", &json!({}), &json!({}));
    let (status, head, body) = get(&host, "a", "/x?y", "Fly-Client-IP: 6.6.6.6\r\n");
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with(&format!("{id}\nGET /x?y\n")), "{body}");
    assert!(body.to_lowercase().contains("fly-client-ip: 127.0.0.1"), "{body}");
    assert!(
        !body.contains("6.6.6.6") && head.contains("fly-request-id: "),
        "{head}"
    );
    host.post(&format!("/apps/a/machines/{id}/stop"), &json!({}))
        .is(200);
    wait(&host, "a", &id, "stopped");
    let (status, _, body) = get(&host, "a", "/", "");
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with(&id));
    let machine = host.get(&format!("/apps/a/machines/{id}")).is(200);
    let started_by: Vec<_> = machine["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["source"] == "proxy")
        .collect();
    assert!(!started_by.is_empty(), "{machine}");
    let asked = std::process::Command::new("curl")
        .args(["-s", "--unix-socket"])
        .arg(host.data().join("host.sock"))
        .arg("http://localhost/metrics")
        .output()
        .unwrap();
    let counted = String::from_utf8(asked.stdout).unwrap();
    for line in [
        "fly_edge_http_responses_count{app=\"a\",status=\"200\"} 2",
        "suijuris_proxy_starts_total{app=\"a\",outcome=\"started\"} 1",
    ] {
        assert!(counted.contains(line), "{counted}");
    }
    let (status, _, body) = get(&host, "nobody", "/", "");
    assert_eq!(status, 404);
    assert!(body.contains("unknown_app"), "{body}");
}

#[test]
fn a_cordoned_machine_gets_nothing_and_autostart_can_be_off() {
    let host = with_proxy(&["--hold", "5"]);
    host.app("a");
    let id = serve(&host, "a", &json!({}), &json!({"autostart": false}));
    host.post(&format!("/apps/a/machines/{id}/cordon"), &json!({}))
        .is(200);
    assert_eq!(get(&host, "a", "/", "").0, 503);
    host.post(&format!("/apps/a/machines/{id}/uncordon"), &json!({}))
        .is(200);
    assert_eq!(get(&host, "a", "/", "").0, 200);
    host.post(&format!("/apps/a/machines/{id}/stop"), &json!({}))
        .is(200);
    wait(&host, "a", &id, "stopped");
    let (status, head, body) = get(&host, "a", "/", "");
    assert_eq!(status, 503);
    assert!(
        body.contains("no_candidate") && head.contains("retry-after: 1"),
        "{head}{body}"
    );
    assert_eq!(
        host.get(&format!("/apps/a/machines/{id}")).is(200)["state"],
        "stopped"
    );
}

// proves F3
#[test]
fn without_traffic_a_machine_rests_and_a_request_wakes_it() {
    let host = with_proxy(&["--autostop-every", "1"]);
    host.app("a");
    let stops = serve(&host, "a", &json!({}), &json!({"autostop": "stop"}));
    host.app("b");
    let stays = serve(
        &host,
        "b",
        &json!({}),
        &json!({"autostop": "stop", "min_machines_running": 1}),
    );
    host.app("c");
    let suspends = serve(&host, "c", &json!({}), &json!({"autostop": "suspend"}));
    wait(&host, "a", &stops, "stopped");
    wait(&host, "c", &suspends, "suspended");
    assert_eq!(get(&host, "a", "/", "").0, 200);
    assert_eq!(get(&host, "c", "/", "").0, 200);
    assert_eq!(
        host.get(&format!("/apps/b/machines/{stays}")).is(200)["state"],
        "started"
    );
}

#[test]
fn an_app_replays_to_another() {
    let host = with_proxy(&[]);
    host.app("a");
    host.app("b");
    let router = serve(
        &host,
        "a",
        &json!({"ANSWER": "fly-replay=app=b;state=hello"}),
        &json!({}),
    );
    let target = serve(&host, "b", &json!({}), &json!({}));
    host.post(&format!("/apps/b/machines/{target}/stop"), &json!({}))
        .is(200);
    wait(&host, "b", &target, "stopped");
    let body = "x".repeat(70_000);
    let request = format!(
        "POST /deep HTTP/1.1\r\nHost: a.localhost\r\nfly-replay-src: forged\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, _, answer) = ask(&host.proxy[0], &request);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.starts_with(&format!("{target}\nPOST /deep")), "{answer}");
    assert!(
        answer.contains(&format!("instance={router};region=fra;t=")),
        "{answer}"
    );
    assert!(
        answer.contains(";state=hello") && !answer.contains("forged"),
        "{answer}"
    );
    assert!(answer.ends_with(&body), "the body came along");
}

// proves F3
#[test]
fn a_machine_whose_checks_fail_gets_nothing() {
    let host = with_proxy(&[]);
    host.app("a");
    let check = |path: &str| json!({"checks": [{"type": "http", "path": path, "interval": "1s", "timeout": "1s", "grace_period": "0s"}]});
    let sick = serve(&host, "a", &json!({}), &check("/sick"));
    until("nobody is left", || get(&host, "a", "/", "").0 == 503);
    let well = serve(&host, "a", &json!({}), &check("/well"));
    until("the other serves", || get(&host, "a", "/", "").0 == 200);
    for _ in 0..8 {
        assert!(get(&host, "a", "/", "").2.starts_with(&well));
    }
    let state = host.get(&format!("/apps/a/machines/{sick}")).is(200)["state"].clone();
    assert_eq!(
        state, "started",
        "checks decide where requests go, and nothing else"
    );
}

/// A machine of `app` in `region`, started.
fn serve_in(host: &Host, app: &str, region: &str, env: &Value) -> String {
    let config = config(free_port(), env, &json!({}));
    let asked = json!({ "config": config, "region": region });
    let made = host.post(&format!("/apps/{app}/machines"), &asked).is(200);
    let id = made["id"].as_str().unwrap().to_owned();
    wait(host, app, &id, "started");
    id
}

// proves F3
#[test]
fn each_region_has_an_edge_of_its_own_and_replays_cross() {
    let host = with_proxy(&["--proxy", "127.0.0.1:0,region=iad"]);
    host.app("a");
    let fra = serve_in(&host, "a", "fra", &json!({}));
    let iad = serve_in(&host, "a", "iad", &json!({}));
    host.app("r");
    serve_in(
        &host,
        "r",
        "fra",
        &json!({"ANSWER": "fly-replay=app=a;region=iad"}),
    );
    let at = |edge: usize, app: &str, fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {app}.localhost\r\n{fields}Connection: close\r\n\r\n");
        let (status, _, body) = ask(&host.proxy[edge], &request);
        assert_eq!(status, 200, "{body}");
        body
    };
    for _ in 0..4 {
        assert!(at(0, "a", "").starts_with(&fra) && at(1, "a", "").starts_with(&iad));
    }
    assert!(at(1, "a", "").contains("fly-region: iad"));
    assert!(at(0, "a", "fly-prefer-region: iad\r\n").starts_with(&iad));
    let replayed = at(0, "r", "");
    assert!(
        replayed.starts_with(&iad) && replayed.contains("fly-region: fra"),
        "{replayed}"
    );
}

// proves F3
#[test]
fn raw_connections_go_to_the_app_that_serves_the_port() {
    let host = with_proxy(&["--proxy", "127.0.0.1:0,port=7000"]);
    host.app("a");
    let ports = json!({"ports": [{"port": 7000, "handlers": []}]});
    let id = serve(&host, "a", &json!({}), &ports);
    host.post(&format!("/apps/a/machines/{id}/stop"), &json!({}))
        .is(200);
    wait(&host, "a", &id, "stopped");
    let request = "GET /raw HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n";
    let (status, _, body) = ask(&host.proxy[1], request);
    assert!(
        status == 200 && body.starts_with(&format!("{id}\nGET /raw")),
        "{body}"
    );
    assert!(!body.contains("fly-client-ip"), "nothing is added to raw bytes");
    let (status, _, body) = ask(
        &host.proxy[0],
        "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n",
    );
    assert!(status == 404 && body.contains("no_service"), "{body}");
}

// proves C14
#[test]
fn what_the_proxy_refuses_tells_nothing_of_machines_and_their_secrets_are_in_no_list() {
    const SECRET: &str = "environment-in-confidence";
    let host = with_proxy(&["--hold", "1"]);
    host.app("a");
    host.app("another-app");
    let port = free_port();
    let config = config(port, &json!({"KEY": SECRET}), &json!({"autostart": false}));
    let made = host
        .post("/apps/a/machines", &json!({ "config": config }))
        .is(200);
    let id = made["id"].as_str().unwrap().to_owned();
    wait(&host, "a", &id, "started");
    assert_eq!(get(&host, "a", "/", "").0, 200);
    let secret = |path: std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(SECRET)
    };
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        assert!(!secret(process.path().join("cmdline")), "{process:?}");
        // Its own environment is the machine's, and of nobody else.
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        assert!(
            !secret(process.path().join("environ")) || name.starts_with("python3"),
            "{name}"
        );
    }
    host.post(&format!("/apps/a/machines/{id}/stop"), &json!({}))
        .is(200);
    wait(&host, "a", &id, "stopped");
    let answers = [
        get(&host, "a", "/", "Authorization: Bearer in-confidence\r\n"),
        get(&host, "another-app", "/", ""),
        get(&host, "nobody", "/", ""),
        get(&host, "a", "/", "Fly-Force-Instance-Id: 0000000000000a\r\n"),
    ];
    let data = host.data().display().to_string();
    for (status, head, body) in answers {
        assert!(status >= 400, "{status} {body}");
        for secret in [SECRET, "in-confidence", &id, &port.to_string(), &data] {
            assert!(
                !head.contains(secret) && !body.contains(secret),
                "{secret}: {head}\n{body}"
            );
        }
    }
}

#[test]
fn idle_connections_cost_little_and_keep_nobody_out() {
    const IDLE: usize = 800;
    /// What a connection that had a request may take, KiB.
    const EACH_KIB: usize = 96;
    let host = with_proxy(&[]);
    host.app("a");
    serve(
        &host,
        "a",
        &json!({}),
        &json!({"concurrency": {"type": "requests"}}),
    );
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    until("it is served", || get(&host, "a", "/", "").0 == 200);
    let before = memory();
    let mut open = Vec::new();
    for number in 0..IDLE {
        let mut stream = TcpStream::connect(&host.proxy[0]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // One in eight says nothing at all.
        if number % 8 != 0 {
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
                .unwrap();
            assert_ne!(stream.read(&mut [0; 4_096]).unwrap(), 0);
        }
        open.push(stream);
    }
    assert_eq!(get(&host, "a", "/", "").0, 200);
    let grown = memory().saturating_sub(before);
    assert!(grown < IDLE * EACH_KIB, "{grown} KiB for {IDLE} connections");
}
