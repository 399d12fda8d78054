//! Checks of machines, in their own networks; and that those are their own.

use serde_json::{Value, json};

use crate::images::{host, layout, machine, name, says};
use crate::rig::{Host, until};

/// Serves once it is told to.
const SERVE: &str = "while [ ! -e /tmp/go ]; do /bin/busybox sleep 0.05; done; exec /bin/busybox httpd -f -p 127.0.0.1:8080 -h /www";

fn status(host: &Host, id: &str, name: &str) -> String {
    let shown = host.get(&format!("/apps/a/machines/{id}")).is(200);
    let checks: Vec<Value> = shown["checks"].as_array().unwrap().clone();
    let found = checks.iter().find(|check| check["name"] == name);
    found
        .map(|check| check["status"].as_str().unwrap().to_owned())
        .unwrap_or_default()
}

#[test]
fn checks_ask_the_machine_and_say_how_it_went() {
    let dir = layout();
    let mut host = host(&dir);
    host.app("a");
    let config = json!({
        "init": {"exec": ["/bin/sh", "-c", SERVE]},
        "services": [{"protocol": "tcp", "internal_port": 8080, "checks": [{"type": "http", "interval": "1s", "path": "/"}]}],
        "checks": {
            "late": {"type": "tcp", "port": 8080, "interval": "1s", "grace_period": "10m", "kind": "readiness"},
            "missing": {"type": "http", "port": 8080, "interval": 1_000_000_000, "path": "/none", "headers": [{"name": "x-a", "values": ["b"]}]},
        },
    });
    // Another machine has the same port, and is another.
    let silent = machine(&host, &name(&dir), &config);
    let id = machine(&host, &name(&dir), &config);
    host.wait(&id, "started");
    let service = "servicecheck-02-http-8080";
    until("nobody listens", || status(&host, &id, service) == "critical");
    assert_eq!(
        status(&host, &id, "late"),
        "warning",
        "it has time until its first check"
    );
    says(&host, &id, "echo > /tmp/go");
    until("it answers", || status(&host, &id, service) == "passing");
    until("it has no such page", || {
        status(&host, &id, "missing") == "critical"
    });
    let shown = host.get(&format!("/apps/a/machines/{id}")).is(200)["checks"].to_string();
    assert!(shown.contains("404 Not Found"), "{shown}");
    assert_eq!(status(&host, &silent, service), "critical");
    host.kill();
    host.run(&["--no-rate-limit"]);
    until("the next daemon asks again", || {
        status(&host, &id, service) == "passing"
    });
    host.call("POST", &format!("/apps/a/machines/{id}/suspend"), None)
        .is(200);
    host.wait(&id, "suspended");
    assert_eq!(
        status(&host, &id, service),
        "",
        "nobody is asked who cannot answer"
    );
    host.call("POST", &format!("/apps/a/machines/{id}/start"), None)
        .is(200);
    until("it is asked again", || status(&host, &id, service) == "passing");
    for bad in [
        json!({"type": "udp", "port": 1}),
        json!({"type": "tcp"}),
        json!({"type": "tcp", "port": 0}),
        json!({"type": "tcp", "port": 1, "interval": "1ms"}),
        json!({"type": "http", "port": 1, "path": "none"}),
        json!({"type": "http", "port": 1, "protocol": "https"}),
        json!({"type": "http", "port": 1, "method": "A B"}),
        json!({"type": "http", "port": 1, "headers": {"a\n": "b"}}),
        json!({"type": "tcp", "port": 1, "kind": "other"}),
    ] {
        let config = json!({"config": {"image": name(&dir), "checks": {"bad": bad}}});
        host.post("/apps/a/machines", &config)
            .refused(400, "config.checks");
    }
}

#[test]
fn a_machine_has_a_network_of_its_own_and_reaches_neither_the_host_nor_others() {
    let dir = layout();
    let host = host(&dir);
    host.app("a");
    let stay = json!({"init": {"exec": ["/bin/busybox", "sleep", "100000"]}});
    let id = machine(&host, &name(&dir), &stay);
    host.wait(&id, "started");
    let script = format!(
        "/bin/busybox wget -qO- http://{}/healthz 2>/dev/null || echo no host; /bin/busybox tail -n +3 /proc/net/dev | /bin/busybox cut -d: -f1",
        host.api
    );
    let said = says(&host, &id, &script);
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["no", "host", "lo", "eth0"],
        "{said}"
    );
    drop(host);
    let shared = Host::start_with(&[
        "--no-rate-limit",
        "--share-network",
        "--oci-root",
        dir.path().to_str().unwrap(),
    ]);
    shared.app("a");
    let id = machine(&shared, &name(&dir), &stay);
    shared.wait(&id, "started");
    let said = says(
        &shared,
        &id,
        &format!("/bin/busybox wget -qO- http://{}/healthz", shared.api),
    );
    assert_eq!(said, "ok\n", "the operator has said so");
}

#[test]
fn what_machines_write_is_read_and_followed_also_of_the_life_before() {
    use std::io::{BufRead as _, BufReader};
    let dir = layout();
    let host = host(&dir);
    host.app("a");
    let script = "echo begun $$; printf 'red \\033[31m\\n'; while [ ! -e /tmp/go ]; do /bin/busybox sleep 0.05; done; echo going; exec /bin/busybox sleep 100000";
    let id = machine(
        &host,
        &name(&dir),
        &json!({"init": {"exec": ["/bin/sh", "-c", script]}}),
    );
    host.wait(&id, "started");
    let logs =
        |args: &[&str]| String::from_utf8(host.suijuris(&[&["logs", "a"], args].concat()).stdout).unwrap();
    until("it has written", || logs(&[&id]) == "begun 2\nred \u{1b}[31m\n");
    let mut follow = std::process::Command::new(env!("CARGO_BIN_EXE_suijuris"))
        .args(["host", "logs", "a", "-f", "--json", "--data"])
        .arg(host.data())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next(), json!({"machine": id, "line": "begun 2"}));
    next();
    says(&host, &id, "echo > /tmp/go");
    assert_eq!(next()["line"], "going");
    host.call("POST", &format!("/apps/a/machines/{id}/restart"), None)
        .is(200);
    assert_eq!(
        next()["line"],
        "begun 2",
        "the next life goes on in the same place"
    );
    follow.kill().unwrap();
    follow.wait().unwrap();
    let all = format!("{id}  begun 2\n{id}  red \u{1b}[31m\n{id}  going\n{id}  begun 2\n");
    until("both lives are there", || logs(&[]).starts_with(&all));
    let over_api = host
        .get(&format!("/apps/a/machines/{id}/logs"))
        .is(200)
        .to_string();
    assert!(over_api.contains("going"), "{over_api}");
    assert_eq!(host.suijuris(&["logs", "a", "none"]).status.code(), Some(1));
    assert_eq!(host.suijuris(&["logs", "../a"]).status.code(), Some(2));
}
