//! Who decides on requests, named by a machine for its service: an app of the same org, asked each time, and nothing passes without it.

use serde_json::{Value, json};

use crate::proxy::{free_port, get, serve, wait, with_proxy};
use crate::rig::{Host, until};

/// Lets everything pass that has nothing `closed` in its path, in its own time where that is `slow`.
const JUDGE: &str = r#"
import http.server, os, time
class Judge(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if "slow" in self.path: time.sleep(30)
        self.send_response(403 if "closed" in self.path or not self.path.startswith("/check/") else 200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Judge).serve_forever()
"#;

/// A machine of `app` that decides, at a port, started.
fn judge(host: &Host, app: &str, token: &str) -> (String, u16) {
    let port = free_port();
    let config = json!({"image": "host:python3", "init": {"exec": ["/usr/bin/env", "python3", "-c", JUDGE]},
        "env": {"PORT": port.to_string()}, "restart": {"policy": "no"}});
    let headers = format!("Authorization: Bearer {token}\r\n");
    let body = json!({ "config": config }).to_string();
    let made = host.raw("POST", &format!("/apps/{app}/machines"), &headers, &body);
    let made = made.unwrap().is(200);
    until("it listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    (made["id"].as_str().unwrap().to_owned(), port)
}

fn named(host: &Host, machine: &str, key: &str, url: &str) {
    let path = format!("/apps/a/machines/{machine}/metadata");
    host.call("PUT", &path, Some(&json!({"metadata": {key: url}})))
        .is(204);
}

#[track_caller]
fn answers(host: &Host, path: &str, expected: (u16, &str)) {
    let limit = std::time::Instant::now() + crate::rig::PATIENCE;
    loop {
        let (status, _, body) = get(host, "a", path, "");
        if status == expected.0 && body.contains(expected.1) {
            return;
        }
        // The proxy may not have heard of it yet.
        assert!(std::time::Instant::now() < limit, "{path}: {status} {body}");
    }
}

#[test]
fn a_machine_names_who_decides_and_nothing_passes_or_starts_without() {
    let host = with_proxy(&["--share-network"]);
    host.app("a");
    host.app("judge");
    let id = serve(&host, "a", &json!({}), &json!({}));
    let state =
        |host: &Host| -> Value { host.get(&format!("/apps/a/machines/{id}")).is(200)["state"].clone() };
    host.post(&format!("/apps/a/machines/{id}/stop"), &json!({}))
        .is(200);
    wait(&host, "a", &id, "stopped");
    named(&host, &id, "authz", "http://judge.internal:1/check");
    answers(&host, "/", (503, "no started machine"));
    assert_eq!(
        state(&host),
        "stopped",
        "nothing is started for what nobody permits"
    );
    let (judging, port) = judge(&host, "judge", &host.token);
    let url = format!("http://judge.internal:{port}/check");
    named(&host, &id, "authz", &url);
    answers(&host, "/closed", (403, "hook_refused"));
    assert_eq!(state(&host), "stopped", "nor for what is refused");
    answers(&host, "/open", (200, "GET /open"));
    assert_eq!(state(&host), "started");
    let begun = std::time::Instant::now();
    answers(&host, "/slow", (503, "did not answer within 1 s"));
    assert!(begun.elapsed().as_secs() < 20, "the judge takes 30 s");
    // It is asked each time.
    host.post(
        &format!("/apps/judge/machines/{judging}/stop"),
        &json!({"signal": "SIGKILL"}),
    )
    .is(200);
    wait(&host, "judge", &judging, "stopped");
    answers(&host, "/open", (503, "no started machine"));

    for outside in [
        "http://127.0.0.1:1/check",
        "http://example.com/",
        "not an address",
    ] {
        named(&host, &id, "authz", outside);
        answers(&host, "/open", (503, "APP.internal"));
    }
    let made = host.suijuris(&["token", "create", "--org", "other"]);
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let headers = format!("Authorization: Bearer {token}\r\n");
    let app = json!({"app_name": "foreign", "org_slug": "other"}).to_string();
    host.raw("POST", "/apps", &headers, &app).unwrap().is(201);
    let (_, port) = judge(&host, "foreign", &token);
    named(
        &host,
        &id,
        "authz",
        &format!("http://foreign.internal:{port}/check"),
    );
    answers(&host, "/open", (503, "no started machine"));
    host.raw("DELETE", "/apps/foreign?force=true", &headers, "")
        .unwrap()
        .is(202);
    // A name for another port says nothing of this one.
    named(&host, &id, "authz_1", "http://judge.internal:1/check");
    answers(&host, "/open", (200, "GET /open"));
}

#[test]
fn an_operator_names_who_decides_on_one_port() {
    let host = with_proxy(&[
        "--authz",
        "a:443=http://127.0.0.1:1/",
        "--authz",
        "b:80=http://127.0.0.1:1/",
    ]);
    for app in ["a", "b"] {
        host.app(app);
        serve(&host, app, &json!({}), &json!({}));
    }
    answers(&host, "/open", (200, "GET /open"));
    let (status, _, body) = get(&host, "b", "/open", "");
    assert!(status == 503 && body.contains("hook_failed"), "{status}: {body}");
}
