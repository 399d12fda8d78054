//! HTTP/1.x connections: one request after the other, each judged on its own.
//!
//! ```text
//! idle ─▶ head ─▶ judged ─┬─▶ forwarded ─┬─▶ idle | end
//!                 ▲  │    └─▶ refused ───┘
//!                 └──┘ hold              └─▶ tunnel (101)
//! ```
//! The common request costs one read and one write on each side: head and first body bytes leave together, buffers
//! are reused, and no timer, task or allocation is made for it.

mod exchange;
mod forwarded;
mod owned;
mod record;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::Authorizer;
use crate::access::{self, Underway};
use crate::buffer::{Buffer, Inbound, Loan};
use crate::control::{Phase, Timer};
use crate::cors::Reader;
use crate::forward::{self, Forwarding, Origin};
use crate::gate::{Judged, Protocol, Shared};
use crate::head::{self, HTTP2_PREFACE, Reject, Version, Wire};
use crate::own::OwnAsk;
use crate::refusal::{self, Refusal};
use crate::response::Body;
use crate::routing::{Later, Verdict};
use crate::seats::Usage;
use crate::stream::{ReadHalf, Stream, WriteHalf};
use crate::traffic::Open;

use self::exchange::skip_request;

/// How a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides know that nothing follows.
    Close,
    /// A response was cut short: the client must see a broken connection.
    Reset,
    /// An answer was sent while the client may still be sending.
    Linger,
    /// The client speaks HTTP/2; these bytes were read.
    Http2(bytes::Bytes),
}

/// What follows one request.
enum Next {
    Again,
    End(End),
}

/// What is to be done about the bytes read so far.
enum Evaluated<P> {
    Incomplete,
    Http2,
    Bad(Reject),
    Hold,
    Refuse(Box<Refusal>, Wire),
    Forward(P, Wire),
    Own(OwnAsk, Wire),
    Later(Later<P>, Wire),
    Answer(Box<http::Response<bytes::Bytes>>, Wire),
}

/// Serves one connection until it ends; `prefix` was read from it before.
pub(crate) async fn serve<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    stream: &mut Stream,
    origin: &Rc<Origin>,
    usage: &Rc<Usage>,
    prefix: &[u8],
) -> End {
    let (read, write) = stream.split();
    let mut session = Session {
        gate,
        origin,
        usage,
        read,
        write,
        inward: gate.control.timer(),
        outward: gate.control.timer(),
        forwarding: Forwarding::default(),
        reader: None,
        head: Vec::new(),
        first: true,
        underway: None,
    };
    session.run(prefix).await
}

/// One connection.
struct Session<'s, A> {
    gate: &'s Rc<Shared<A>>,
    origin: &'s Rc<Origin>,
    usage: &'s Rc<Usage>,
    read: ReadHalf<'s>,
    write: WriteHalf<'s>,
    /// Bounds reading from the client and writing to the workload.
    inward: Timer,
    /// Bounds reading from the workload and writing to the client.
    outward: Timer,
    forwarding: Forwarding,
    /// The page of another origin that may read what the gate answers to the present request.
    reader: Option<Reader>,
    /// At an edge: the present request's head as it came.
    head: Vec<u8>,
    first: bool,
    /// The present request, where an access log is kept.
    underway: Option<Rc<Underway>>,
}

