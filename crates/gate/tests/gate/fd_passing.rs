//! Connection mode: the workload gets the client's socket, the gate keeps the means to cut it.

use std::io::{IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind,
    listen, recvmsg, socket,
};
use suijuris_gate::{Limits, Phase, Protocol, Upstream};

use crate::rig::{Plan, Rig};
use crate::sys::own;

/// A workload that is sent sockets: each arrives with the message that came along.
struct Taker {
    taken: mpsc::Receiver<(TcpStream, String)>,
    rig: Rig,
    _dir: tempfile::TempDir,
}

fn taker(limits: Limits) -> Taker {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("take.sock");
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(8).unwrap()).unwrap();
    let (tell, taken) = mpsc::sync_channel(8);
    std::thread::spawn(move || {
        while let Ok(fd) = accept(listener.as_raw_fd()) {
            let channel = own(fd);
            while let Some(pair) = take(&channel) {
                tell.send(pair).unwrap();
            }
        }
    });
    let rig = Rig::start(Plan {
        upstream: Upstream::Unix(path),
        protocol: Protocol::FdPassing,
        limits,
        phase: Phase::Open,
    });
    Taker {
        taken,
        rig,
        _dir: dir,
    }
}

fn take(channel: &OwnedFd) -> Option<(TcpStream, String)> {
    let mut text = [0; 4096];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(
        channel.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .unwrap();
    let ControlMessageOwned::ScmRights(fds) = message.cmsgs().unwrap().next()? else {
        return None;
    };
    let length = message.bytes;
    let stream = TcpStream::from(own(fds[0]));
    Some((stream, String::from_utf8(text[..length].to_vec()).unwrap()))
}

#[test]
fn the_workload_talks_to_the_client_itself() {
    let taker = taker(Limits::default());
    let mut client = taker.rig.client();
    let (mut stream, text) = taker.taken.recv().unwrap();
    assert_eq!(text, format!("{}\n", client.stream.local_addr().unwrap()));
    client.send(b"hello");
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    stream.write_all(b"world").unwrap();
    assert_eq!((&got, client.exactly(5).as_slice()), (b"hello", &b"world"[..]));
    assert_eq!(
        taker
            .rig
            .order(|_, traffic| (traffic.in_flight(), traffic.connections())),
        (1, 1)
    );
    stream.shutdown(Shutdown::Both).unwrap();
    assert!(client.rest().is_empty());
    taker
        .rig
        .wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
}

#[test]
fn a_client_that_left_is_noticed() {
    let taker = taker(Limits {
        half_closed_ms: 100,
        ..Limits::default()
    });
    let clients: Vec<_> = (0..5).map(|_| taker.rig.client()).collect();
    let held: Vec<_> = (0..5).map(|_| taker.taken.recv().unwrap()).collect();
    taker.rig.wait(|traffic| traffic.in_flight() == 5);
    drop(clients);
    taker
        .rig
        .wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
    drop(held);
}

// proves C3
#[test]
fn a_refused_connection_is_not_handed_over() {
    let taker = taker(Limits::default());
    taker.rig.script.refuses_connections.store(true, Ordering::SeqCst);
    assert!(taker.rig.client().rest().is_empty());
    taker
        .rig
        .wait(|traffic| traffic.refused() == 1 && traffic.connections() == 0);
    assert!(taker.taken.try_recv().is_err());
}

#[test]
fn the_gate_can_cut_what_it_handed_over() {
    let taker = taker(Limits::default());
    let mut client = taker.rig.client();
    let (mut stream, _) = taker.taken.recv().unwrap();
    taker.rig.wait(|traffic| traffic.in_flight() == 1);
    taker.rig.order(|control, _| control.cut_all());
    assert!(client.rest().is_empty());
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
    assert!(stream.write_all(b"more").is_err());
    taker.rig.wait(|traffic| traffic.in_flight() == 0);
}

#[test]
fn what_was_handed_over_is_cut_when_it_is_admitted_no_more() {
    let taker = taker(Limits::default());
    let mut client = taker.rig.client();
    let (mut stream, _) = taker.taken.recv().unwrap();
    taker.rig.wait(|traffic| traffic.in_flight() == 1);
    taker.rig.order(|control, _| control.ask_again());
    stream.write_all(b"still").unwrap();
    assert_eq!(client.exactly(5), b"still");
    taker.rig.script.refuses_connections.store(true, Ordering::SeqCst);
    taker.rig.order(|control, _| control.ask_again());
    assert!(client.rest().is_empty());
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
    taker.rig.wait(|traffic| traffic.in_flight() == 0);
}

// proves C6
#[test]
fn what_was_handed_over_is_cut_when_the_gate_holds_for_it_cannot_wait() {
    let taker = taker(Limits::default());
    let mut client = taker.rig.client();
    let (mut stream, _) = taker.taken.recv().unwrap();
    taker.rig.wait(|traffic| traffic.in_flight() == 1);
    taker.rig.set(Phase::Holding);
    assert!(client.rest().is_empty());
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
    taker
        .rig
        .wait(|traffic| traffic.in_flight() == 0 && traffic.connections() == 0);
}
