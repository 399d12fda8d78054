//! Who may do what: tokens, scopes, rates, names of the host.

use serde_json::{Value, json};

use crate::rig::Host;

fn as_token(host: &Host, token: &str, method: &str, path: &str, body: &str) -> crate::rig::Answer {
    host.raw(method, path, &format!("Authorization: Bearer {token}\r\n"), body)
        .unwrap()
}

fn token(host: &Host, args: &[&str]) -> String {
    let output = host.suijuris(&[&["token", "create"], args].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

// proves F8
#[test]
fn nobody_without_a_token_gets_anything_and_each_reply_has_its_headers() {
    let host = Host::start();
    host.app("a");
    for headers in [
        "",
        "Authorization: Bearer nonsense\r\n",
        "Authorization: Basic YTpi\r\n",
    ] {
        for (method, path) in [
            ("GET", "/apps"),
            ("POST", "/apps"),
            ("GET", "/apps/a"),
            ("POST", "/apps/a/machines"),
            ("GET", "/platform/regions"),
        ] {
            let answer = host.raw(method, path, headers, "").unwrap();
            assert!(
                answer.head.contains("fly-request-id: ") && answer.head.contains("-fra\r\n"),
                "{}",
                answer.head
            );
            answer.refused(401, "token validation error");
        }
    }
    let flyv1 = format!("Authorization: FlyV1 {}\r\n", host.token);
    host.raw("GET", "/apps/a", &flyv1, "").unwrap().is(200);
    host.get("/nowhere").refused(404, "not found");
    host.call("PATCH", "/apps", None)
        .refused(405, "method not allowed");
    let rebound = format!("Host: evil.example\r\nAuthorization: Bearer {}\r\n", host.token);
    host.raw("GET", "/apps", &rebound, "")
        .unwrap()
        .refused(421, "Host");
}

// proves F8
#[test]
fn a_token_does_what_it_is_for_and_nothing_else() {
    let host = Host::start();
    host.app("a");
    host.app("b");
    let of_app = host
        .post("/apps/a/deploy_token", &json!({"expiry": "1h"}))
        .is(200)["token"]
        .as_str()
        .unwrap()
        .to_owned();
    as_token(&host, &of_app, "GET", "/apps/a", "").is(200);
    as_token(&host, &of_app, "GET", "/apps/b", "").refused(403, "unauthorized");
    as_token(&host, &of_app, "POST", "/apps", r#"{"name": "c"}"#).refused(403, "unauthorized");
    let apps = as_token(&host, &of_app, "GET", "/apps", "").is(200);
    assert_eq!(apps["total_apps"], 1);
    let reads = token(&host, &["--read-only"]);
    as_token(&host, &reads, "GET", "/apps/a/machines", "").is(200);
    as_token(&host, &reads, "DELETE", "/apps/a", "").refused(403, "unauthorized");
    as_token(&host, &reads, "GET", "/apps/a/secrets", "").is(200);
    let other = token(&host, &["--org", "other", "--expiry", "1h"]);
    as_token(&host, &other, "GET", "/apps/a", "").refused(403, "unauthorized");
    as_token(&host, &other, "GET", "/apps/free", "").refused(404, "app not found");
    as_token(&host, &other, "GET", "/orgs/personal/machines", "").refused(403, "unauthorized");
    as_token(&host, &other, "POST", "/apps", r#"{"app_name": "a"}"#).refused(422, "already been taken");
    let listed = host.suijuris(&["token", "list", "--json"]);
    let rows: Vec<Value> = String::from_utf8(listed.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let id = rows.iter().find(|row| row["org"] == "other").unwrap()["id"]
        .as_str()
        .unwrap();
    assert_eq!(host.suijuris(&["token", "revoke", id]).status.code(), Some(0));
    assert_eq!(host.suijuris(&["token", "revoke", id]).status.code(), Some(1));
    as_token(&host, &other, "GET", "/apps", "").refused(401, "token validation");
}

#[test]
fn calls_that_come_too_often_are_refused_and_others_are_not() {
    let host = Host::start_with(&[]);
    host.app("a");
    let answers: Vec<u16> = (0..8).map(|_| host.get("/apps/a/machines").status).collect();
    assert_eq!(answers[..3], [200, 200, 200]);
    assert!(answers.contains(&429), "{answers:?}");
    host.get("/apps/a/volumes").is(200);
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused_with_what_to_do() {
    let host = Host::start();
    let output = host.suijuris(&["--api", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another daemon runs on this data directory"));
    let nobody = std::process::Command::new(env!("CARGO_BIN_EXE_suijuris"))
        .args(["host", "plan", "--data", "/nonexistent"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no host runs on"));
}