impl<A: Authorizer> Session<'_, A> {
    async fn run(&mut self, prefix: &[u8]) -> End {
        let mut inbound = self.gate.inbound();
        if inbound.input.append(prefix) < prefix.len() {
            return End::Close;
        }
        // Who asked while the object woke, and has left since, is not served.
        if !prefix.is_empty() && self.has_left(&mut inbound.input).await {
            return End::Close;
        }
        loop {
            if inbound.input.is_empty() {
                drop(inbound);
                match self.wait_for_request().await {
                    Some(begun) => inbound = begun,
                    None => return End::Close,
                }
            }
            let next = self.turn(&mut inbound).await;
            self.underway = None;
            match next {
                Next::Again => self.first = false,
                Next::End(end) => return end,
            }
        }
    }

    /// Waits, without holding buffers, for the first bytes. None: nothing more will come, or is wanted.
    async fn wait_for_request(&mut self) -> Option<Loan<Inbound>> {
        let (gate, first, read) = (self.gate, self.first, &mut self.read);
        let begun = self.inward.within(gate.limits.idle_ms, |cx| {
            if !first && gate.control.phase() >= Phase::Draining {
                return Poll::Ready(None);
            }
            if ready!(read.poll_ready(cx)).is_err() {
                return Poll::Ready(None);
            }
            // Readiness may be stale; only a byte counts.
            let mut inbound = gate.inbound();
            let filled = ready!(inbound.input.poll_fill(read, cx));
            Poll::Ready(matches!(filled, Ok(1..)).then_some(inbound))
        });
        begun.await.ok().flatten()
    }

    /// One request, from its first byte to the last of its response.
    async fn turn(&mut self, buffers: &mut Inbound) -> Next {
        self.inward.arm(self.gate.limits.head_ms);
        self.reader = None;
        let mut held = None;
        loop {
            match self.evaluate(buffers) {
                Evaluated::Incomplete => {
                    if let Err(next) = self.read_head(buffers).await {
                        return next;
                    }
                }
                Evaluated::Http2 => {
                    return Next::End(End::Http2(bytes::Bytes::copy_from_slice(buffers.input.filled())));
                }
                Evaluated::Bad(reject) => return self.refuse(buffers, &reject.into(), None).await,
                Evaluated::Refuse(refusal, wire) => {
                    return self.refuse(buffers, &refusal, Some(&wire)).await;
                }
                Evaluated::Forward(permit, wire) => {
                    drop(held);
                    return self.exchange(buffers, permit, wire).await;
                }
                Evaluated::Own(ask, wire) => {
                    drop(held);
                    return self.own(buffers, ask, wire).await;
                }
                Evaluated::Answer(answer, wire) => return self.tell(buffers, &answer, &wire).await,
                Evaluated::Later(later, wire) => {
                    let _busy = self.usage.begin();
                    match self.decided(buffers, later).await {
                        Some(Ok((permit, forwarding))) => {
                            self.forwarding = forwarding;
                            let Inbound { input, request } = buffers;
                            self.compose(input.filled(), request);
                            return self.exchange(buffers, permit, wire).await;
                        }
                        Some(Err(refusal)) => return self.refuse(buffers, &refusal, Some(&wire)).await,
                        None => return Next::End(End::Close),
                    }
                }
                Evaluated::Hold => {
                    let _busy = self.usage.begin();
                    match self.held(buffers, &mut held).await {
                        Some(Ok(())) => {}
                        Some(Err(refusal)) => return self.refuse(buffers, &refusal, None).await,
                        None => return Next::End(End::Close),
                    }
                }
            }
        }
    }

    /// Waits until asking again makes sense, and keeps what the client sends ahead; none where it leaves meanwhile.
    async fn held(
        &mut self,
        buffers: &mut Inbound,
        held: &mut Option<Open>,
    ) -> Option<Result<(), Box<Refusal>>> {
        let mut hold = pin!(self.gate.hold(held, &self.inward));
        let (read, input) = (&mut self.read, &mut buffers.input);
        poll_fn(|cx| match hold.as_mut().poll(cx) {
            Poll::Ready(asked) => Poll::Ready(Some(asked)),
            Poll::Pending => poll_left(read, input, cx).map(|()| None),
        })
        .await
    }

    /// A verdict that takes time; none where the client leaves meanwhile.
    async fn decided(
        &mut self,
        buffers: &mut Inbound,
        later: Later<A::Permit>,
    ) -> Option<Verdict<A::Permit>> {
        let mut waiting = pin!(self.gate.later(later, &self.outward));
        let (read, input) = (&mut self.read, &mut buffers.input);
        poll_fn(|cx| match waiting.as_mut().poll(cx) {
            Poll::Ready(verdict) => Poll::Ready(Some(verdict)),
            Poll::Pending => poll_left(read, input, cx).map(|()| None),
        })
        .await
    }

    /// The head that goes on of the one at the front of `from`, which was read before.
    fn compose(&self, from: &[u8], to: &mut Vec<u8>) {
        let mut slots = head::slots();
        if let Ok(Some((head, wire))) = head::parse(from, self.origin.peer, &self.gate.limits, &mut slots) {
            let head = self.origin.trusted(head);
            to.clear();
            if A::EDGE {
                forward::compose_at_edge(&head, &wire, &self.forwarding, to);
            } else {
                forward::compose(&head, &wire, &self.forwarding, self.origin, to);
            }
        }
    }

    /// Whether the client has left already, or sends no more.
    async fn has_left(&mut self, input: &mut Buffer) -> bool {
        let read = &mut self.read;
        poll_fn(|cx| Poll::Ready(poll_left(read, input, cx).is_ready())).await
    }

    /// Reads until a head may be complete, by the deadline set when its first byte came.
    async fn read_head(&mut self, buffers: &mut Inbound) -> Result<(), Next> {
        let (read, input) = (&mut self.read, &mut buffers.input);
        loop {
            let before = input.filled().len();
            match self.inward.until(|cx| input.poll_fill(read, cx)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(Next::End(End::Close)),
                Err(_) => break,
            }
            // Only a line's end can complete a head: a byte-wise sender must not make us parse for each byte.
            let fresh = input.filled().get(before..).unwrap_or_default();
            if fresh.contains(&b'\n') || input.is_full() {
                return Ok(());
            }
        }
        let late = Refusal::of(408, "request_timeout", "send the request head in one go");
        Err(self.refuse(buffers, &late, None).await)
    }

    /// Parses and judges what was read. On a permit, the head for the workload is composed.
    fn evaluate(&mut self, buffers: &mut Inbound) -> Evaluated<A::Permit> {
        let bytes = buffers.input.filled();
        if self.first && !self.origin.ends_after_one() && head::starts_http2(bytes) {
            return if bytes.len() < HTTP2_PREFACE.len() {
                Evaluated::Incomplete
            } else {
                Evaluated::Http2
            };
        }
        let mut slots = head::slots();
        let parsed = head::parse(bytes, self.origin.peer, &self.gate.limits, &mut slots);
        let (head, mut wire) = match parsed {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Evaluated::Incomplete,
            Err(reject) => return Evaluated::Bad(reject),
        };
        let head = self.origin.trusted(head);
        self.reader = self.gate.cors.reader(&head);
        if self.underway.is_none() {
            self.underway = access::begin(self.gate, &head);
        }
        wire.keep_alive &= !self.origin.ends_after_one();
        if self.gate.protocol == Protocol::H2c {
            let detail = "this object speaks HTTP/2 only, with prior knowledge";
            return Evaluated::Bad(Reject {
                status: 505,
                code: "http_version",
                detail,
            });
        }
        // Nothing is forwarded of a request whose body is already seen to be malformed.
        let early = bytes.get(wire.head_len..).unwrap_or_default();
        if let Err(error) = Body::new(wire.body).feed(early) {
            return Evaluated::Bad(error.into());
        }
        self.forwarding.clear();
        match self.gate.admit(&head, &mut self.forwarding) {
            Judged::Hold => Evaluated::Hold,
            Judged::Refuse(refusal) => Evaluated::Refuse(refusal, wire),
            Judged::Own(ask) => Evaluated::Own(ask, wire),
            Judged::Later(later) => Evaluated::Later(later, wire),
            Judged::Answer(answer) => Evaluated::Answer(answer, wire),
            Judged::Forward(permit) => {
                buffers.request.clear();
                if A::EDGE {
                    forward::compose_at_edge(&head, &wire, &self.forwarding, &mut buffers.request);
                } else {
                    forward::compose(&head, &wire, &self.forwarding, self.origin, &mut buffers.request);
                }
                Evaluated::Forward(permit, wire)
            }
        }
    }

    /// Answers with `refusal`. The connection goes on if the request is known to its end and that end is here.
    async fn refuse(&mut self, buffers: &mut Inbound, refusal: &Refusal, wire: Option<&Wire>) -> Next {
        self.gate.traffic.count_refused();
        self.answer(buffers, refusal, wire).await
    }

    /// Answers with what the authorizer says.
    async fn tell(
        &mut self,
        buffers: &mut Inbound,
        answer: &http::Response<bytes::Bytes>,
        wire: &Wire,
    ) -> Next {
        let again = self.can_go_on(buffers, Some(wire));
        let mut outbound = self.gate.outbound.loan();
        refusal::render_answer(answer, again, wire.is_head, &mut outbound.reply);
        self.note(answer.status().as_u16(), None, &outbound.reply);
        self.reply(&outbound.reply, again).await
    }

    /// Whether another request may follow this one, which is then skipped.
    fn can_go_on(&self, buffers: &mut Inbound, wire: Option<&Wire>) -> bool {
        self.gate.control.phase() <= Phase::Open
            && wire.is_some_and(|wire| wire.keep_alive && wire.version == Version::Http11)
            && wire.is_some_and(|wire| skip_request(&mut buffers.input, wire))
    }

    async fn answer(&mut self, buffers: &mut Inbound, refusal: &Refusal, wire: Option<&Wire>) -> Next {
        let again = self.can_go_on(buffers, wire);
        let mut outbound = self.gate.outbound.loan();
        let is_head = wire.is_some_and(|wire| wire.is_head);
        refusal::render_into(refusal, self.reader.as_ref(), again, is_head, &mut outbound.reply);
        self.note(
            refusal.problem.status,
            Some(&refusal.problem.code),
            &outbound.reply,
        );
        self.reply(&outbound.reply, again).await
    }

    /// The present request is answered with `answer`.
    fn note(&self, status: u16, code: Option<&str>, answer: &[u8]) {
        if let Some(underway) = &self.underway {
            underway.answered(status, code);
            underway.sent(access::body_of(answer));
        }
    }

    async fn reply(&mut self, bytes: &[u8], again: bool) -> Next {
        let bound_ms = self.gate.limits.body_idle_ms;
        match self.write.write_all(bytes, &self.outward, bound_ms).await {
            Ok(()) if again => Next::Again,
            Ok(()) => Next::End(End::Linger),
            Err(_) => Next::End(End::Close),
        }
    }
}

/// Ready when the client has ended its side, or the connection broke. Keeps what it sends until then, as far as there is
/// room: a client that sends more is there.
fn poll_left(read: &mut ReadHalf<'_>, input: &mut Buffer, cx: &mut Context<'_>) -> Poll<()> {
    while !input.is_full() {
        match ready!(input.poll_fill(read, cx)) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}
