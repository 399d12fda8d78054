//! `fly-replay`, in both forms, with every key.

use std::sync::atomic::Ordering;
use std::time::Duration;

use suijuris_proxy::fleet::{CacheRule, State};
use suijuris_proxy::{AppKey, Key};

use crate::rig::{Played, Reply, Rig, echo, machine, ok, server};

/// A machine of the app `a` that replays everything with this header.
fn replays(header: &str) -> Played {
    let fields = format!("{header}\r\nX-Secret: not for clients\r\n");
    machine("router", server(move |_, _| ok(&fields, "ignored")))
}

/// The same by JSON.
fn replays_json(json: &'static str) -> Played {
    let at = server(move |_, _| ok("Content-Type: application/vnd.fly.replay+json\r\n", json));
    machine("router", at)
}

fn target(id: &'static str, app: &'static str) -> Played {
    let mut played = machine(id, echo(id));
    played.app = app;
    played
}

fn asked(router: Played, others: Vec<Played>) -> (Reply, Rig) {
    let mut all = vec![router];
    all.extend(others);
    let rig = Rig::new(all);
    let reply = rig.get("a.localhost", "/x?y", "");
    (reply, rig)
}

fn went(reply: &Reply) -> &str {
    reply.body.lines().next().unwrap_or_default()
}

// proves F3
#[test]
fn to_another_app_which_is_started_for_it() {
    let mut rested = target("t", "b");
    rested.state = State::Resting;
    let (reply, rig) = asked(replays("fly-replay: app=b;state=secret"), vec![rested]);
    assert_eq!((reply.status, went(&reply)), (200, "t"), "{reply:?}");
    assert!(reply.has("GET /x?y HTTP/1.1"));
    assert!(
        reply.has("fly-replay-src: instance=router;region=fra;t=18000000"),
        "{reply:?}"
    );
    assert!(
        reply.has(";state=secret\r\n") && !reply.has("x-secret"),
        "{reply:?}"
    );
    assert_eq!(rig.starts(), 1);
    let signed = reply
        .body
        .split("fly-replay-state-signature: expires=")
        .nth(1)
        .unwrap();
    let (expires, rest) = signed.split_once(";hmac-sha256=").unwrap();
    let (expires, signature): (u64, _) = (expires.parse().unwrap(), rest.lines().next().unwrap());
    let key: AppKey = Key::new([7; 32]).of_app("b");
    assert_eq!(
        key.verify("t", expires, "secret", signature, expires - 60),
        Ok(())
    );
    assert!(
        key.verify("other", expires, "secret", signature, expires - 60)
            .is_err()
    );
    assert!(
        key.verify("t", expires, "secret", signature, expires + 1)
            .is_err()
    );
}

// proves F3
#[test]
fn to_one_machine_to_another_region_or_anywhere_else() {
    let mut far = target("far", "a");
    far.region = "iad";
    far.soft = 0;
    for header in [
        "fly-replay: instance=far",
        "fly-replay: prefer_instance=far",
        "fly-replay: region=iad",
        "fly-replay: region=\"syd,us,any\"",
        "fly-replay: elsewhere=true",
    ] {
        let (reply, _) = asked(replays(header), vec![far.clone()]);
        assert_eq!((reply.status, went(&reply)), (200, "far"), "{header}: {reply:?}");
    }
    let (reply, _) = asked(replays("fly-replay: instance=none"), vec![far]);
    assert!(reply.status == 503 && reply.has("no_candidate"), "{reply:?}");
}

// proves F3
#[test]
fn by_json_with_a_transform() {
    let json = r#"{"app": "b", "state": "s", "transform": {"path": "/new?q", "delete_headers": ["X-Old", "Host"],
        "set_headers": [{"name": "X-New", "value": "1"}, {"name": "Fly-Client-IP", "value": "6.6.6.6"}, {"name": "bad\r\nname", "value": "x"}]}}"#;
    let rig = Rig::new(vec![replays_json(json), target("t", "b")]);
    let reply = rig.get("a.localhost", "/x?y", "X-Old: 1\r\nX-New: 0\r\n");
    assert_eq!(went(&reply), "t", "{reply:?}");
    assert!(
        reply.has("GET /new?q HTTP/1.1") && reply.has("X-New: 1") && reply.has("host: a.localhost"),
        "{reply:?}"
    );
    assert!(
        !reply.has("X-Old") && !reply.has("X-New: 0") && !reply.has("6.6.6.6") && !reply.has("bad"),
        "{reply:?}"
    );
}

