//! A gate on a thread of its own, a scripted authorizer, and a workload that counts what reaches it.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use suijuris_api::Problem;
use suijuris_gate::{
    Accepted, Admission, Authorizer, Claim, Control, Forwarding, Gate, Handoff, Limits, Peer, Phase,
    Protocol, Refusal, RequestHead, Traffic, Upstream,
};
use tokio::sync::mpsc;

use crate::bytes::bytes_of;

/// Longer than any of these tests may take: a guard against hanging, not a measurement.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Refuses paths under `/no` and, when told, connections; holds `/hold` until told otherwise.
pub(crate) struct Script {
    pub(crate) released: AtomicBool,
    pub(crate) refuses_connections: AtomicBool,
    pub(crate) asked: AtomicUsize,
    /// Says to the workload what it judged, `x-allow` being exposed to its rules.
    pub(crate) tells: AtomicBool,
    /// What the owner is told of requests without an answer: code and cause.
    pub(crate) unanswered: Mutex<Vec<(String, String)>>,
}

pub(crate) struct Scripted(Arc<Script>);

impl Authorizer for Scripted {
    type Permit = ();

    fn admit(&self, head: &RequestHead<'_>, out: &mut Forwarding) -> Admission<()> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        if head.path == "/hold" && !self.0.released.load(Ordering::SeqCst) {
            return Admission::Hold;
        }
        if head.path.starts_with("/no") {
            return Admission::Refuse(Box::new(no()));
        }
        out.push("x-suijuris-object", "me").unwrap();
        if self.0.tells.load(Ordering::SeqCst) {
            let allow = match head.exposed("x-allow") {
                Ok(allow) => allow.map_or("-".to_owned(), Cow::into_owned),
                Err(reject) => return Admission::Refuse(Box::new(reject.into())),
            };
            let (query, protocol) = (
                head.query.map(|query| format!("?{query}")),
                head.upgrade.unwrap_or("http"),
            );
            let judged = format!(
                "{} {}{} {} {protocol} {allow}",
                head.method,
                head.path,
                query.unwrap_or_default(),
                head.authority()
            );
            out.push("x-suijuris-judged", &judged).unwrap();
        }
        Admission::Forward(())
    }

    fn connect(&self, _: Peer<'_>) -> Admission<()> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        if self.0.refuses_connections.load(Ordering::SeqCst) {
            return Admission::Refuse(Box::new(no()));
        }
        Admission::Forward(())
    }

    fn unanswered(&self, code: &'static str, why: &dyn std::fmt::Display) {
        let mut told = self.0.unanswered.lock().unwrap();
        told.push((code.to_owned(), why.to_string()));
    }
}

fn no() -> Refusal {
    let mut problem = Problem::new(403, "not_admitted", "The object does not admit this");
    problem.retry_after = Some(7);
    problem.into()
}

/// What reached the workload.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) bytes: AtomicUsize,
}

/// A workload: one thread for each connection, which runs `serve`.
pub(crate) struct Workload {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
}

impl Workload {
    pub(crate) fn start(serve: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, serve) = (Arc::<Seen>::default(), Arc::new(serve));
        let counted = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, serve) = (Arc::clone(&counted), Arc::clone(&serve));
                seen.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    serve(&mut Conn {
                        stream: stream.unwrap(),
                        unread: Vec::new(),
                        seen,
                    });
                });
            }
        });
        Self { addr, seen }
    }

    /// Answers each request with what it received of it: the head, then the body as framed.
    pub(crate) fn echo() -> Self {
        Self::start(|conn| {
            while let Some(request) = conn.request() {
                conn.reply(&request);
            }
        })
    }

    /// Answers the first request of each connection with `bytes` and closes.
    pub(crate) fn fixed(bytes: &'static [u8]) -> Self {
        Self::start(move |conn| {
            if conn.request().is_some() {
                conn.stream.write_all(bytes).unwrap();
            }
        })
    }

    pub(crate) fn touched(&self) -> (usize, usize) {
        (
            self.seen.connections.load(Ordering::SeqCst),
            self.seen.bytes.load(Ordering::SeqCst),
        )
    }
}

