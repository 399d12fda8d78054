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
mod owned;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use crate::buffer::{Inbound, Loan};
use crate::connection_status::Unreviewed;
use crate::control::{Phase, Timer};
use crate::forward::{self, Forwarding, Origin};
use crate::gate::{Judged, Protocol, Shared};
use crate::head::{self, Framing, HTTP2_PREFACE, Reject, Version, Wire};
use crate::own::OwnAsk;
use crate::refusal::{self, Refusal};
use crate::response::Body;
use crate::stream::{ReadHalf, Stream, WriteHalf};
use crate::upstream::Lease;
use crate::{Authorizer, tunnel};

use self::exchange::{Broken, Delivered, Receiving, Sending, first_part, skip_request};

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
}

/// Serves one connection until it ends; `prefix` was read from it before.
pub(crate) async fn serve<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    stream: &mut Stream,
    origin: &Rc<Origin>,
    prefix: &[u8],
) -> End {
    let (read, write) = stream.split();
    let mut session = Session {
        gate,
        origin,
        read,
        write,
        inward: gate.control.timer(),
        outward: gate.control.timer(),
        forwarding: Forwarding::default(),
        first: true,
    };
    session.run(prefix).await
}

/// One connection.
struct Session<'s, A> {
    gate: &'s Rc<Shared<A>>,
    origin: &'s Rc<Origin>,
    read: ReadHalf<'s>,
    write: WriteHalf<'s>,
    /// Bounds reading from the client and writing to the workload.
    inward: Timer,
    /// Bounds reading from the workload and writing to the client.
    outward: Timer,
    forwarding: Forwarding,
    first: bool,
}

