//! HTTP/2 clients in front of HTTP/1.1 and HTTP/2 workloads, and the door's look at their first request.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use suijuris_api::Problem;
use suijuris_gate::probe::{Found, Probe};
use suijuris_gate::{Limits, Phase, Protocol, Refusal, Upstream};

use crate::rig::{PATIENCE, Plan, Rig, Workload, get};

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Got {
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        serde_json::from_str(&self.body).unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Sends `requests` at once over one connection; answers in their order.
pub(crate) fn ask_all(addr: SocketAddr, requests: Vec<Request<Full<Bytes>>>) -> Vec<Result<Got, String>> {
    let conversation = async {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            // Its end is the test's end.
            let _ended = connection.await;
        });
        let mut answers = Vec::new();
        for answer in requests
            .into_iter()
            .map(|request| client.clone().send_request(request))
            .collect::<Vec<_>>()
        {
            answers.push(match answer.await {
                Ok(response) => collect(response).await,
                Err(error) => Err(error.to_string()),
            });
        }
        answers
    };
    runtime().block_on(async { tokio::time::timeout(PATIENCE, conversation).await.unwrap() })
}

/// Sends requests over one connection, and leaves without an answer once `is_time` returns.
pub(crate) fn leave_behind(addr: SocketAddr, paths: &[&str], is_time: impl FnOnce()) {
    let (leaves, left) = tokio::sync::oneshot::channel::<()>();
    let requests: Vec<_> = paths.iter().map(|path| request(path, "")).collect();
    let client = std::thread::spawn(move || {
        runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            let waiting: Vec<_> = requests
                .into_iter()
                .map(|request| client.send_request(request))
                .collect();
            tokio::select! {
                _ended = connection => panic!("it was cut"),
                _told = left => {}
            }
            drop(waiting);
        });
    });
    is_time();
    leaves.send(()).unwrap();
    client.join().unwrap();
}

async fn collect(response: Response<Incoming>) -> Result<Got, String> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?;
    let trailers = body.trailers().cloned();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(Got {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers,
    })
}

pub(crate) fn request(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    Request::builder()
        .method(method)
        .uri(format!("http://h{path}"))
        .body(Full::new(body.into()))
        .unwrap()
}

/// A request in any spelling that this client can write.
pub(crate) fn build(
    method: &str,
    target: &str,
    host: &str,
    fields: &[(&str, &str)],
) -> Option<Request<Full<Bytes>>> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(host.parse().ok()?);
    uri.path_and_query = Some(target.parse().ok()?);
    let mut request = Request::builder()
        .method(method)
        .uri(http::Uri::from_parts(uri).ok()?);
    for (name, value) in fields {
        request = request.header(*name, http::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    request.body(Full::default()).ok()
}

pub(crate) fn ask(addr: SocketAddr, request: Request<Full<Bytes>>) -> Got {
    ask_all(addr, vec![request]).pop().unwrap().unwrap()
}

const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a door sends to a call of gRPC that it refuses.
fn refused_at_a_door(peer: SocketAddr) -> Vec<u8> {
    // POST http://h/ by HPACK's static table.
    let head = b"\x83\x86\x44\x01/\x41\x01h\x5f\x10application/grpc";
    let frame = [0, 0, 26, HEADERS, END_HEADERS | END_STREAM, 0, 0, 0, 1];
    let mut probe = Probe::new(peer, &Limits::default());
    probe.push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!(probe.push(&[&frame[..], &head[..]].concat()), Found::Request);
    probe.refuse(&Problem::new(403, "admit_refused", "No").into(), None)
}

/// Type and flags of each frame of the first stream.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, _, _, _, stream, rest @ ..] = bytes {
        if *stream == 1 {
            frames.push((*kind, *flags));
        }
        bytes = &rest[usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)..];
    }
    frames
}

