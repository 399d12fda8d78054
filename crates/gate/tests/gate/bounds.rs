//! What a peer can hold open is bounded in time, size and count.

use suijuris_gate::{Limits, Protocol};

use crate::rig::{Rig, Workload, get};

fn rig(limits: Limits) -> (Rig, Workload) {
    let workload = Workload::echo();
    (Rig::with(Protocol::Http, &workload, limits), workload)
}

// proves C3
#[test]
fn a_head_that_does_not_come_is_given_up() {
    let (rig, workload) = rig(Limits {
        head_ms: 200,
        ..Limits::default()
    });
    let mut client = rig.client();
    client.send(b"GET / HTTP/1.1\r\nHost:");
    let reply = client.reply();
    assert_eq!(
        (reply.status(), reply.problem().code.as_str()),
        (408, "request_timeout")
    );
    assert_eq!(workload.touched(), (0, 0));
}

#[test]
fn an_idle_connection_is_closed() {
    let (rig, _workload) = rig(Limits {
        idle_ms: 200,
        ..Limits::default()
    });
    let mut client = rig.client();
    assert!(client.rest().is_empty());
    let mut used = rig.client();
    assert_eq!(used.ask(&get("/")).status(), 200);
    assert!(used.rest().is_empty());
}

#[test]
fn a_body_that_stalls_is_cut() {
    let (rig, _workload) = rig(Limits {
        body_idle_ms: 200,
        ..Limits::default()
    });
    let mut client = rig.client();
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    assert!(client.is_reset());
    rig.wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
}

#[test]
fn one_connection_too_many_is_told_so() {
    let (rig, workload) = rig(Limits {
        max_connections: 1,
        ..Limits::default()
    });
    let mut first = rig.client();
    assert_eq!(first.ask(&get("/")).status(), 200);
    let before = workload.touched();
    let reply = rig.client().reply();
    assert_eq!(
        (reply.status(), reply.problem().code.as_str()),
        (503, "too_many_connections")
    );
    assert_eq!(workload.touched(), before);
    drop(first);
    rig.wait(|traffic| traffic.connections() == 0);
    assert_eq!(rig.client().ask(&get("/")).status(), 200);
}

#[test]
fn a_client_that_reads_nothing_is_cut() {
    let workload = Workload::start(|conn| {
        conn.request();
        let body = vec![b'x'; 64 * 1024];
        use std::io::Write;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        if conn.stream.write_all(head).is_ok() {
            while conn.stream.write_all(&body).is_ok() {}
        }
    });
    let rig = Rig::with(
        Protocol::Http,
        &workload,
        Limits {
            body_idle_ms: 200,
            ..Limits::default()
        },
    );
    let mut client = rig.client();
    client.send(&get("/"));
    rig.wait(|traffic| traffic.in_flight() == 1);
    rig.wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
}
