//! The first request on an HTTP/2 connection, found before a byte is answered. For the door.
//!
//! While an object sleeps the door must know what is asked without committing the connection: on a permit the
//! runtime's gate takes it over and speaks first. So hyper's server runs here over memory: it reads what the client
//! sent, which is recorded, and what it wants to say is kept back. Refuse, and that is sent; permit, and it is
//! forgotten and the recorded bytes go to the gate with the socket.
//!
//! Some clients (gRPC) wait for the server's SETTINGS before they ask anything. [`Probe::greet`] gives bytes that may
//! be sent early; the client's acknowledgement of them is then left out of what is recorded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http2;
use hyper::service::service_fn;

use crate::cors::Reader;
use crate::head::{Reject, RequestHead};
use crate::http2::head;
use crate::limits::Limits;
use crate::refusal::{self, Refusal};

/// Recorded at most: a head at its limit and the first window of a body (64 KiB), with room for other frames.
pub const RECORDED_BYTES: usize = 128 * 1024;

/// No stream was served, and nothing is wrong (RFC 9113 §6.8).
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An empty SETTINGS frame: the least a server may say first (RFC 9113 §3.4).
const GREETING: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Its acknowledgement.
const ACKNOWLEDGEMENT: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
const FRAME_HEADER_BYTES: usize = 9;
/// More turns than any exchange of frames over memory needs; a bound against livelock only.
const TURNS: usize = 1024;

type Parts = http::request::Parts;
type Answer = http::Response<Full<Bytes>>;
type Task = Pin<Box<dyn Future<Output = ()>>>;
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// One connection whose first request is awaited.
pub struct Probe {
    peer: SocketAddr,
    max_headers: usize,
    recorded: Vec<u8>,
    greeted: bool,
    wire: Rc<RefCell<Wire>>,
    slot: Rc<RefCell<Slot>>,
    tasks: Tasks,
    connection: Option<Connection>,
    woken: Arc<Woken>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("recorded", &self.recorded.len())
            .finish_non_exhaustive()
    }
}

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No request yet; nothing wrong so far.
    Incomplete,
    /// [`Probe::look`] shows it.
    Request,
    /// Not HTTP/2, or too much before the first request; close the connection.
    Bad(Reject),
}

impl Probe {
    /// A probe of the connection from `peer`.
    #[must_use]
    pub fn new(peer: SocketAddr, limits: &Limits) -> Self {
        let (wire, slot, tasks) = (
            Rc::<RefCell<Wire>>::default(),
            Rc::<RefCell<Slot>>::default(),
            Tasks::default(),
        );
        let reception = Rc::clone(&slot);
        let service = service_fn(move |request| receive(Rc::clone(&reception), request));
        let connection = http2::Builder::new(tasks.clone())
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .serve_connection(Memory(Rc::clone(&wire)), service);
        Self {
            peer,
            max_headers: limits.headers,
            recorded: Vec::new(),
            greeted: false,
            wire,
            slot,
            tasks,
            connection: Some(Box::pin(connection)),
            woken: Arc::default(),
        }
    }