/// The workload's end of a connection.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
    seen: Arc<Seen>,
}

impl Conn {
    pub(crate) fn fill(&mut self) -> bool {
        let mut buf = [0; 64 * 1024];
        let read = self.stream.read(&mut buf).unwrap_or(0);
        self.seen.bytes.fetch_add(read, Ordering::SeqCst);
        self.unread.extend_from_slice(&buf[..read]);
        read > 0
    }

    /// Bytes up to and including `end`.
    pub(crate) fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return Some(self.unread.drain(..at + end.len()).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    pub(crate) fn head(&mut self) -> Option<Vec<u8>> {
        self.until(b"\r\n\r\n")
    }

    /// A whole request, head and body.
    pub(crate) fn request(&mut self) -> Option<Vec<u8>> {
        let mut request = self.head()?;
        let head = String::from_utf8_lossy(&request).to_lowercase();
        if head.contains("transfer-encoding: chunked") {
            request.extend(self.until(b"0\r\n\r\n")?);
        } else if let Some((_, rest)) = head.split_once("content-length: ") {
            let length: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
            while self.unread.len() < length {
                if !self.fill() {
                    return None;
                }
            }
            request.extend(self.unread.drain(..length));
        }
        Some(request)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn reply(&mut self, body: &[u8]) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        // The gate may have gone; then the test looks elsewhere.
        let _gone = self.stream.write_all(&[head.as_bytes(), body].concat());
    }
}

type Order = Box<dyn FnOnce(&Control, &Traffic) + Send>;

/// A connection accepted elsewhere, with what was read from it; its claim is made on the gate's thread.
type Passed = (TcpStream, Vec<u8>, Option<Arc<AtomicBool>>);

/// A running gate.
pub(crate) struct Rig {
    pub(crate) addr: SocketAddr,
    pub(crate) script: Arc<Script>,
    passing: mpsc::Sender<Passed>,
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Plan {
    pub(crate) upstream: Upstream,
    pub(crate) protocol: Protocol,
    pub(crate) limits: Limits,
    pub(crate) phase: Phase,
}

impl Rig {
    /// HTTP in front of `workload`, open.
    pub(crate) fn http(workload: &Workload) -> Self {
        Self::with(Protocol::Http, workload, Limits::default())
    }

    pub(crate) fn with(protocol: Protocol, workload: &Workload, limits: Limits) -> Self {
        Self::start(Plan {
            upstream: Upstream::Tcp(workload.addr),
            protocol,
            limits,
            phase: Phase::Open,
        })
    }

    pub(crate) fn start(plan: Plan) -> Self {
        Self::launch(plan, |gate| gate).0
    }

    /// The gate as `adjust` makes it, and its listener as another process would share it.
    pub(crate) fn launch(
        plan: Plan,
        adjust: impl FnOnce(Gate<Scripted>) -> Gate<Scripted> + Send + 'static,
    ) -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = listener.try_clone().unwrap();
        let script = Arc::new(Script {
            released: AtomicBool::new(false),
            refuses_connections: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            tells: AtomicBool::new(false),
            unanswered: Mutex::default(),
        });
        let (passing, mut handed) = mpsc::channel::<Passed>(4);
        let (orders, mut ordered) = mpsc::channel::<Order>(16);
        let authorizer = Scripted(Arc::clone(&script));
        let thread = thread::spawn(move || {
            let control = Control::new(plan.phase);
            let gate = adjust(Gate::new(
                authorizer,
                plan.upstream,
                plan.protocol,
                plan.limits,
                control.clone(),
            ));
            let traffic = gate.traffic();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let obey = async {
                    while let Some(order) = ordered.recv().await {
                        order(&control, &traffic);
                    }
                };
                let (hand_over, handed_over) = mpsc::channel(4);
                let hand = async {
                    while let Some((stream, prefix, ended)) = handed.recv().await {
                        let claim = Claim::default();
                        let stream = match ended {
                            None => Accepted::Socket(stream),
                            Some(ended) => bytes_of(stream, ended).await,
                        };
                        let handoff = Handoff {
                            client: None,
                            stream,
                            prefix,
                            claim,
                        };
                        assert!(hand_over.send(handoff).await.is_ok());
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    served = gate.serve(listener, handed_over) => served.unwrap(),
                    () = obey => {}
                    () = hand => {}
                }
            });
        });
        (
            Self {
                addr,
                script,
                passing,
                orders,
                thread: Some(thread),
            },
            shared,
        )
    }

