//! Load limits: soft ones spread, hard ones hold.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use suijuris_proxy::fleet::{Counts, State};

use crate::rig::{Rig, echo, machine, ok, server};

// proves F3
#[test]
fn no_machine_gets_more_than_its_hard_limit_and_the_rest_waits() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (Arc::clone(&now), Arc::clone(&most));
    let at = server(move |_, _| {
        let count = inside.fetch_add(1, Ordering::SeqCst) + 1;
        peak.fetch_max(count, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        inside.fetch_sub(1, Ordering::SeqCst);
        ok("", "x")
    });
    let mut one = machine("one", at);
    one.hard = Some(2);
    let rig = Rig::with(vec![one], |options| options.threads = 2);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| rig.get("a.localhost", "/", "").status))
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 12]);
    assert!(most.load(Ordering::SeqCst) <= 2);
}

// proves F3
#[test]
fn who_tries_a_machine_again_does_not_wait_behind_itself() {
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut one = machine("one", at);
    one.hard = Some(1);
    let rig = Rig::with(vec![one], |options| options.hold = Duration::from_secs(10));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| rig.get("a.localhost", "/", ""));
        // It listens once it was tried.
        std::thread::sleep(Duration::from_millis(50));
        let listener = TcpListener::bind(at).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 1_024];
        let _read = stream.read(&mut head).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
            .unwrap();
        let reply = asked.join().unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (200, "late"));
    });
}

#[test]
fn a_long_queue_is_told_so() {
    let mut one = machine("one", echo("one"));
    one.hard = Some(0);
    let rig = Rig::with(vec![one], |options| options.hold = Duration::from_millis(100));
    let reply = rig.get("a.localhost", "/", "");
    assert!(reply.status == 503 && reply.has("machines_full"), "{reply:?}");
}

// proves F3
#[test]
fn above_the_soft_limit_another_machine_starts() {
    let mut over = machine("over", echo("over"));
    over.soft = 0;
    let mut rested = machine("rested", echo("rested"));
    rested.state = State::Resting;
    let rig = Rig::new(vec![over, rested]);
    assert!(rig.get("a.localhost", "/", "").body.starts_with("rested"));
    assert_eq!(rig.starts(), 1);
}

#[test]
fn connections_are_shared_where_requests_are_counted() {
    for (counts, connections) in [(Counts::Requests, 1), (Counts::Connections, 5)] {
        let mut one = machine("one", echo("one"));
        one.counts = counts;
        let rig = Rig::new(vec![one]);
        for _ in 0..5 {
            assert_eq!(rig.get("a.localhost", "/", "").status, 200);
        }
        assert_eq!(
            rig.fleet.connects.load(Ordering::SeqCst),
            connections,
            "{counts:?}"
        );
    }
}

// proves F3
#[test]
fn clients_steer_by_region_and_machine() {
    let mut far = machine("far", echo("far"));
    far.region = "iad";
    let rig = Rig::new(vec![machine("near", echo("near")), far]);
    let goes = |fields: &str| {
        let reply = rig.get("a.localhost", "/", fields);
        let name = reply.body.lines().next().unwrap_or_default().to_owned();
        (reply.status, name, reply)
    };
    assert_eq!(goes("").1, "near");
    assert_eq!(goes("fly-prefer-region: iad\r\n").1, "far");
    assert_eq!(goes("fly-prefer-region: syd\r\n").1, "near");
    assert_eq!(goes("fly-force-region: us\r\n").1, "far");
    assert_eq!(goes("fly-force-region: syd\r\n").0, 503);
    assert_eq!(goes("fly-force-instance-id: far\r\n").1, "far");
    assert_eq!(goes("fly-force-instance-id: none\r\n").0, 503);
    assert_eq!(goes("fly-prefer-instance-id: far\r\n").1, "far");
    let (_, name, reply) = goes("fly-prefer-instance-id: none\r\n");
    assert_eq!(name, "near");
    assert!(reply.has("fly-preferred-instance-unavailable: none"), "{reply:?}");
}
