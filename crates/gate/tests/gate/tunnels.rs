//! Raw TCP and upgraded connections: decided once, then copied.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;

use suijuris_gate::{Limits, Phase, Protocol};

use crate::rig::{Conn, Rig, Workload, get};

fn echo_bytes(conn: &mut Conn) {
    let mut buf = [0; 4096];
    while let Ok(read @ 1..) = conn.stream.read(&mut buf) {
        conn.stream.write_all(&buf[..read]).unwrap();
    }
    conn.stream.write_all(b"bye").unwrap();
    conn.stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn raw_bytes_pass_both_ways_and_half_closes_travel() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    let mut client = rig.client();
    client.send(b"hello");
    assert_eq!(client.exactly(5), b"hello");
    assert_eq!(
        rig.order(|_, traffic| (traffic.in_flight(), traffic.connections())),
        (1, 1)
    );
    client.finish();
    assert_eq!(client.rest(), b"bye");
    rig.wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
    assert_eq!(
        rig.order(|_, traffic| (traffic.bytes_in(), traffic.bytes_out())),
        (5, 8)
    );
}

#[test]
fn much_data_passes_while_both_sides_send() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    let mut client = rig.client();
    let mut sender = client.stream.try_clone().unwrap();
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let copy = sent.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&copy).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let got = client.rest();
    sending.join().unwrap();
    assert_eq!(got.len(), sent.len() + 3);
    assert!(got.starts_with(&sent));
}

#[test]
fn raw_connections_wait_for_the_verdict_and_are_cut_with_the_gate() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    rig.set(Phase::Holding);
    let mut client = rig.client();
    client.send(b"hello");
    rig.wait(|traffic| traffic.held() == 1);
    assert_eq!(workload.touched().0, 0);
    rig.set(Phase::Open);
    assert_eq!(client.exactly(5), b"hello");
    rig.order(|control, _| control.cut_all());
    assert!(client.is_reset());
}

// proves C6
#[test]
fn an_open_raw_connection_stands_still_while_the_gate_holds() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    let mut client = rig.client();
    client.send(b"hello");
    assert_eq!(client.exactly(5), b"hello");
    rig.set(Phase::Holding);
    client.send(b"later");
    rig.set(Phase::Open);
    assert_eq!(client.exactly(5), b"later");
    rig.set(Phase::Holding);
    client.send(b"never");
    rig.script.refuses_connections.store(true, Ordering::SeqCst);
    rig.set(Phase::Open);
    assert!(client.is_reset());
    rig.wait(|traffic| traffic.in_flight() == 0);
    assert_eq!(rig.order(|_, traffic| traffic.bytes_in()), 10);
}

#[test]
fn an_open_raw_connection_is_cut_when_it_is_admitted_no_more() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    let mut client = rig.client();
    client.send(b"hello");
    assert_eq!(client.exactly(5), b"hello");
    rig.order(|control, _| control.ask_again());
    client.send(b"still");
    assert_eq!(client.exactly(5), b"still");
    rig.script.refuses_connections.store(true, Ordering::SeqCst);
    rig.order(|control, _| control.ask_again());
    assert!(client.is_reset());
    rig.wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
}

#[test]
fn a_raw_connection_that_draining_cuts_has_what_was_written_and_ends_in_order() {
    let workload = Workload::start(echo_bytes);
    let limits = Limits {
        drain_ms: 100,
        linger_ms: 50,
        ..Limits::default()
    };
    let rig = Rig::with(Protocol::Tcp, &workload, limits);
    let (mut reads, mut idle) = (rig.client(), rig.client());
    for client in [&mut reads, &mut idle] {
        client.send(b"hello");
    }
    assert_eq!(idle.exactly(5), b"hello");
    rig.wait(|traffic| traffic.bytes_out() == 10);
    rig.set(Phase::Draining);
    rig.wait(|traffic| traffic.connections() == 0);
    assert!(!idle.is_reset());
    assert_eq!(reads.exactly(5), b"hello", "it was written before");
    assert!(!reads.is_reset());
}

#[test]
fn an_idle_tunnel_is_cut() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(
        Protocol::Tcp,
        &workload,
        Limits {
            tunnel_idle_ms: 200,
            ..Limits::default()
        },
    );
    assert!(rig.client().is_reset());
}

#[test]
fn an_upgraded_connection_becomes_a_tunnel() {
    let workload = Workload::start(|conn| {
        let head = String::from_utf8(conn.head().unwrap()).unwrap();
        assert!(
            head.contains("upgrade: websocket\r\nconnection: upgrade\r\n"),
            "{head}"
        );
        conn.stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst",
            )
            .unwrap();
        echo_bytes(conn);
    });
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    client.send(
        b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let head = String::from_utf8(client.until(b"\r\n\r\n")).unwrap();
    assert_eq!(
        head,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
    assert_eq!(client.exactly(5), b"first");
    client.send(b"hello");
    assert_eq!(client.exactly(5), b"hello");
    client.finish();
    assert_eq!(client.rest(), b"bye");
    rig.wait(|traffic| traffic.in_flight() == 0);
}

#[test]
fn a_declined_upgrade_is_an_ordinary_response() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    let reply = client.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(reply.status(), 200);
    assert_eq!(client.ask(&get("/")).status(), 200);
}
