//! Clients and workloads that are broken, or mean harm.

use std::io::{Read as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::corpus::shapes;
use crate::rig::{Rig, echo, eventually, machine, ok, read, server};

#[test]
fn ambiguous_requests_are_refused_and_cost_no_machine_anything() {
    let rig = Rig::new(vec![machine("one", echo("one"))]);
    let all = shapes();
    assert!(all.len() >= 40);
    for (status, request) in &all {
        let reply = rig.send(request.as_bytes());
        assert_eq!(reply.status, *status, "{request:.200?} gave {reply:?}");
    }
    assert_eq!(rig.fleet.connects.load(Ordering::SeqCst), 0);
    assert_eq!(rig.get("h", "/", "").status, 200, "the host of these is an app's");
}

#[test]
fn a_client_that_leaves_while_its_machine_starts_is_not_served() {
    let mut rested = machine("one", echo("one"));
    rested.state = suijuris_proxy::fleet::State::Resting;
    let rig = Rig::new(vec![rested]);
    rig.fleet.never_starts.store(true, Ordering::SeqCst);
    let mut stream = rig.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
        .unwrap();
    eventually("a start", || rig.starts() == 1);
    drop(stream);
    rig.fleet.change("one", |played| {
        played.state = suijuris_proxy::fleet::State::Started;
    });
    let reply = rig.get("a.localhost", "/", "");
    assert_eq!(reply.status, 200);
    assert_eq!(rig.fleet.connects.load(Ordering::SeqCst), 1);
}

#[test]
fn half_a_tls_handshake_holds_nothing_but_itself() {
    let rig = Rig::new(vec![machine("one", echo("one"))]);
    let mut half: Vec<_> = (0..20).map(|_| rig.connect()).collect();
    for stream in &mut half {
        stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    }
    assert_eq!(rig.get("a.localhost", "/", "").status, 200);
    // What is no handshake ends at once.
    let mut stream = rig.connect();
    stream.write_all(&[22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn idle_connections_keep_nobody_out() {
    let rig = Rig::new(vec![machine("one", echo("one"))]);
    let idle: Vec<_> = (0..200).map(|_| rig.connect()).collect();
    let slow: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = rig.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        assert_eq!(rig.get("a.localhost", "/", "").status, 200);
    }
    drop((idle, slow));
}

#[test]
fn what_workloads_answer_wrongly_is_not_passed_on() {
    for answer in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
    ] {
        let rig = Rig::new(vec![machine("one", server(move |_, _| Some(answer.to_owned())))]);
        let reply = rig.get("a.localhost", "/", "");
        assert!(
            reply.status == 502 && reply.has("upstream_failed"),
            "{answer}: {reply:?}"
        );
    }
    let huge = "x".repeat(70_000);
    let rig = Rig::new(vec![machine(
        "one",
        server(move |_, _| ok(&format!("X-Huge: {huge}\r\n"), "")),
    )]);
    let reply = rig.get("a.localhost", "/", "");
    assert!(
        reply.status == 502 && reply.has("upstream_head_too_large"),
        "{reply:?}"
    );
    let big = format!("{{\"app\": \"{}\"}}", "x".repeat(70_000));
    let at = server(move |_, _| ok("Content-Type: application/vnd.fly.replay+json\r\n", &big));
    let rig = Rig::new(vec![machine("one", at)]);
    let reply = rig.get("a.localhost", "/", "");
    assert!(reply.status == 502 && reply.has("upstream_failed"), "{reply:?}");
}

#[test]
fn pipelined_requests_of_two_apps_are_told_apart() {
    let mut two = machine("two", echo("two"));
    two.app = "b";
    let rig = Rig::new(vec![machine("one", echo("one")), two]);
    let mut stream = rig.connect();
    let one = "GET /1 HTTP/1.1\r\nHost: a.localhost\r\n\r\n";
    let two = "GET /2 HTTP/1.1\r\nHost: b.localhost\r\n\r\n";
    let last = "GET /3 HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{one}{two}{last}").as_bytes()).unwrap();
    let all = read(stream).body;
    let at = |part: &str| all.find(part).unwrap_or_else(|| panic!("{part}: {all}"));
    assert!(at("one\nGET /1") < at("two\nGET /2") && at("two\nGET /2") < at("one\nGET /3"));
}

#[test]
fn a_proxy_that_ends_lets_what_is_under_way_finish() {
    let at = server(|_, _| {
        std::thread::sleep(Duration::from_millis(200));
        ok("", "done")
    });
    let mut rig = Rig::new(vec![machine("one", at)]);
    let mut stream = rig.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n")
        .unwrap();
    eventually("a request", || {
        rig.metrics().contains("suijuris_proxy_requests_in_flight 1")
    });
    let proxy = rig.proxy.take().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(proxy.close());
    assert_eq!(read(stream).body, "done");
}
