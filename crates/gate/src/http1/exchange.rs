//! The two directions of one exchange: the request's body on its way in, the response on its way out.
//!
//! They run at once in one task: a workload may answer before it has read all.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::Authorizer;
use crate::access::Underway;
use crate::buffer::{Buffer, COPY_BYTES, Inbound, Loan, Outbound};
use crate::chunked::Fed;
use crate::control::{Phase, Timer};
use crate::forward::Forwarding;
use crate::gate::Shared;
use crate::head::{Framing, Reject, Wire};
use crate::response::{self, Answer, BadAnswer, Body};
use crate::routing::{AnswerHead, Answered};
use crate::stream::{ReadHalf, WriteHalf};

use super::owned::decoded;
use super::record::Record;

/// Interim responses to one request; a workload that sends more is broken.
const INTERIM: u32 = 32;

/// Why an exchange with the workload did not end with a complete response.
#[derive(Debug)]
pub(super) enum Broken {
    /// The workload closed before the first byte.
    Stale,
    /// The workload's bytes are no response.
    Bad(&'static str),
    /// The head of its response is above the bound.
    TooLarge,
    Timeout,
    /// The object sleeps before the workload answered.
    Drained,
    /// The authorizer took the answer; its body, as far as it wanted it.
    Taken(Vec<u8>),
    /// The response had begun.
    Cut,
    /// The client left, or takes no bytes.
    Client,
    /// The request body turned out to be malformed.
    Request(Reject),
}

/// A complete response, and what came behind it.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) outbound: Loan<Outbound>,
    pub(super) answer: Answer,
    pub(super) kept_alive: bool,
}

/// Consumes a refused request if all of it is here.
pub(super) fn skip_request(input: &mut Buffer, wire: &Wire) -> bool {
    let bytes = input.filled().get(wire.head_len..).unwrap_or_default();
    match Body::new(wire.body).feed(bytes) {
        Ok(fed) if fed.done => {
            input.consume(wire.head_len + fed.used);
            true
        }
        _ => false,
    }
}

/// Appends what is here of the body to the composed head. True: that was all of it.
pub(super) fn first_part(body: &mut Body, buffers: &mut Inbound) -> Result<bool, Reject> {
    let fed = body.feed(buffers.input.filled())?;
    buffers
        .request
        .extend_from_slice(buffers.input.filled().get(..fed.forward).unwrap_or_default());
    if fed.done {
        buffers.request.extend_from_slice(body.tail());
    }
    buffers.input.consume(fed.used);
    Ok(fed.done)
}

/// The request's direction.
pub(super) struct Sending<'x, 's, A> {
    pub(super) gate: &'x Shared<A>,
    pub(super) read: &'x mut ReadHalf<'s>,
    pub(super) input: &'x mut Buffer,
    pub(super) timer: &'x Timer,
    pub(super) record: &'x RefCell<Record>,
}

impl<A: Authorizer> Sending<'_, '_, A> {
    /// Streams the rest of the body, then watches the client. Ends only when the exchange must end.
    pub(super) async fn run(
        mut self,
        to: &mut WriteHalf<'_>,
        body: &mut Body,
        sent: &Cell<bool>,
        go_on: &Cell<bool>,
    ) -> Broken {
        if !sent.get() {
            self.wait_to_continue(go_on).await;
            match self.body(to, body).await {
                Ok(true) => sent.set(true),
                // The workload takes no more; what it answers decides.
                Ok(false) => return std::future::pending().await,
                Err(broken) => return broken,
            }
        }
        self.watch().await
    }