// proves C4
#[test]
fn callers_that_speak_grpc_read_a_status_of_grpc() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let call = || {
        build(
            "POST",
            "/no.Service/Call",
            "h",
            &[("content-type", "application/grpc+proto")],
        )
        .unwrap()
    };
    let awake = ask(rig.addr, call());
    assert_eq!((awake.status, awake.body.as_str()), (200, ""));
    assert_eq!(awake.headers["content-type"], "application/grpc");
    assert_eq!(awake.headers["grpc-status"], "7");
    assert_eq!(
        awake.headers["grpc-message"],
        "The object does not admit this [not_admitted]"
    );
    assert_eq!(awake.headers["retry-after"], "7");
    assert!(awake.trailers.is_none());
    // A door's look at the first request answers in the same way: a head that ends the stream.
    assert_eq!(
        frames(&refused_at_a_door(rig.addr)).last(),
        Some(&(HEADERS, END_HEADERS | END_STREAM))
    );
    assert_eq!(workload.touched(), (0, 0));
}

// proves C3, C4
#[test]
fn refused_streams_cost_the_workload_nothing() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let answers = ask_all(rig.addr, (0..20).map(|_| request("/no", "body")).collect());
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.problem().code.as_str()),
            (403, "not_admitted")
        );
        assert_eq!(answer.headers["retry-after"], "7");
    }
    let mut mismatch = request("/", "");
    mismatch.headers_mut().insert("host", "other".parse().unwrap());
    assert_eq!(ask(rig.addr, mismatch).status, 400);
    assert_eq!(workload.touched(), (0, 0));
    assert_eq!(
        rig.order(|_, traffic| (traffic.requests(), traffic.refused())),
        (0, 21)
    );
}

// proves C3
#[test]
fn each_stream_is_judged_on_its_own() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let answers = ask_all(
        rig.addr,
        vec![request("/a", ""), request("/no", ""), request("/b", "")],
    );
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        [answers[0].status, answers[1].status, answers[2].status],
        [200, 403, 200]
    );
    assert!(
        answers[0].body.starts_with("GET /a HTTP/1.1\r\n")
            && answers[2].body.starts_with("GET /b HTTP/1.1\r\n")
    );
    rig.wait(|traffic| traffic.in_flight() == 0);
}

#[test]
fn the_workload_sees_a_clean_http1_request() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let mut sent = request("/a?b=c", "hello");
    sent.headers_mut()
        .insert("x-suijuris-object", "forged".parse().unwrap());
    sent.headers_mut()
        .insert("x-forwarded-for", "1.2.3.4".parse().unwrap());
    for cookie in ["a=1", "b=2"] {
        sent.headers_mut().append("cookie", cookie.parse().unwrap());
    }
    let seen = ask(rig.addr, sent).body.to_lowercase();
    assert!(
        seen.starts_with("post /a?b=c http/1.1\r\n") && seen.ends_with("\r\n\r\nhello"),
        "{seen}"
    );
    for line in [
        "host: h",
        "x-forwarded-for: 1.2.3.4, 127.0.0.1",
        "x-suijuris-object: me",
        "via: 2.0 suijuris",
        "cookie: a=1; b=2",
    ] {
        assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line} in {seen}");
    }
    assert!(!seen.contains("forged"));
}

#[test]
fn connections_to_the_workload_are_reused() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    for _ in 0..5 {
        assert_eq!(ask(rig.addr, request("/", "")).status, 200);
    }
    assert!(workload.touched().0 < 5);
}

#[test]
fn a_response_cut_short_is_an_error() {
    let workload = Workload::fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    let rig = Rig::http(&workload);
    assert!(ask_all(rig.addr, vec![request("/", "")]).pop().unwrap().is_err());
    let garbage = Workload::fixed(b"garbage\r\n\r\n");
    let rig = Rig::http(&garbage);
    let answer = ask(rig.addr, request("/", ""));
    assert_eq!(
        (answer.status, answer.problem().code.as_str()),
        (502, "upstream_failed")
    );
    let told = rig.script.unanswered.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(!answer.problem().detail.contains(&told[0].1), "{told:?}");
}

#[test]
fn streams_wait_for_the_verdict_and_drain() {
    let workload = Workload::echo();
    let upstream = Upstream::Tcp(workload.addr);
    let rig = Rig::start(Plan {
        upstream,
        protocol: Protocol::Http,
        limits: Limits::default(),
        phase: Phase::Holding,
    });
    let addr = rig.addr;
    let waiting = std::thread::spawn(move || ask(addr, request("/", "")));
    rig.wait(|traffic| traffic.held() == 1);
    assert_eq!(workload.touched(), (0, 0));
    rig.set(Phase::Open);
    assert_eq!(waiting.join().unwrap().status, 200);
    rig.set(Phase::Draining);
    let refused = ask(rig.addr, request("/", ""));
    assert_eq!(
        (refused.status, refused.problem().code.as_str()),
        (503, "draining")
    );
}

