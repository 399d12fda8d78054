//! Refusals: useful to the client, free for the workload, whatever the way in.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use suijuris_gate::{Gate, Limits, Phase, Protocol, Upstream};

use crate::rig::{Client, Plan, Rig, Workload, get};

fn held(workload: &Workload, limits: Limits) -> Rig {
    let upstream = Upstream::Tcp(workload.addr);
    Rig::start(Plan {
        upstream,
        protocol: Protocol::Http,
        limits,
        phase: Phase::Holding,
    })
}

// proves C3, C4
#[test]
fn a_refused_request_is_answered_usefully_and_costs_nothing() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let reply = rig.client().ask(&get("/no"));
    assert_eq!(reply.status(), 403);
    assert!(reply.head.contains("retry-after: 7\r\n"), "{reply:?}");
    let problem = reply.problem();
    assert_eq!(
        (problem.code.as_str(), problem.retry_after),
        ("not_admitted", Some(7))
    );
    assert_eq!(workload.touched(), (0, 0));
    assert_eq!(
        rig.order(|_, traffic| (traffic.requests(), traffic.refused())),
        (0, 1)
    );
}

// proves C3
#[test]
fn refused_bodies_upgrades_and_slow_requests_cost_nothing() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let upgrade = b"GET /no HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(rig.client().ask(upgrade).status(), 403);
    let whole = b"POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let mut client = rig.client();
    assert_eq!(client.ask(whole).status(), 403);
    assert_eq!(
        client.ask(whole).status(),
        403,
        "the body was here, so the connection goes on"
    );
    let part = b"POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\nabc";
    let reply = client.ask(part);
    assert_eq!(reply.status(), 403);
    assert!(reply.head.contains("connection: close\r\n"));
    client.finish();
    assert!(client.rest().is_empty());
    let mut slow = rig.client();
    for byte in get("/no") {
        slow.send(&[byte]);
    }
    assert_eq!(slow.reply().status(), 403);
    assert_eq!(workload.touched(), (0, 0));
}

// proves C3
#[test]
fn each_request_of_a_connection_is_judged_on_its_own() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    assert_eq!(client.ask(&get("/a")).status(), 200);
    let before = workload.touched();
    assert_eq!(client.ask(&get("/no")).status(), 403);
    assert_eq!(workload.touched(), before);
    assert_eq!(client.ask(&get("/b")).status(), 200);
    client.send(&[get("/1"), get("/no"), get("/2")].concat());
    let replies = [client.reply(), client.reply(), client.reply()];
    assert_eq!(replies.each_ref().map(|reply| reply.status()), [200, 403, 200]);
    assert!(
        replies[0].body.contains("GET /1 ") && replies[2].body.contains("GET /2 "),
        "in order"
    );
    assert_eq!(workload.touched().0, 1, "one kept connection served them all");
}

// proves C3
#[test]
fn a_refused_raw_connection_ends_without_a_byte() {
    let workload = Workload::echo();
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    rig.script.refuses_connections.store(true, Ordering::SeqCst);
    let mut client = rig.client();
    // It may be gone before this is sent.
    let _gone = std::io::Write::write_all(&mut client.stream, b"hello");
    assert!(client.rest().is_empty());
    assert_eq!(workload.touched(), (0, 0));
}

#[test]
fn early_requests_wait_for_the_verdict() {
    let workload = Workload::echo();
    let rig = held(&workload, Limits::default());
    let (mut yes, mut no) = (rig.client(), rig.client());
    yes.send(&get("/a"));
    no.send(&get("/no"));
    rig.wait(|traffic| traffic.held() == 2);
    assert_eq!(workload.touched(), (0, 0));
    assert_eq!(
        rig.script.asked.load(Ordering::SeqCst),
        0,
        "the authorizer is not asked before its time"
    );
    rig.set(Phase::Open);
    assert_eq!((yes.reply().status(), no.reply().status()), (200, 403));
}

#[test]
fn a_judge_may_hold_a_single_request() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    client.send(&get("/hold"));
    rig.wait(|traffic| traffic.held() == 1);
    assert_eq!(rig.client().ask(&get("/other")).status(), 200);
    rig.script.released.store(true, Ordering::SeqCst);
    rig.order(|control, _| control.ask_again());
    assert_eq!(client.reply().status(), 200);
}