    /// Takes what the client sent next, the connection preface first.
    pub fn push(&mut self, bytes: &[u8]) -> Found {
        if self.recorded.len() + bytes.len() > RECORDED_BYTES {
            let detail = "too much was sent before the first request";
            return Found::Bad(Reject {
                status: 431,
                code: "head_too_large",
                detail,
            });
        }
        self.recorded.extend_from_slice(bytes);
        let reader = {
            let mut wire = self.wire.borrow_mut();
            wire.unread.extend(bytes);
            wire.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        self.turn();
        match (&self.slot.borrow().first, &self.connection) {
            (Some(_), _) => Found::Request,
            (None, Some(_)) => Found::Incomplete,
            (None, None) => {
                let detail = "the bytes are not an HTTP/2 request";
                Found::Bad(Reject {
                    status: 400,
                    code: "bad_request",
                    detail,
                })
            }
        }
    }

    /// Shows the first request, once there is one.
    ///
    /// # Errors
    /// [`Reject`] for one that the gate would refuse unjudged.
    pub fn look<T>(&self, look: impl FnOnce(&RequestHead<'_>) -> T) -> Result<Option<T>, Reject> {
        let slot = self.slot.borrow();
        let Some(parts) = &slot.first else { return Ok(None) };
        Ok(Some(look(&head(parts, self.peer, self.max_headers)?)))
    }

    /// From now on the request is shown as one from this address.
    pub fn set_peer(&mut self, peer: SocketAddr) {
        self.peer = peer;
    }

    /// Bytes to send to a client that waits for the server to speak first. Call at most once, before the verdict.
    pub fn greet(&mut self) -> &'static [u8] {
        self.greeted = true;
        GREETING
    }

    /// The bytes that end the exchange with `refusal`: send them, then close.
    #[must_use]
    pub fn refuse(mut self, refusal: &Refusal, reader: Option<&Reader>) -> Vec<u8> {
        let answer = match &self.slot.borrow().first {
            Some(parts) => refusal::response(refusal, &parts.headers, reader),
            None => refusal::response(refusal, &http::HeaderMap::new(), reader),
        };
        let answer = answer.map(Full::new);
        self.slot.borrow_mut().answer(answer);
        self.turn();
        std::mem::take(&mut self.wire.borrow_mut().kept_back)
    }

    /// The bytes that end a connection before its first request: send them, then close.
    #[must_use]
    pub fn leave(self) -> Vec<u8> {
        let greeting = if self.greeted { &[][..] } else { GREETING };
        [greeting, GOAWAY].concat()
    }

    /// What the client sent, for the gate that takes over and speaks for itself.
    #[must_use]
    pub fn recorded(&self) -> Vec<u8> {
        let recorded = self.recorded.clone();
        if self.greeted {
            without_acknowledgement(recorded)
        } else {
            recorded
        }
    }

    /// Runs hyper until it waits for the client.
    fn turn(&mut self) {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..TURNS {
            self.woken.0.store(false, Ordering::Relaxed);
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(&mut cx).is_ready()
            {
                self.connection = None;
            }
            let started = self.tasks.run(&mut cx);
            if !started && !self.woken.0.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Leaves out the first SETTINGS acknowledgement after the preface.
fn without_acknowledgement(mut recorded: Vec<u8>) -> Vec<u8> {
    let mut at = crate::head::HTTP2_PREFACE.len();
    while let Some(header) = recorded.get(at..at + FRAME_HEADER_BYTES) {
        if header == ACKNOWLEDGEMENT {
            recorded.drain(at..at + FRAME_HEADER_BYTES);
            break;
        }
        let length = header
            .iter()
            .take(3)
            .fold(0, |length, &byte| length << 8 | usize::from(byte));
        at += FRAME_HEADER_BYTES + length;
    }
    recorded
}

/// The first request leaves its head here and waits for the answer; later ones wait for ever.
#[derive(Default)]
struct Slot {
    first: Option<Parts>,
    answer: Option<Answer>,
    waiting: Option<Waker>,
}

impl Slot {
    fn answer(&mut self, answer: Answer) {
        self.answer = Some(answer);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

async fn receive(slot: Rc<RefCell<Slot>>, request: http::Request<Incoming>) -> Result<Answer, Infallible> {
    if slot.borrow().first.is_some() {
        return pending().await;
    }
    // The body is neither read nor dropped: dropping it would tell the client to stop.
    let (parts, _body) = request.into_parts();
    slot.borrow_mut().first = Some(parts);
    let answer = std::future::poll_fn(|cx| {
        let mut slot = slot.borrow_mut();
        match slot.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                slot.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    });
    Ok(answer.await)
}

/// Bytes both ways, in memory.
#[derive(Default)]
struct Wire {
    unread: VecDeque<u8>,
    kept_back: Vec<u8>,
    reader: Option<Waker>,
}

struct Memory(Rc<RefCell<Wire>>);

impl hyper::rt::Read for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        if wire.unread.is_empty() {
            wire.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (front, _) = wire.unread.as_slices();
        let count = front.len().min(buf.remaining());
        buf.put_slice(front.get(..count).unwrap_or_default());
        wire.unread.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().kept_back.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// hyper's inner tasks, polled by hand.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<Vec<Task>>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.borrow_mut().push(Box::pin(task));
    }
}

impl Tasks {
    /// Polls each once. True: polling started new ones.
    fn run(&self, cx: &mut Context<'_>) -> bool {
        let mut running = std::mem::take(&mut *self.0.borrow_mut());
        running.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        let mut started = self.0.borrow_mut();
        let any = !started.is_empty();
        running.append(&mut started);
        *started = running;
        any
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::HTTP2_PREFACE;
    use proptest::prelude::*;

    fn probe() -> Probe {
        Probe::new("127.0.0.1:1".parse().unwrap(), &Limits::default())
    }

    /// Preface, SETTINGS, and a GET of `/` on host `h` without Huffman coding.
    fn request() -> Vec<u8> {
        let block = b"\x82\x86\x84\x41\x01h";
        let headers = [&[0, 0, 6, 1, 5, 0, 0, 0, 1], &block[..]].concat();
        [HTTP2_PREFACE, GREETING, &headers].concat()
    }

    #[test]
    fn the_first_request_is_found_however_it_arrives() {
        let mut probe = probe();
        for byte in request() {
            assert_ne!(probe.look(|_| ()), Ok(Some(())));
            assert!(!matches!(probe.push(&[byte]), Found::Bad(_)));
        }
        let seen = probe.look(|head| {
            (
                head.method.to_owned(),
                head.path.to_string(),
                head.host.to_string(),
            )
        });
        assert_eq!(seen, Ok(Some(("GET".into(), "/".into(), "h".into()))));
        assert_eq!(probe.recorded(), request());
    }

    #[test]
    fn an_early_greeting_leaves_no_trace() {
        let mut probe = probe();
        assert_eq!(probe.greet(), GREETING);
        let whole = request();
        let (start, rest) = whole.split_at(HTTP2_PREFACE.len() + GREETING.len());
        assert_eq!(probe.push(start), Found::Incomplete);
        assert_eq!(probe.push(&[ACKNOWLEDGEMENT, rest].concat()), Found::Request);
        assert_eq!(probe.recorded(), whole);
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        let mut probe = probe();
        assert_eq!(probe.push(&request()), Found::Request);
        let out = probe.refuse(&Refusal::draining(), None);
        assert_eq!(out[3], 4, "SETTINGS first");
        assert!(String::from_utf8_lossy(&out).contains("\"code\":\"draining\""));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), preface in any::<bool>()) {
            let mut probe = probe();
            if preface {
                probe.push(HTTP2_PREFACE);
            }
            probe.push(&bytes);
        }
    }
}