#[test]
fn the_body_comes_along_up_to_its_bound() {
    for (framing, body) in [("length", "x".repeat(900_000)), ("chunked", "y".repeat(300_000))] {
        let rig = Rig::new(vec![replays("fly-replay: app=b"), target("t", "b")]);
        let request = if framing == "length" {
            format!(
                "Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        } else {
            format!(
                "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )
        };
        let reply = rig.send(format!("POST / HTTP/1.1\r\nHost: a.localhost\r\n{request}").as_bytes());
        assert_eq!(went(&reply), "t", "{framing}: {}", reply.head);
        assert!(
            reply.body.ends_with(&format!("\n{body}")),
            "{framing}: {} bytes",
            reply.body.len()
        );
    }
    let rig = Rig::new(vec![replays("fly-replay: app=b"), target("t", "b")]);
    let body = "x".repeat(1_100_000);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let reply = rig.send(request.as_bytes());
    assert!(
        reply.status == 502 && reply.has("replay_body") && reply.has("PA01"),
        "{reply:?}"
    );
}

#[test]
fn what_cannot_be_followed_is_said() {
    for (header, code) in [
        ("fly-replay: nonsense", "replay_invalid"),
        ("fly-replay: timeout=soon", "replay_invalid"),
        ("fly-replay: app=none", "replay_refused"),
        ("fly-replay: app=foreign", "replay_refused"),
        ("fly-replay: instance=router", "replay_loop"),
    ] {
        let (reply, rig) = asked(replays(header), vec![target("f", "foreign")]);
        assert!(
            reply.status == 502 && reply.has(code) && !reply.has("x-secret"),
            "{header}: {reply:?}"
        );
        let asked = rig.fleet.connects.load(Ordering::SeqCst);
        assert_eq!(asked, if code == "replay_loop" { 11 } else { 1 }, "{header}");
    }
    let (reply, _) = asked(replays_json("{\"app\": 7}"), vec![]);
    assert!(reply.status == 502 && reply.has("replay_invalid"), "{reply:?}");
}

// proves F3
#[test]
fn back_to_the_responder_where_nobody_serves_it() {
    let router = |header: &'static str| {
        let at = server(move |head, _| {
            if head.contains("fly-replay-failed: ") {
                ok("", &format!("back\n{head}"))
            } else {
                ok(&format!("{header}\r\n"), "")
            }
        });
        machine("router", at)
    };
    let mut rested = target("t", "b");
    rested.state = State::Resting;
    let rig = Rig::new(vec![
        router("fly-replay: app=b;instance=t;timeout=100ms;fallback=force_self"),
        rested,
    ]);
    rig.fleet.never_starts.store(true, Ordering::SeqCst);
    let reply = rig.get("a.localhost", "/", "");
    assert_eq!(went(&reply), "back", "{reply:?}");
    assert!(
        reply.has(
            "fly-replay-failed: instance=t;app=b;region=;replay_source=router;reason=timeout;elapsed_ms="
        ),
        "{reply:?}"
    );
    let (reply, _) = asked(router("fly-replay: instance=none;fallback=prefer_self"), vec![]);
    assert!(
        went(&reply) == "back" && reply.has("reason=no_candidate"),
        "{reply:?}"
    );
    let twice = replays("fly-replay: instance=none;fallback=force_self");
    let (reply, _) = asked(twice, vec![]);
    assert!(
        reply.status == 502 && reply.has("replay_loop"),
        "that answer may not replay again: {reply:?}"
    );
}

#[test]
fn a_timeout_bounds_the_wait_for_the_target() {
    let mut rested = target("t", "b");
    rested.state = State::Resting;
    let rig = Rig::new(vec![replays("fly-replay: app=b;timeout=50ms"), rested]);
    rig.fleet.never_starts.store(true, Ordering::SeqCst);
    let began = std::time::Instant::now();
    assert_eq!(rig.get("a.localhost", "/", "").status, 503);
    assert!(began.elapsed() < Duration::from_secs(15));
}

// proves F3
#[test]
fn a_replay_is_remembered_as_its_app_says() {
    let cached = "fly-replay: app=b\r\nfly-replay-cache: /u/*\r\nfly-replay-cache-ttl-secs: 60\r\nfly-replay-cache-allow-bypass: yes";
    let rig = Rig::new(vec![replays(cached), target("t", "b")]);
    let connects = || rig.fleet.connects.load(Ordering::SeqCst);
    let first = rig.get("a.localhost", "/u/1", "");
    assert!(
        first.has("fly-replay-cache-status: miss") && first.has("fly-replay-src: "),
        "{first:?}"
    );
    let before = connects();
    let second = rig.get("a.localhost", "/u/2", "");
    assert_eq!(
        (went(&second), connects() - before),
        ("t", 1),
        "the router is not asked"
    );
    assert!(
        second.has("fly-replay-cache-status: hit") && !second.has("fly-replay-src: "),
        "{second:?}"
    );
    let skipped = rig.get("a.localhost", "/u/2", "fly-replay-cache-control: skip\r\n");
    assert!(skipped.has("fly-replay-src: "), "{skipped:?}");
    let before = connects();
    rig.get("a.localhost", "/v", "");
    assert_eq!(connects() - before, 2, "another path is not remembered");
}

#[test]
fn a_target_may_have_it_forgotten() {
    let at = server(|_, _| ok("fly-replay-cache: invalidate\r\n", "t\n"));
    let mut forgets = machine("t", at);
    forgets.app = "b";
    let cached = "fly-replay: app=b\r\nfly-replay-cache: a.localhost/*\r\nfly-replay-cache-ttl-secs: 60";
    let rig = Rig::new(vec![replays(cached), forgets]);
    for _ in 0..2 {
        let before = rig.fleet.connects.load(Ordering::SeqCst);
        let reply = rig.get("a.localhost", "/", "");
        assert!(!reply.has("fly-replay-cache"), "{reply:?}");
        assert_eq!(rig.fleet.connects.load(Ordering::SeqCst) - before, 2);
    }
}

#[test]
fn a_service_may_say_by_which_cookie_replays_are_remembered() {
    let mut router = replays("fly-replay: app=b");
    router.ports[0].replay_cache = vec![CacheRule {
        path_prefix: "/".to_owned(),
        ttl_s: 60,
        cookie: true,
        name: "user".to_owned(),
        allow_bypass: false,
    }];
    let rig = Rig::new(vec![router, target("t", "b")]);
    let connects = |cookie: &str| {
        let before = rig.fleet.connects.load(Ordering::SeqCst);
        assert_eq!(went(&rig.get("a.localhost", "/", cookie)), "t");
        rig.fleet.connects.load(Ordering::SeqCst) - before
    };
    assert_eq!(connects("Cookie: a=b; user=7\r\n"), 2);
    assert_eq!(connects("Cookie: user=7\r\n"), 1);
    assert_eq!(connects("Cookie: user=8\r\n"), 2);
    assert_eq!(connects(""), 2);
}

#[test]
fn a_state_with_a_replay_is_never_remembered() {
    let cached = "fly-replay: app=b;state=s\r\nfly-replay-cache: /*\r\nfly-replay-cache-ttl-secs: 60";
    let rig = Rig::new(vec![replays(cached), target("t", "b")]);
    for _ in 0..2 {
        let reply = rig.get("a.localhost", "/", "");
        assert!(reply.has(";state=s") && !reply.has("cache-status"), "{reply:?}");
    }
}

#[test]
fn a_replay_over_http2_keeps_the_body() {
    let rig = Rig::new(vec![replays("fly-replay: app=b;state=s"), target("t", "b")]);
    let body = "z".repeat(200_000);
    let (status, answer) = crate::protocols::http2(rig.at, "POST", "/deep", &body);
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer.starts_with("t\nPOST /deep HTTP/1.1") && answer.ends_with(&format!("\n{body}")),
        "{} bytes",
        answer.len()
    );
    assert!(answer.contains(";state=s"));
}