    /// `Expect: 100-continue`: the body waits for the workload's word, within reason.
    async fn wait_to_continue(&mut self, go_on: &Cell<bool>) {
        let told = |_: &mut Context<'_>| {
            if go_on.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        };
        // Either way the body goes.
        let _told = self.timer.within(self.gate.limits.expect_ms, told).await;
    }

    /// False: the workload stopped reading.
    async fn body(&mut self, to: &mut WriteHalf<'_>, body: &mut Body) -> Result<bool, Broken> {
        let bound_ms = self.gate.limits.body_idle_ms;
        loop {
            let fed = body
                .feed(self.input.filled())
                .map_err(|error| Broken::Request(error.into()))?;
            let tail = if fed.done { body.tail() } else { b"" };
            let part = self.input.filled().get(..fed.forward).unwrap_or_default();
            if A::EDGE {
                if !self.part(to, part.len(), tail, fed).await {
                    return Ok(false);
                }
                if fed.done {
                    return Ok(true);
                }
                self.fill().await?;
                continue;
            }
            if (!part.is_empty() || !tail.is_empty())
                && to.write_both(part, tail, self.timer, bound_ms).await.is_err()
            {
                return Ok(false);
            }
            self.gate.traffic.count_in(fed.forward + tail.len());
            self.input.consume(fed.used);
            if fed.done {
                return Ok(true);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        let bound_ms = self.gate.limits.body_idle_ms;
        let (read, input) = (&mut *self.read, &mut *self.input);
        match self.timer.within(bound_ms, |cx| input.poll_fill(read, cx)).await {
            Ok(Ok(1..)) => Ok(()),
            _ => Err(Broken::Client),
        }
    }

    /// Sends the next part of the body, which is kept first: whatever ends this attempt, the next begins with it. False: the
    /// workload stopped reading.
    async fn part(&mut self, to: &mut WriteHalf<'_>, bytes: usize, tail: &[u8], fed: Fed) -> bool {
        let bound_ms = self.gate.limits.body_idle_ms;
        let part = self.input.filled().get(..bytes).unwrap_or_default();
        let kept = {
            let mut record = self.record.borrow_mut();
            record.ended = fed.done;
            record
                .keep([part, tail])
                .then(|| record.last(bytes + tail.len()).to_vec())
        };
        self.gate.traffic.count_in(bytes + tail.len());
        let written = match kept {
            Some(kept) => {
                self.input.consume(fed.used);
                return kept.is_empty() || to.write_all(&kept, self.timer, bound_ms).await.is_ok();
            }
            None if bytes + tail.len() == 0 => true,
            None => to.write_both(part, tail, self.timer, bound_ms).await.is_ok(),
        };
        self.input.consume(fed.used);
        written
    }

    /// Keeps what the client sends ahead, and notices when it leaves.
    async fn watch(&mut self) -> Broken {
        let (read, input) = (&mut *self.read, &mut *self.input);
        loop {
            if input.is_full() {
                return std::future::pending().await;
            }
            let filled = poll_fn(|cx| {
                let filled = input.poll_fill(read, cx);
                // While the workload works, others read into this room.
                input.release();
                filled
            });
            match filled.await {
                Ok(1..) => {}
                Ok(0) => break,
                Err(_) => return Broken::Client,
            }
        }
        let _elapsed = self
            .timer
            .within(self.gate.limits.half_closed_ms, |_| Poll::<()>::Pending)
            .await;
        Broken::Client
    }
}

/// The response's direction.
pub(super) struct Receiving<'x, 's, 'u, A: Authorizer> {
    pub(super) gate: &'x Shared<A>,
    pub(super) permit: &'x A::Permit,
    pub(super) wire: &'x Wire,
    pub(super) from: &'x mut ReadHalf<'u>,
    pub(super) write: &'x mut WriteHalf<'s>,
    pub(super) timer: &'x Timer,
    pub(super) sent: &'x Cell<bool>,
    pub(super) go_on: &'x Cell<bool>,
    pub(super) started: &'x Cell<bool>,
    pub(super) underway: Option<&'x Underway>,
}

