//! How long machines ran, as it is counted, and how a stop holds requests off.

use std::process::Command;

use serde_json::json;

use crate::proxy::{ask, serve, wait, with_proxy};
use crate::rig::{Host, until};

/// The counters of this kind: labels and seconds.
fn awake(host: &Host, of: &str) -> Vec<(String, f64)> {
    let asked = Command::new("curl")
        .args(["-s", "--unix-socket"])
        .arg(host.data().join("host.sock"))
        .arg("http://localhost/metrics")
        .output()
        .unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    let begin = format!("suijuris_{of}_awake_seconds_total{{");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&begin));
    let parts = lines.map(|line| line.split_once("} ").unwrap());
    parts
        .map(|(labels, seconds)| (labels.to_owned(), seconds.parse().unwrap()))
        .collect()
}

#[test]
fn seconds_awake_are_counted_for_machine_app_and_org_and_survive_the_daemon() {
    let mut host = Host::start();
    host.app("a");
    host.app("b");
    let id = host.machine("exec sleep 100000", &json!({}));
    host.wait(&id, "started");
    let of_machine = |host: &Host| {
        let label = format!("org=\"personal\",app=\"a\",machine=\"{id}\"");
        let found = awake(host, "machine")
            .into_iter()
            .find(|(labels, _)| *labels == label);
        found.unwrap().1
    };
    until("it was awake for a while", || of_machine(&host) > 0.5);
    host.kill();
    host.run(&["--no-rate-limit"]);
    let before = of_machine(&host);
    assert!(before > 0.5);
    until("it goes on", || of_machine(&host) > before);
    host.post(&format!("/apps/a/machines/{id}/suspend"), &json!({}))
        .is(200);
    host.wait(&id, "suspended");
    let asleep = of_machine(&host);
    let other = host.machine("exec sleep 100000", &json!({}));
    host.wait(&other, "started");
    until("another is awake", || awake(&host, "app")[0].1 > asleep + 0.2);
    assert!(
        (of_machine(&host) - asleep).abs() < 1e-9,
        "asleep it costs nothing"
    );
    let (apps, orgs) = (awake(&host, "app"), awake(&host, "org"));
    assert_eq!(apps.len(), 1, "{apps:?}");
    assert_eq!(
        (apps[0].0.as_str(), orgs[0].0.as_str()),
        ("org=\"personal\",app=\"a\"", "org=\"personal\"")
    );
    assert!(orgs[0].1 >= apps[0].1);
}

#[test]
fn a_stop_may_say_before_when_no_request_starts_it() {
    let host = with_proxy(&["--hold", "5"]);
    host.app("a");
    let id = serve(&host, "a", &json!({}), &json!({}));
    let stop = format!("/apps/a/machines/{id}/stop");
    for bad in ["soon", "2999-01-01T00:00:00Z"] {
        host.post(&stop, &json!({"not_before": bad}))
            .refused(400, "within a year");
    }
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    host.post(&stop, &json!({"not_before": at.to_string()})).is(200);
    wait(&host, "a", &id, "stopped");
    let visit = || {
        ask(
            &host.proxy[0],
            "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n",
        )
    };
    let (status, _, body) = visit();
    assert!(
        status == 503 && body.contains("let no request start it before"),
        "{status} {body}"
    );
    assert_eq!(host.state(&id), "stopped");
    // Whoever may start it does, and from then on requests do again.
    host.post(&format!("/apps/a/machines/{id}/start"), &json!({}))
        .is(200);
    wait(&host, "a", &id, "started");
    host.post(&stop, &json!({})).is(200);
    wait(&host, "a", &id, "stopped");
    assert_eq!(visit().0, 200);
}