    /// Hands a connection to the gate that was accepted elsewhere.
    pub(crate) fn hand_over(&self, stream: TcpStream, prefix: Vec<u8>) {
        self.passing.blocking_send((stream, prefix, None)).unwrap();
    }

    /// Hands over the bytes of a connection that is elsewhere, from a peer at 192.0.2.7; turns true when the gate has ended
    /// them, which it does not where it cuts them.
    pub(crate) fn hand_over_bytes(&self, stream: TcpStream) -> Arc<AtomicBool> {
        let ended = Arc::new(AtomicBool::new(false));
        let handed = (stream, Vec::new(), Some(Arc::clone(&ended)));
        self.passing.blocking_send(handed).unwrap();
        ended
    }

    /// Runs `order` on the gate's thread.
    pub(crate) fn order<T: Send + 'static>(
        &self,
        order: impl FnOnce(&Control, &Traffic) -> T + Send + 'static,
    ) -> T {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let order: Order = Box::new(move |control, traffic| tell.send(order(control, traffic)).unwrap());
        assert!(self.orders.blocking_send(order).is_ok(), "the gate ended");
        told.recv_timeout(PATIENCE).unwrap()
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.order(move |control, _| control.set(phase));
    }

    /// Waits until the counters satisfy `condition`.
    pub(crate) fn wait(&self, condition: impl Fn(&Traffic) -> bool + Clone + Send + 'static) {
        let begin = Instant::now();
        loop {
            let condition = condition.clone();
            if self.order(move |_, traffic| condition(traffic)) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the gate did not get there");
            thread::yield_now();
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    /// One request on its own connection; everything that came back.
    pub(crate) fn ask(&self, bytes: &[u8]) -> String {
        let mut client = self.client();
        client.send(bytes);
        String::from_utf8_lossy(&client.rest()).into_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let (orders, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.orders, orders));
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A plain socket client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

/// One response: its head in lower case, and its body as framed.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn problem(&self) -> Problem {
        assert!(
            self.head.contains("content-type: application/problem+json\r\n"),
            "{self:?}"
        );
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// False at the end, also where it is a reset.
    pub(crate) fn fill(&mut self) -> bool {
        let mut buf = [0; 64 * 1024];
        match self.stream.read(&mut buf) {
            Ok(read) => {
                self.unread.extend_from_slice(&buf[..read]);
                read > 0
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.unread)
    }

    /// Whether the connection ended by a reset, after everything before it was read.
    pub(crate) fn is_reset(&mut self) -> bool {
        let mut buf = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buf) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    pub(crate) fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.unread.len() < bytes {
            assert!(
                self.fill(),
                "ended early: {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        }
        self.unread.drain(..bytes).collect()
    }

    pub(crate) fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return self.unread.drain(..at + end.len()).collect();
            }
            assert!(
                self.fill(),
                "ended early: {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        }
    }

    /// The next response, with a body if its head says so.
    pub(crate) fn reply(&mut self) -> Reply {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).unwrap().to_lowercase();
        let body = match head.split_once("content-length: ") {
            Some((_, rest)) => self.exactly(rest.split("\r\n").next().unwrap().parse().unwrap()),
            None if head.contains("transfer-encoding: chunked") => self.until(b"0\r\n\r\n"),
            None => Vec::new(),
        };
        Reply {
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) fn ask(&mut self, bytes: &[u8]) -> Reply {
        self.send(bytes);
        self.reply()
    }
}

/// `GET path` with a Host.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
}
