//! One admitted request: sent to where its permit leads, and elsewhere where the authorizer says so and the client has seen no
//! byte of an answer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use crate::buffer::Inbound;
use crate::connection_status::Unreviewed;
use crate::head::{Framing, Wire};
use crate::refusal::Refusal;
use crate::response::Body;
use crate::routing::Why;
use crate::upstream::Lease;
use crate::{Authorizer, tunnel};

use super::exchange::{Broken, Delivered, Receiving, Sending, first_part};
use super::record::Record;
use super::{End, Next, Session};

/// A request under way.
struct Request {
    wire: Wire,
    body: Body,
    /// All of it left.
    sent: Cell<bool>,
    record: RefCell<Record>,
}

/// What came of one attempt.
enum Attempted {
    Over(Next),
    /// No byte of an answer reached the client.
    Unreachable(std::io::Error),
    Silent,
    Taken(Vec<u8>),
}

impl<A: Authorizer> Session<'_, A> {
    /// Forwards one admitted request and its response. The permit is held until both have ended.
    pub(super) async fn exchange(
        &mut self,
        buffers: &mut Inbound,
        mut permit: A::Permit,
        wire: Wire,
    ) -> Next {
        let _admitted = self.gate.traffic.admitted();
        let _busy = self.usage.begin();
        let mut request = Request {
            wire,
            body: Body::new(wire.body),
            sent: Cell::new(false),
            record: RefCell::new(Record::new(if A::EDGE {
                self.gate.limits.replay_bytes
            } else {
                0
            })),
        };
        if A::EDGE {
            let head = buffers.input.filled().get(..wire.head_len).unwrap_or_default();
            self.head.clear();
            self.head.extend_from_slice(head);
        }
        buffers.input.consume(wire.head_len);
        if !wire.expects {
            let before = buffers.request.len();
            match first_part(&mut request.body, buffers) {
                Ok(done) => request.sent.set(done),
                Err(reject) => return self.answer(buffers, &reject.into(), None).await,
            }
            let mut record = request.record.borrow_mut();
            record.keep([buffers.request.get(before..).unwrap_or_default(), b""]);
            record.ended = request.sent.get();
        }
        loop {
            let attempted = self.attempt(buffers, &permit, &mut request).await;
            if let Attempted::Over(next) = attempted {
                return next;
            }
            permit = match self.elsewhere(buffers, permit, attempted, &request).await {
                Ok(permit) => permit,
                Err(next) => return next,
            };
        }
    }

    /// Where the request goes next; composed anew for it. Else how it ends.
    async fn elsewhere(
        &mut self,
        buffers: &mut Inbound,
        permit: A::Permit,
        attempted: Attempted,
        request: &Request,
    ) -> Result<A::Permit, Next> {
        let repeatable = request.record.borrow().sent().is_some();
        let why = match &attempted {
            Attempted::Unreachable(error) => Why::Unreachable(error),
            Attempted::Taken(body) => Why::Taken(body.clone()),
            Attempted::Silent | Attempted::Over(_) => Why::Silent,
        };
        let Some(later) = self.gate.elsewhere(permit, why, repeatable) else {
            let refusal = match &attempted {
                Attempted::Unreachable(error) => self.gate.unreachable(error),
                _ => self
                    .gate
                    .failed(&"the workload closed the connection without an answer"),
            };
            return Err(self.give_up(buffers, &refusal, &request.sent).await);
        };
        match self.decided(buffers, later).await {
            None => Err(Next::End(End::Reset)),
            Some(Err(refusal)) => Err(self.give_up(buffers, &refusal, &request.sent).await),
            Some(Ok((permit, forwarding))) => {
                self.forwarding = forwarding;
                let head = std::mem::take(&mut self.head);
                self.compose(&head, &mut buffers.request);
                self.head = head;
                let record = request.record.borrow();
                buffers
                    .request
                    .extend_from_slice(record.sent().unwrap_or_default());
                request.sent.set(record.ended);
                Ok(permit)
            }
        }
    }

    /// Sends the request where `permit` leads, over a fresh connection where an unused one turns out to be closed.
    async fn attempt(
        &mut self,
        buffers: &mut Inbound,
        permit: &A::Permit,
        request: &mut Request,
    ) -> Attempted {
        if A::EDGE && self.gate.speaks_h2c(permit) {
            let detail = "what serves here speaks HTTP/2 only: use it, with prior knowledge or over TLS";
            let refusal = Refusal::of(505, "http_version", detail);
            return Attempted::Over(self.give_up(buffers, &refusal, &request.sent).await);
        }
        let mut fresh = false;
        loop {
            let mut lease = match self.gate.lease(permit, fresh).await {
                Ok(lease) => lease,
                Err(error) if A::EDGE => return Attempted::Unreachable(error),
                Err(error) => {
                    let refusal = self.gate.unreachable(&error);
                    return Attempted::Over(self.give_up(buffers, &refusal, &request.sent).await);
                }
            };
            let started = Cell::new(false);
            let outcome = self.relay(buffers, permit, &mut lease, request, &started).await;
            let repeats = lease.reused && request.wire.idempotent && request.wire.body == Framing::Empty;
            match outcome {
                Ok(delivered) => {
                    let sent = request.sent.get();
                    return Attempted::Over(self.conclude(buffers, lease, delivered, sent).await);
                }
                Err(Broken::Stale) if repeats => fresh = true,
                Err(Broken::Stale) if A::EDGE => return Attempted::Silent,
                Err(Broken::Taken(body)) => return Attempted::Taken(body),
                Err(broken) => {
                    let next = self.explain(buffers, broken, started.get(), &request.sent);
                    return Attempted::Over(next.await);
                }
            }
        }
    }

    /// Sends the request and relays the response, both directions at once.
    async fn relay(
        &mut self,
        buffers: &mut Inbound,
        permit: &A::Permit,
        lease: &mut Lease,
        request: &mut Request,
        started: &Cell<bool>,
    ) -> Result<Delivered, Broken> {
        let Inbound { input, request: head } = buffers;
        let (mut from, mut to) = lease.stream.split();
        let limits = &self.gate.limits;
        to.write_all(head, &self.inward, limits.body_idle_ms)
            .await
            .map_err(|_| Broken::Stale)?;
        self.gate.traffic.count_in(head.len());
        let go_on = Cell::new(!request.wire.expects);
        let sending = Sending {
            gate: self.gate,
            read: &mut self.read,
            input,
            timer: &self.inward,
            record: &request.record,
        };
        let mut sending = pin!(sending.run(&mut to, &mut request.body, &request.sent, &go_on));
        let receiving = Receiving {
            gate: self.gate,
            permit,
            wire: &request.wire,
            from: &mut from,
            write: &mut self.write,
            timer: &self.outward,
            sent: &request.sent,
            go_on: &go_on,
            started,
            underway: self.underway.as_deref(),
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
            self.gate.pool.give_back(lease);
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
            Broken::Client | Broken::Cut | Broken::Taken(_) => return Next::End(End::Reset),
            Broken::Stale => self
                .gate
                .failed(&"the workload closed the connection without an answer"),
            Broken::Bad(detail) => self.gate.failed(&detail),
            Broken::TooLarge => self.gate.response_head_too_large(),
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
