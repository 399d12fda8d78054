//! Requests for machines that do not run: held while one starts, once for all of them, and answered where none does.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use suijuris_proxy::fleet::{Rest, State};

use crate::rig::{Rig, echo, eventually, machine, ok, server};

fn resting(id: &'static str) -> crate::rig::Played {
    let mut played = machine(id, echo(id));
    played.state = State::Resting;
    played
}

// proves F3
#[test]
fn a_request_starts_a_machine_and_is_answered_by_it() {
    let rig = Rig::new(vec![resting("one")]);
    let reply = rig.get("a.localhost", "/x", "");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.body.starts_with("one\nGET /x HTTP/1.1"), "{reply:?}");
    assert_eq!(rig.starts(), 1);
    assert!(
        rig.metrics()
            .contains("suijuris_proxy_starts_total{app=\"a\",outcome=\"started\"} 1"),
        "{}",
        rig.metrics()
    );
}

// proves F3
#[test]
fn many_requests_share_one_start() {
    let rig = Rig::new(vec![resting("one"), resting("two")]);
    let replies: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| rig.get("a.localhost", "/", "").status))
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(replies, [200; 16]);
    assert_eq!(rig.starts(), 1);
}

#[test]
fn what_does_not_start_in_time_is_said_so() {
    let rig = Rig::with(vec![resting("one")], |options| {
        options.hold = Duration::from_millis(300);
    });
    rig.fleet.never_starts.store(true, Ordering::SeqCst);
    let reply = rig.get("a.localhost", "/", "");
    assert_eq!(reply.status, 503);
    assert!(
        reply.has("machine_start_timeout") && reply.has("retry-after: 1"),
        "{reply:?}"
    );
}

#[test]
fn another_machine_is_tried_where_one_does_not_start() {
    let mut over = machine("over", echo("over"));
    over.soft = 0;
    let rig = Rig::new(vec![resting("one"), over]);
    rig.fleet.fails_to_start.store(true, Ordering::SeqCst);
    let reply = rig.get("a.localhost", "/", "");
    assert!(reply.body.starts_with("over\n"), "{reply:?}");
    let rig = Rig::new(vec![resting("one")]);
    rig.fleet.fails_to_start.store(true, Ordering::SeqCst);
    let reply = rig.get("a.localhost", "/", "");
    assert!(
        reply.status == 503 && reply.has("machine_start_failed") && reply.has("no room"),
        "{reply:?}"
    );
}

#[test]
fn autostart_off_starts_nothing() {
    let mut off = resting("one");
    off.autostart = false;
    let rig = Rig::new(vec![off]);
    let reply = rig.get("a.localhost", "/", "");
    assert!(reply.status == 503 && reply.has("no_candidate"), "{reply:?}");
    assert_eq!(rig.starts(), 0);
}

#[test]
fn a_program_that_listens_late_is_waited_for_and_its_body_comes_along() {
    // A port that is ours, where nobody listens yet.
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut late = machine("late", None);
    late.state = State::Resting;
    let rig = Rig::new(vec![late]);
    drop(held);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            rig.send(b"POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        });
        eventually("attempts", || rig.fleet.connects.load(Ordering::SeqCst) > 2);
        let at = echo("late");
        rig.fleet.change("late", |played| played.at = Some(at));
        let reply = asked.join().unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.body.ends_with("\nhello"), "{reply:?}");
    });
}

#[test]
fn a_program_that_never_listens_is_told_in_time() {
    let rig = Rig::with(vec![machine("deaf", None)], |options| {
        options.unreachable = Duration::from_millis(200);
    });
    let began = Instant::now();
    let reply = rig.get("a.localhost", "/", "");
    assert!(
        reply.status == 503 && reply.has("machine_unreachable"),
        "{reply:?}"
    );
    assert!(began.elapsed() >= Duration::from_millis(200));
    let rig = Rig::with(vec![machine("deaf", None), machine("well", echo("well"))], |_| {});
    for _ in 0..8 {
        assert!(rig.get("a.localhost", "/", "").body.starts_with("well"));
    }
}

#[test]
fn a_machine_that_says_nothing_is_asked_again_only_where_that_may_be() {
    let silent = || server(|_, _| None);
    let rig = Rig::new(vec![machine("silent", silent()), machine("well", echo("well"))]);
    for _ in 0..8 {
        assert!(rig.get("a.localhost", "/", "").body.starts_with("well"));
    }
    let rig = Rig::new(vec![machine("silent", silent())]);
    let reply =
        rig.send(b"POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
    assert!(reply.status == 502 && reply.has("upstream_failed"), "{reply:?}");
    assert_eq!(
        rig.fleet.connects.load(Ordering::SeqCst),
        1,
        "a POST is not sent twice"
    );
}

// proves F3
#[test]
fn machines_rest_without_traffic_and_not_with_it() {
    let slow = server(|_, _| {
        std::thread::sleep(Duration::from_millis(400));
        ok("", "done")
    });
    let mut idle = machine("idle", echo("idle"));
    idle.autostop = Some(Rest::Stop);
    let mut busy = machine("busy", slow);
    (busy.autostop, busy.app) = (Some(Rest::Suspend), "b");
    let rig = Rig::with(vec![idle, busy], |options| {
        options.autostop = Some(Duration::from_millis(50));
    });
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| rig.get("b.localhost", "/", ""));
        eventually("idle", || rig.fleet.state("idle") == State::Resting);
        let reply = asked.join().unwrap();
        assert_eq!(reply.body, "done", "{reply:?}");
    });
    eventually("busy", || rig.fleet.state("busy") == State::Resting);
    assert!(rig.metrics().contains("suijuris_proxy_rests_total{app=\"b\"}"));
}
