//! What the workload gets of an admitted request, and the client of its response.

use std::io::Write;

use suijuris_gate::{Limits, Protocol, Upstream};

use crate::rig::{Plan, Rig, Workload, get};

#[test]
fn the_workload_sees_a_clean_request() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let reply = rig.client().ask(
        b"GET http://h/a?b=c HTTP/1.1\r\nHost: h\r\nAccept: x\r\nX-Suijuris-Object: forged\r\n\
          Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    );
    assert_eq!(
        reply.body,
        "GET /a?b=c HTTP/1.1\r\nhost: h\r\nAccept: x\r\nx-forwarded-for: 1.2.3.4, 127.0.0.1\r\n\
         x-forwarded-proto: http\r\nvia: 1.1 suijuris\r\nx-suijuris-object: me\r\n\r\n"
    );
}

#[test]
fn bodies_arrive_whole_however_they_are_framed() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    let big = "x".repeat(300_000);
    let length = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{big}",
        big.len()
    );
    assert!(
        client
            .ask(length.as_bytes())
            .body
            .ends_with(&format!("\r\n\r\n{big}"))
    );
    let chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Suijuris-A: b\r\n\r\n";
    let reply = client.ask(chunked);
    assert!(
        reply.body.ends_with("\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"),
        "trailers stay behind: {reply:?}"
    );
    for byte in chunked {
        client.send(&[*byte]);
    }
    assert!(
        client
            .reply()
            .body
            .ends_with("\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n")
    );
    assert_eq!(client.ask(&get("/after")).status(), 200);
}

#[test]
fn an_expected_body_waits_for_the_workload() {
    let workload = Workload::start(|conn| {
        let head = conn.head().unwrap();
        assert!(String::from_utf8_lossy(&head).contains("Expect: 100-continue\r\n"));
        conn.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let body = conn.until(b"abc").unwrap();
        conn.reply(&body);
    });
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"abc");
    assert_eq!(client.reply().body, "abc");
}

#[test]
fn a_body_the_workload_does_not_want_ends_the_connection() {
    let workload = Workload::start(|conn| {
        conn.head().unwrap();
        conn.stream
            .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        while conn.fill() {}
    });
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    let reply =
        client.ask(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(reply.status(), 413);
    assert!(reply.head.contains("connection: close\r\n"));
}

/// Responses of one workload connection, as the client gets them: (sent, received, ends by reset).
#[test]
fn responses_keep_their_meaning() {
    let check = |sent: &'static [u8], method: &str, received: &str, reset: bool| {
        let workload = Workload::fixed(sent);
        let rig = Rig::http(&workload);
        let mut client = rig.client();
        client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes());
        let mut got = Vec::new();
        let ended = loop {
            let mut buf = [0; 4096];
            match std::io::Read::read(&mut client.stream, &mut buf) {
                Ok(0) => break false,
                Ok(read) => got.extend_from_slice(&buf[..read]),
                Err(_) => break true,
            }
        };
        let sent = String::from_utf8_lossy(sent);
        assert_eq!(String::from_utf8_lossy(&got), received, "{sent:?}");
        assert_eq!(ended, reset, "{sent:?}");
    };
    let close = "connection: close\r\n\r\n";
    check(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        "GET",
        &format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{close}3\r\nabc\r\n0\r\n\r\n"),
        false,
    );
    check(
        b"HTTP/1.0 200 Fine\r\n\r\nabc",
        "GET",
        &format!("HTTP/1.1 200 Fine\r\n{close}abc"),
        false,
    );
    check(
        b"HTTP/1.1 204 No\r\n\r\n",
        "GET",
        &format!("HTTP/1.1 204 No\r\n{close}"),
        false,
    );
    check(
        b"HTTP/1.1 304 Not\r\nContent-Length: 9\r\n\r\n",
        "GET",
        &format!("HTTP/1.1 304 Not\r\nContent-Length: 9\r\n{close}"),
        false,
    );
    check(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        "HEAD",
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n{close}"),
        false,
    );
    check(
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        "GET",
        &format!("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n{close}a"),
        false,
    );
    // Cut short: never a clean end.
    check(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        "GET",
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n{close}abc"),
        true,
    );
    check(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "GET",
        &format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{close}3\r\nabc\r\n"),
        true,
    );
}

