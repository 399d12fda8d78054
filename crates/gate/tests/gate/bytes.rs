//! Connections of which the gate has the bytes only: they are served, ended and cut as sockets are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use suijuris_gate::{Accepted, Limits, Phase, Protocol};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::{ask, request};
use crate::rig::{Client, Conn, Rig, Workload, get};

/// Bytes that tell whether they were ended.
struct Watched {
    stream: tokio::net::TcpStream,
    ended: Arc<AtomicBool>,
}

/// Call it within a runtime.
pub(crate) async fn bytes_of(stream: TcpStream, ended: Arc<AtomicBool>) -> Accepted {
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    // As bytes that come over a link: what is written once is taken.
    stream.writable().await.unwrap();
    Accepted::Bytes(
        Box::new(Watched { stream, ended }),
        ([192, 0, 2, 7], 4_711).into(),
    )
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.ended.store(true, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client whose connection the gate has as bytes, and whether that was ended.
fn connected(rig: &Rig) -> (Client, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::connect(listener.local_addr().unwrap());
    let (stream, _) = listener.accept().unwrap();
    (client, rig.hand_over_bytes(stream))
}

#[test]
fn requests_follow_each_other_and_the_workload_learns_who_asks() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let (mut client, ended) = connected(&rig);
    for path in ["/a", "/b"] {
        let reply = client.ask(&get(path));
        assert_eq!(reply.status(), 200);
        let body = reply.body.to_lowercase();
        assert!(
            body.contains(&format!("get {path} http/1.1")) && body.contains("192.0.2.7"),
            "{body}"
        );
    }
    assert_eq!(client.ask(&get("/no")).status(), 403);
    assert!(!ended.load(Ordering::SeqCst));
    client.send(b"GET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let rest = String::from_utf8(client.rest()).unwrap();
    assert!(rest.contains("GET /c HTTP/1.1"), "{rest}");
    rig.wait(|traffic| traffic.connections() == 0);
    assert!(
        ended.load(Ordering::SeqCst),
        "it was cut where it had to be ended"
    );
}

#[test]
fn http2_is_spoken_over_bytes() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let asking = std::thread::spawn(move || ask(addr, request("/two", "hello")));
    let (stream, _) = listener.accept().unwrap();
    let ended = rig.hand_over_bytes(stream);
    let got = asking.join().unwrap();
    assert!(got.body.ends_with("hello"), "{got:?}");
    rig.wait(|traffic| traffic.connections() == 0);
    assert!(ended.load(Ordering::SeqCst));
}

fn echo_bytes(conn: &mut Conn) {
    let mut buf = [0; 4096];
    while let Ok(read @ 1..) = conn.stream.read(&mut buf) {
        conn.stream.write_all(&buf[..read]).unwrap();
    }
    conn.stream.write_all(b"bye").unwrap();
    conn.stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn a_raw_connection_passes_both_ways_and_half_closes_travel() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    let (mut client, ended) = connected(&rig);
    let mut sender = client.stream.try_clone().unwrap();
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let copy = sent.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&copy).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let got = client.rest();
    sending.join().unwrap();
    assert!(got.len() == sent.len() + 3 && got.starts_with(&sent) && got.ends_with(b"bye"));
    assert!(ended.load(Ordering::SeqCst));
}

#[test]
fn what_is_refused_or_cut_is_not_ended() {
    let workload = Workload::start(echo_bytes);
    let rig = Rig::with(Protocol::Tcp, &workload, Limits::default());
    rig.script.refuses_connections.store(true, Ordering::SeqCst);
    let (mut client, ended) = connected(&rig);
    assert!(client.rest().is_empty());
    assert!(!ended.load(Ordering::SeqCst));
    rig.script.refuses_connections.store(false, Ordering::SeqCst);
    let (mut client, ended) = connected(&rig);
    client.send(b"hello");
    assert_eq!(client.exactly(5), b"hello");
    rig.set(Phase::Closed);
    assert!(client.rest().is_empty());
    assert!(!ended.load(Ordering::SeqCst));
}

#[test]
fn one_too_many_is_turned_away_with_an_answer() {
    let workload = Workload::echo();
    let limits = Limits {
        max_connections: 1,
        ..Limits::default()
    };
    let rig = Rig::with(Protocol::Http, &workload, limits);
    let (mut first, _) = connected(&rig);
    first.send(&get("/hold"));
    rig.wait(|traffic| traffic.held() == 1);
    let (mut second, ended) = connected(&rig);
    assert_eq!(second.reply().status(), 503);
    // Whatever the gate was doing, it has done.
    rig.order(|_, _| ());
    assert!(ended.load(Ordering::SeqCst));
}