// proves C4
#[test]
fn waiting_is_bounded_in_number_and_time() {
    let workload = Workload::echo();
    let rig = held(
        &workload,
        Limits {
            max_held: 1,
            hold_ms: 300,
            ..Limits::default()
        },
    );
    let mut first = rig.client();
    first.send(&get("/"));
    rig.wait(|traffic| traffic.held() == 1);
    let full = rig.client().ask(&get("/"));
    assert_eq!((full.status(), full.problem().code.as_str()), (503, "held_full"));
    let late = first.reply();
    assert_eq!(
        (late.status(), late.problem().code.as_str()),
        (503, "hold_timeout")
    );
    assert!(late.head.contains("retry-after: "));
    assert_eq!(workload.touched(), (0, 0));
}

#[test]
fn draining_finishes_what_runs_and_refuses_what_comes() {
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let wait = std::sync::Mutex::new(wait);
    let workload = Workload::start(move |conn| {
        while let Some(request) = conn.request() {
            wait.lock().unwrap().recv().unwrap();
            conn.reply(&request);
        }
    });
    let rig = Rig::http(&workload);
    let (mut running, mut idle) = (rig.client(), rig.client());
    go.send(()).unwrap();
    assert_eq!(idle.ask(&get("/")).status(), 200);
    running.send(&get("/"));
    rig.wait(|traffic| traffic.in_flight() == 1);
    rig.set(Phase::Draining);
    assert!(idle.rest().is_empty(), "idle connections are closed");
    let refused = rig.client().ask(&get("/"));
    assert_eq!(
        (refused.status(), refused.problem().code.as_str()),
        (503, "draining")
    );
    go.send(()).unwrap();
    let reply = running.reply();
    assert_eq!(reply.status(), 200);
    assert!(reply.head.contains("connection: close\r\n"));
    rig.wait(|traffic| traffic.in_flight() == 0);
}

#[test]
fn who_has_asked_before_the_gate_drains_is_judged_still() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let (mut first, mut kept) = (rig.client(), rig.client());
    assert_eq!(kept.ask(&get("/")).status(), 200);
    rig.wait(|traffic| traffic.connections() == 2);
    let wires = [&first, &kept].map(|client| client.stream.try_clone().unwrap());
    rig.order(move |control, _| {
        // The gate has had no turn to read it.
        for mut wire in wires {
            wire.write_all(&get("/")).unwrap();
        }
        control.begin_drain();
        let control = control.clone();
        tokio::task::spawn_local(async move { control.last_turn().await });
    });
    for client in [&mut first, &mut kept] {
        let reply = client.reply();
        assert_eq!(reply.status(), 200);
        assert!(reply.head.contains("connection: close\r\n"), "{}", reply.head);
    }
    while rig.order(|control, _| control.phase()) != Phase::Draining {
        std::thread::yield_now();
    }
    let refused = rig.client().ask(&get("/"));
    assert_eq!(refused.problem().code, "draining");
}

#[test]
fn a_gate_that_never_opened_drains_at_once() {
    let workload = Workload::echo();
    let rig = held(&workload, Limits::default());
    let mut client = rig.client();
    client.send(&get("/"));
    rig.wait(|traffic| (traffic.held(), traffic.waiting()) == (1, 1));
    rig.order(|control, _| control.begin_drain());
    assert_eq!(client.reply().problem().code, "draining");
    rig.wait(|traffic| (traffic.held(), traffic.waiting()) == (0, 0));
    assert_eq!(workload.touched(), (0, 0));
}

fn drains_soon(workload: &Workload) -> Rig {
    let limits = Limits {
        drain_ms: 200,
        ..Limits::default()
    };
    Rig::with(Protocol::Http, workload, limits)
}