#[test]
fn an_idle_connection_is_closed() {
    let workload = Workload::echo();
    let rig = Rig::with(
        Protocol::Http,
        &workload,
        Limits {
            idle_ms: 200,
            drain_ms: 200,
            ..Limits::default()
        },
    );
    let mut client = rig.client();
    client.send(suijuris_gate::head::HTTP2_PREFACE);
    client.send(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    client.rest();
    rig.wait(|traffic| traffic.connections() == 0);
}

/// An HTTP/2 workload that answers with the body it got, and a trailer. Counts its connections.
fn http2_workload() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&connections);
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(with_trailer));
                tasks.spawn(async move {
                    // The gate closes when it likes.
                    let _ended = connection.await;
                });
            }
        });
    });
    (addr, connections)
}

async fn with_trailer(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
    let object = request.headers()["x-suijuris-object"].clone();
    let te = request.headers().get("te").cloned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let mut response = Response::new(Frames([Frame::data(body), Frame::trailers(trailers)].into()));
    response.headers_mut().insert("seen-object", object);
    if let Some(te) = te {
        response.headers_mut().insert("seen-te", te);
    }
    Ok(response)
}

// proves C3
#[test]
fn http2_workloads_keep_trailers_and_share_a_connection() {
    let (addr, connections) = http2_workload();
    let plan = Plan {
        upstream: Upstream::Tcp(addr),
        protocol: Protocol::H2c,
        limits: Limits::default(),
        phase: Phase::Open,
    };
    let rig = Rig::start(plan);
    assert_eq!(ask(rig.addr, request("/no", "x")).status, 403);
    assert_eq!(rig.client().ask(&get("/")).status(), 505);
    assert_eq!(
        connections.load(Ordering::SeqCst),
        0,
        "refused ones do not connect"
    );
    for _ in 0..3 {
        let mut sent = request("/svc", "hello");
        sent.headers_mut().insert("te", "trailers".parse().unwrap());
        let got = ask(rig.addr, sent);
        assert_eq!((got.status, got.body.as_str()), (200, "hello"));
        assert_eq!(got.headers["seen-object"], "me");
        assert_eq!(got.headers["seen-te"], "trailers");
        assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// A door: accepts one connection and reads until its first request is known.
fn door(listener: &TcpListener) -> (TcpStream, Probe) {
    let (mut stream, peer) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut probe = Probe::new(peer, &Limits::default());
    let mut buf = [0; 4096];
    loop {
        let read = stream.read(&mut buf).unwrap();
        assert!(read > 0, "the client gave up");
        match probe.push(&buf[..read]) {
            Found::Incomplete => {}
            Found::Request => return (stream, probe),
            Found::Bad(reject) => panic!("{reject:?}"),
        }
    }
}

// proves D4
#[test]
fn a_door_sees_the_first_request_and_hands_the_connection_on() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let asking = std::thread::spawn(move || ask(addr, request("/handed", "hello")));
    let (stream, probe) = door(&listener);
    assert_eq!(
        probe.look(|head| head.path.to_string()).unwrap().unwrap(),
        "/handed"
    );
    rig.hand_over(stream, probe.recorded());
    let got = asking.join().unwrap();
    assert!(
        got.body.to_lowercase().starts_with("post /handed http/1.1\r\n") && got.body.ends_with("hello"),
        "{got:?}"
    );
}

// proves D5
#[test]
fn a_door_refuses_on_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let asking = std::thread::spawn(move || ask(addr, request("/", "hello")));
    let (mut stream, probe) = door(&listener);
    let refusal = Refusal::from(Problem::new(403, "asleep", "Not now"));
    stream.write_all(&probe.refuse(&refusal, None)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let got = asking.join().unwrap();
    assert_eq!((got.status, got.problem().code.as_str()), (403, "asleep"));
}

/// Frames that are there already.
struct Frames(std::collections::VecDeque<Frame<Bytes>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}