impl<A: Authorizer> Session<'_, A> {
    async fn run(&mut self, prefix: &[u8]) -> End {
        let mut inbound = self.gate.inbound.loan();
        if inbound.input.append(prefix) < prefix.len() {
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
            match self.turn(&mut inbound).await {
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
            let mut inbound = gate.inbound.loan();
            let filled = ready!(inbound.input.poll_fill(read, cx));
            Poll::Ready(matches!(filled, Ok(1..)).then_some(inbound))
        });
        begun.await.ok().flatten()
    }

    /// One request, from its first byte to the last of its response.
    async fn turn(&mut self, buffers: &mut Inbound) -> Next {
        self.inward.arm(self.gate.limits.head_ms);
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
                Evaluated::Hold => {
                    if let Err(refusal) = self.gate.hold(&mut held, &self.inward).await {
                        return self.refuse(buffers, &refusal, None).await;
                    }
                }
            }
        }
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
            Judged::Forward(permit) => {
                buffers.request.clear();
                forward::compose(&head, &wire, &self.forwarding, self.origin, &mut buffers.request);
                Evaluated::Forward(permit, wire)
            }
        }
    }

    /// Answers with `refusal`. The connection goes on if the request is known to its end and that end is here.
    async fn refuse(&mut self, buffers: &mut Inbound, refusal: &Refusal, wire: Option<&Wire>) -> Next {
        self.gate.traffic.count_refused();
        self.answer(buffers, refusal, wire).await
    }

    async fn answer(&mut self, buffers: &mut Inbound, refusal: &Refusal, wire: Option<&Wire>) -> Next {
        let again = self.gate.control.phase() <= Phase::Open
            && wire.is_some_and(|wire| wire.keep_alive && wire.version == Version::Http11)
            && wire.is_some_and(|wire| skip_request(&mut buffers.input, wire));
        let mut outbound = self.gate.outbound.loan();
        let is_head = wire.is_some_and(|wire| wire.is_head);
        refusal::render_into(refusal, again, is_head, &mut outbound.reply);
        let bound_ms = self.gate.limits.body_idle_ms;
        match self
            .write
            .write_all(&outbound.reply, &self.outward, bound_ms)
            .await
        {
            Ok(()) if again => Next::Again,
            Ok(()) => Next::End(End::Linger),
            Err(_) => Next::End(End::Close),
        }
    }

    /// Forwards one admitted request and its response. The permit is held until both have ended.
    async fn exchange(&mut self, buffers: &mut Inbound, permit: A::Permit, wire: Wire) -> Next {
        let _admitted = self.gate.traffic.admitted();
        buffers.input.consume(wire.head_len);
        let mut body = Body::new(wire.body);
        let sent = Cell::new(false);
        if !wire.expects {
            match first_part(&mut body, buffers) {
                Ok(done) => sent.set(done),
                Err(reject) => return self.answer(buffers, &reject.into(), None).await,
            }
        }
        let mut lease = self.gate.pool.lease(&permit).await;
        loop {
            let mut connected = match lease {
                Ok(connected) => connected,
                Err(error) => {
                    let refusal = self.gate.unreachable(&error);
                    return self.give_up(buffers, &refusal, &sent).await;
                }
            };
            let started = Cell::new(false);
            let outcome = self
                .attempt(buffers, &mut connected, &wire, &mut body, &sent, &started)
                .await;
            match outcome {
                Ok(delivered) => return self.conclude(buffers, connected, delivered, sent.get()).await,
                Err(Broken::Stale) if connected.reused && wire.idempotent && wire.body == Framing::Empty => {
                    lease = self.gate.pool.connect(&permit).await;
                }
                Err(broken) => return self.explain(buffers, broken, started.get(), &sent).await,
            }
        }
    }

    /// Sends the request and relays the response, both directions at once.
    async fn attempt(
        &mut self,
        buffers: &mut Inbound,
        lease: &mut Lease,
        wire: &Wire,
        body: &mut Body,
        sent: &Cell<bool>,
        started: &Cell<bool>,
    ) -> Result<Delivered, Broken> {
        let Inbound { input, request } = buffers;
        let (mut from, mut to) = lease.stream.split();
        let limits = &self.gate.limits;
        to.write_all(request, &self.inward, limits.body_idle_ms)
            .await
            .map_err(|_| Broken::Stale)?;
        self.gate.traffic.count_in(request.len());
        let go_on = Cell::new(!wire.expects);
        let sending = Sending {
            gate: self.gate,
            read: &mut self.read,
            input,
            timer: &self.inward,
        };
        let mut sending = pin!(sending.run(&mut to, body, sent, &go_on));
        let receiving = Receiving {
            gate: self.gate,
            wire,
            from: &mut from,
            write: &mut self.write,
            timer: &self.outward,
            sent,
            go_on: &go_on,
            started,
        };
        let mut receiving = pin!(receiving.run());
        let control = &self.gate.control;
        poll_fn(|cx| match receiving.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending if control.is_drained() && !started.get() => Poll::Ready(Err(Broken::Drained)),
            Poll::Pending => sending.as_mut().poll(cx).map(Err),
        })
        .await
    }

    /// After a complete response: tunnel, next request, or end.
    async fn conclude(
        &mut self,
        buffers: &mut Inbound,
        mut lease: Lease,
        mut delivered: Delivered,
        sent: bool,
    ) -> Next {
        if delivered.answer.status == 101 {
            let (from, to) = lease.stream.split();
            let ends = tunnel::Ends {
                client: (&mut self.read, &mut self.write),
                workload: (from, to),
            };
            let timers = (&self.inward, &self.outward);
            let whole = tunnel::run(
                self.gate,
                &Unreviewed(&self.gate.control),
                ends,
                (&mut buffers.input, &mut delivered.outbound.answer),
                timers,
            )
            .await;
            return Next::End(if whole { End::Close } else { End::Reset });
        }
        if delivered.answer.reusable && sent && delivered.outbound.answer.is_empty() {
            self.gate.pool.give_back(lease.stream);
        }
        match (delivered.kept_alive, sent) {
            (true, true) => Next::Again,
            (_, true) => Next::End(End::Close),
            (_, false) => Next::End(End::Linger),
        }
    }

    /// After a failed exchange: an answer if none has begun, else a visible cut.
    async fn explain(
        &mut self,
        buffers: &mut Inbound,
        broken: Broken,
        started: bool,
        sent: &Cell<bool>,
    ) -> Next {
        let refusal = match broken {
            _ if started => return Next::End(End::Reset),
            Broken::Client | Broken::Cut => return Next::End(End::Reset),
            Broken::Stale => self
                .gate
                .failed(&"the workload closed the connection without an answer"),
            Broken::Bad(detail) => self.gate.failed(&detail),
            Broken::Drained => Refusal::cut_short(),
            Broken::Timeout => Refusal::upstream_timeout(),
            Broken::Request(reject) => return self.refuse(buffers, &reject.into(), None).await,
        };
        self.give_up(buffers, &refusal, sent).await
    }

    /// Answers for a workload that did not. The head was consumed, so the connection ends.
    async fn give_up(&mut self, buffers: &mut Inbound, refusal: &Refusal, sent: &Cell<bool>) -> Next {
        match self.answer(buffers, refusal, None).await {
            Next::End(End::Linger) if sent.get() && buffers.input.is_empty() => Next::End(End::Close),
            next => next,
        }
    }
}