// proves C14
#[test]
fn broken_workloads_are_explained_to_the_owner_and_not_to_callers() {
    let check = |sent: &'static [u8], cause: &str| {
        let workload = Workload::fixed(sent);
        let rig = Rig::http(&workload);
        let reply = rig.client().ask(&get("/"));
        let problem = reply.problem();
        assert_eq!((reply.status(), problem.code.as_str()), (502, "upstream_failed"));
        assert!(!problem.detail.contains(cause), "{problem:?}");
        let told = rig.script.unanswered.lock().unwrap().clone();
        assert!(
            told.iter()
                .any(|(code, why)| code == "upstream_failed" && why.contains(cause)),
            "{told:?}"
        );
    };
    check(b"", "without an answer");
    check(b"garbage\r\n\r\n", "malformed");
    check(b"HTTP/1.1 200 OK\r\nContent-", "within a response head");
    check(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "ambiguous",
    );
    check(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "ambiguous",
    );
    check(b"HTTP/1.1 101 Switching\r\n\r\n", "ambiguous");
}

#[test]
fn an_absent_workload_is_explained() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = Upstream::Tcp(gone.local_addr().unwrap());
    drop(gone);
    let rig = Rig::start(Plan {
        upstream,
        protocol: Protocol::Http,
        limits: Limits::default(),
        phase: suijuris_gate::Phase::Open,
    });
    let reply = rig.client().ask(&get("/"));
    assert_eq!(
        (reply.status(), reply.problem().code.as_str()),
        (503, "upstream_unreachable")
    );
    assert!(reply.head.contains("retry-after: 1\r\n"));
    assert!(
        !reply.problem().detail.contains("refused"),
        "the cause is the owner's"
    );
    let told = rig.script.unanswered.lock().unwrap().clone();
    assert!(
        told.iter()
            .any(|(code, why)| code == "upstream_unreachable" && why.contains("refused")),
        "{told:?}"
    );
}

#[test]
fn a_silent_workload_is_given_up() {
    let workload = Workload::start(|conn| while conn.fill() {});
    let rig = Rig::with(
        Protocol::Http,
        &workload,
        Limits {
            response_ms: 100,
            ..Limits::default()
        },
    );
    let reply = rig.client().ask(&get("/"));
    assert_eq!(
        (reply.status(), reply.problem().code.as_str()),
        (504, "upstream_timeout")
    );
}

#[test]
fn a_connection_that_went_stale_is_replaced_once_for_idempotent_requests() {
    // Each connection answers one request, promises more, and closes.
    let workload = Workload::start(|conn| {
        let request = conn.request().unwrap();
        conn.reply(&request);
        conn.head();
    });
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    for round in 1..5 {
        assert_eq!(client.ask(&get("/")).status(), 200);
        assert_eq!(workload.touched().0, round);
    }
}

#[test]
fn http10_clients_get_what_they_can_read() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let reply = rig.ask(b"GET / HTTP/1.0\r\n\r\n");
    assert!(
        reply.contains("connection: close\r\n") && reply.contains("GET / HTTP/1.0\r\nhost: \r\n"),
        "{reply}"
    );
    let mut client = rig.client();
    for _ in 0..2 {
        let reply = client.ask(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
        assert!(reply.head.contains("connection: keep-alive\r\n"), "{reply:?}");
    }
}

#[test]
fn workloads_on_unix_sockets_are_reached() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("workload.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .unwrap();
    });
    let rig = Rig::start(Plan {
        upstream: Upstream::Unix(path),
        protocol: Protocol::Http,
        limits: Limits::default(),
        phase: suijuris_gate::Phase::Open,
    });
    assert_eq!(rig.client().ask(&get("/")).body, "hi");
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    let workload = Workload::start(|conn| while conn.fill() {});
    let rig = Rig::with(
        Protocol::Http,
        &workload,
        Limits {
            half_closed_ms: 100,
            ..Limits::default()
        },
    );
    let mut client = rig.client();
    client.send(&get("/"));
    rig.wait(|traffic| traffic.in_flight() == 1);
    drop(client);
    rig.wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
}
