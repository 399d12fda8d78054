//! What a peer can hold open is bounded in time, size and count.

use suijuris_gate::{Limits, Protocol};

use crate::http2::{ask_all, request};
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
fn one_connection_too_many_is_told_so_where_all_are_at_work() {
    let (rig, workload) = rig(Limits {
        max_connections: 1,
        ..Limits::default()
    });
    let mut first = rig.client();
    first.send(&get("/hold"));
    rig.wait(|traffic| traffic.held() == 1);
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
fn idle_connections_of_one_client_shut_nobody_out() {
    const MOST: usize = 16;
    let (rig, _workload) = rig(Limits {
        max_connections: MOST,
        ..Limits::default()
    });
    let mut idle: Vec<_> = (0..MOST).map(|_| rig.client()).collect();
    rig.wait(|traffic| traffic.connections() >= MOST - MOST / 8);
    for _ in 0..3 * MOST {
        assert_eq!(rig.client().ask(&get("/")).status(), 200);
    }
    rig.wait(|traffic| traffic.connections() <= MOST);
    // The oldest went first, and its client sees that.
    assert!(!idle[0].fill());
}

#[test]
fn streams_of_http2_count_as_requests() {
    let slow = Workload::start(|conn| {
        conn.request();
        while conn.fill() {}
    });
    let rig = Rig::with(
        Protocol::Http,
        &slow,
        Limits {
            max_in_flight: 3,
            ..Limits::default()
        },
    );
    let mut clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.send(&get("/"));
    }
    rig.wait(|traffic| traffic.in_flight() == 3);
    for answer in ask_all(rig.addr, (0..5).map(|_| request("/", "")).collect()) {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.problem().code.as_str()),
            (503, "too_many_requests")
        );
    }
    drop(clients);
}

// proves C3
#[test]
fn who_leaves_while_waiting_for_the_verdict_is_not_served() {
    let (rig, workload) = rig(Limits::default());
    let mut leaves = rig.client();
    leaves.send(&get("/hold"));
    rig.wait(|traffic| traffic.held() == 1);
    drop(leaves);
    rig.wait(|traffic| traffic.held() == 0 && traffic.connections() == 0);
    let mut ends_its_side = rig.client();
    ends_its_side.send(&get("/hold"));
    rig.wait(|traffic| traffic.held() == 1);
    ends_its_side.stream.shutdown(std::net::Shutdown::Write).unwrap();
    rig.wait(|traffic| traffic.held() == 0 && traffic.connections() == 0);
    let mut stays = rig.client();
    stays.send(b"POST /hold HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na");
    rig.wait(|traffic| traffic.held() == 1);
    stays.send(b"bc");
    rig.script
        .released
        .store(true, std::sync::atomic::Ordering::SeqCst);
    rig.order(|control, _| control.ask_again());
    assert!(stays.reply().body.ends_with("\r\n\r\nabc"));
    assert_eq!(workload.touched().0, 1, "of three one was served");
}

// proves C3
#[test]
fn who_leaves_over_http2_while_waiting_for_the_verdict_is_not_served() {
    let (rig, workload) = rig(Limits::default());
    crate::http2::leave_behind(rig.addr, &["/hold", "/hold"], || {
        rig.wait(|traffic| traffic.held() == 2);
    });
    rig.wait(|traffic| traffic.held() == 0 && traffic.connections() == 0);
    rig.script
        .released
        .store(true, std::sync::atomic::Ordering::SeqCst);
    rig.order(|control, _| control.ask_again());
    assert_eq!(crate::http2::ask(rig.addr, request("/stays", "")).status, 200);
    assert_eq!(workload.touched().0, 1, "of three one was served");
}

// proves C13
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