#[test]
fn what_has_no_answer_when_the_drain_ends_is_told_that_the_object_went_to_sleep() {
    let workload = Workload::start(|conn| while conn.fill() {});
    let rig = drains_soon(&workload);
    let mut client = rig.client();
    client.send(&get("/"));
    let addr = rig.addr;
    let over_http2 = std::thread::spawn(move || {
        let reply = crate::http2::ask(addr, crate::http2::request("/", ""));
        (reply.status, reply.problem().code)
    });
    rig.wait(|traffic| traffic.in_flight() == 2);
    rig.set(Phase::Draining);
    let reply = client.reply();
    assert_eq!((reply.status(), reply.problem().code.as_str()), (503, "draining"));
    assert!(reply.head.contains("retry-after: 1\r\n"), "{}", reply.head);
    assert!(reply.problem().detail.contains("may have acted"));
    assert_eq!(over_http2.join().unwrap(), (503, "draining".to_owned()));
    rig.wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
    assert!(
        rig.script.unanswered.lock().unwrap().is_empty(),
        "nobody did wrong"
    );
}

#[test]
fn a_workload_that_is_stopped_while_the_object_drains_did_nothing_wrong() {
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    let stopped = std::sync::Mutex::new(stopped);
    let workload = Workload::start(move |conn| {
        let _asked = conn.request();
        stopped.lock().unwrap().recv().unwrap();
    });
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    client.send(&get("/"));
    rig.wait(|traffic| traffic.in_flight() == 1);
    rig.set(Phase::Draining);
    stop.send(()).unwrap();
    let reply = client.reply();
    assert_eq!((reply.status(), reply.problem().code.as_str()), (503, "draining"));
    assert!(rig.script.unanswered.lock().unwrap().is_empty());
}

#[test]
fn an_answer_that_has_begun_when_the_drain_ends_is_cut() {
    let workload = Workload::start(|conn| {
        let _asked = conn.request();
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        while conn.fill() {}
    });
    let rig = drains_soon(&workload);
    let mut client = rig.client();
    client.send(&get("/"));
    client.until(b"half");
    rig.set(Phase::Draining);
    assert!(client.is_reset());
    rig.wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
}

#[test]
fn closing_cuts_everything() {
    let workload = Workload::start(|conn| while conn.fill() {});
    let rig = Rig::http(&workload);
    let (mut idle, mut running) = (rig.client(), rig.client());
    running.send(&get("/"));
    rig.wait(|traffic| traffic.in_flight() == 1 && traffic.connections() == 2);
    rig.order(|control, _| control.cut_all());
    assert!(idle.rest().is_empty());
    assert!(running.is_reset());
    rig.wait(|traffic| traffic.connections() == 0);
    let mut after = rig.client();
    after.send(&get("/"));
    rig.wait(|traffic| traffic.in_flight() == 1);
    rig.set(Phase::Closed);
    assert!(after.is_reset());
}

#[test]
fn a_connection_handed_over_goes_on_where_it_was() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(listener.local_addr().unwrap());
    let (stream, _): (TcpStream, _) = listener.accept().unwrap();
    let (prefix, rest) = (b"GET /handed HT".to_vec(), b"TP/1.1\r\nHost: h\r\n\r\n");
    rig.hand_over(stream, prefix);
    client.send(rest);
    assert!(client.reply().body.contains("GET /handed HTTP/1.1"));
}

#[test]
fn a_draining_gate_can_leave_connections_to_the_next_process() {
    let workload = Workload::echo();
    let upstream = Upstream::Tcp(workload.addr);
    let plan = Plan {
        upstream,
        protocol: Protocol::Http,
        limits: Limits::default(),
        phase: Phase::Open,
    };
    let (rig, shared) = Rig::launch(plan, Gate::keeping_backlog);
    assert_eq!(rig.client().ask(&get("/")).status(), 200);
    rig.set(Phase::Draining);
    let client = rig.client();
    drop(rig);
    shared.set_nonblocking(false).unwrap();
    let (_, peer) = shared.accept().unwrap();
    assert_eq!(peer, client.stream.local_addr().unwrap());
}

#[test]
fn a_gate_that_is_dropped_leaves_nothing_open() {
    let workload = Workload::start(|conn| while conn.fill() {});
    let rig = Rig::http(&workload);
    let (mut idle, mut running) = (rig.client(), rig.client());
    running.send(&get("/"));
    rig.wait(|traffic| traffic.in_flight() == 1 && traffic.connections() == 2);
    let addr = rig.addr;
    drop(rig);
    assert!(idle.rest().is_empty());
    assert!(running.is_reset());
    assert!(TcpStream::connect(addr).is_err());
}