impl<A: Authorizer> Receiving<'_, '_, '_, A> {
    pub(super) async fn run(mut self) -> Result<Delivered, Broken> {
        self.wait().await?;
        let mut outbound = self.gate.outbound.loan();
        let (answer, answered, kept_alive) = self.head(&mut outbound).await?;
        if let Answered::Take { max_body } = answered {
            return Err(Broken::Taken(self.take(&mut outbound, &answer, max_body).await?));
        }
        self.started.set(true);
        if let Some(underway) = self.underway {
            underway.answered(answer.status, None);
        }
        outbound.answer.consume(answer.head_len);
        if answer.status == 101 {
            self.flush(&mut outbound, 0, b"").await?;
        } else {
            self.body(&mut outbound, answer.body).await?;
        }
        Ok(Delivered {
            outbound,
            answer,
            kept_alive: kept_alive && answer.body != Framing::Close,
        })
    }

    /// The body of an answer that the client does not get.
    async fn take(&mut self, out: &mut Outbound, answer: &Answer, max: usize) -> Result<Vec<u8>, Broken> {
        let mut taken = Vec::new();
        if max == 0 {
            return Ok(taken);
        }
        out.answer.consume(answer.head_len);
        let mut body = Body::new(answer.body);
        loop {
            let fed = body
                .feed(out.answer.filled())
                .map_err(|_| Broken::Bad("the body of the answer is malformed"))?;
            taken.extend_from_slice(out.answer.filled().get(..fed.forward).unwrap_or_default());
            out.answer.consume(fed.used);
            if taken.len() > max {
                return Err(Broken::Bad(
                    "the body of the answer is too large for what it says",
                ));
            }
            let whole = fed.done
                || match self.read_head(out, false).await {
                    Ok(()) => false,
                    Err(_) if answer.body == Framing::Close => true,
                    Err(broken) => return Err(broken),
                };
            if whole {
                return Ok(match answer.body {
                    Framing::Chunked => decoded(&taken),
                    _ => taken,
                });
            }
        }
    }

    /// Waits for the workload without holding buffers.
    async fn wait(&mut self) -> Result<(), Broken> {
        loop {
            match self
                .timer
                .within(self.gate.limits.response_ms, |cx| self.from.poll_ready(cx))
                .await
            {
                Ok(_) => return Ok(()),
                // The bound counts from the request's end.
                Err(_) if !self.sent.get() => {}
                Err(_) => return Err(Broken::Timeout),
            }
        }
    }

    /// The final head, rendered into `reply`; interim ones are passed on at once.
    async fn head(&mut self, out: &mut Outbound) -> Result<(Answer, Answered, bool), Broken> {
        let mut interim = 0;
        loop {
            if out.answer.is_empty() {
                self.read_head(out, interim == 0).await?;
            }
            // A request whose body is still under way when its answer comes cannot be followed by another.
            let keep_alive =
                self.wire.keep_alive && self.sent.get() && self.gate.control.phase() <= Phase::Open;
            let look = |head: &AnswerHead<'_>, edited: &mut Forwarding| {
                self.gate.answered(self.permit, head, edited)
            };
            match response::relay(out.answer.filled(), self.wire, keep_alive, look, &mut out.reply) {
                Ok(Some((answer, _))) if answer.is_interim() && interim < INTERIM => {
                    interim += 1;
                    out.answer.consume(answer.head_len);
                    self.flush(out, 0, b"").await?;
                    self.go_on.set(true);
                }
                Ok(Some((answer, _))) if answer.is_interim() => {
                    return Err(Broken::Bad("too many interim responses"));
                }
                Ok(Some((answer, answered))) => return Ok((answer, answered, keep_alive)),
                Ok(None) => self.read_head(out, false).await?,
                Err(BadAnswer::Large) => return Err(Broken::TooLarge),
                Err(_) => return Err(Broken::Bad("the workload's response is malformed or ambiguous")),
            }
        }
    }

    async fn read_head(&mut self, out: &mut Outbound, first: bool) -> Result<(), Broken> {
        let (from, answer) = (&mut *self.from, &mut out.answer);
        loop {
            match self
                .timer
                .within(self.gate.limits.response_ms, |cx| answer.poll_fill(from, cx))
                .await
            {
                Ok(Ok(1..)) => return Ok(()),
                Ok(_) if first => return Err(Broken::Stale),
                Ok(_) => {
                    return Err(Broken::Bad(
                        "the workload closed the connection within a response head",
                    ));
                }
                // The bound counts from the request's end.
                Err(_) if !self.sent.get() => {}
                Err(_) => return Err(Broken::Timeout),
            }
        }
    }

    async fn body(&mut self, out: &mut Outbound, framing: Framing) -> Result<(), Broken> {
        let mut body = Body::new(framing);
        loop {
            let fed = body.feed(out.answer.filled()).map_err(|_| Broken::Cut)?;
            self.flush(out, fed.forward, if fed.done { body.tail() } else { b"" })
                .await?;
            out.answer.consume(fed.used);
            if fed.done {
                return Ok(());
            }
            let (from, answer) = (&mut *self.from, &mut out.answer);
            match self
                .timer
                .within(self.gate.limits.body_idle_ms, |cx| answer.poll_fill(from, cx))
                .await
            {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) if framing == Framing::Close => return Ok(()),
                _ => return Err(Broken::Cut),
            }
        }
    }

    /// Sends the rendered head, if any, the first `bytes` of what was read, and `tail`.
    async fn flush(&mut self, out: &mut Outbound, bytes: usize, tail: &[u8]) -> Result<(), Broken> {
        let bound_ms = self.gate.limits.body_idle_ms;
        let part = out.answer.filled().get(..bytes).unwrap_or_default();
        self.gate
            .traffic
            .count_out(out.reply.len() + part.len() + tail.len());
        if let Some(underway) = self.underway {
            underway.sent(part.len() + tail.len());
        }
        let written = if part.len() <= COPY_BYTES {
            response::parts(&[part, tail], &mut out.reply);
            self.write.write_all(&out.reply, self.timer, bound_ms).await
        } else {
            let head = self
                .write
                .write_both(&out.reply, part, self.timer, bound_ms)
                .await;
            if head.is_ok() {
                self.write.write_all(tail, self.timer, bound_ms).await
            } else {
                head
            }
        };
        out.reply.clear();
        written.map_err(|_| Broken::Client)
    }
}
