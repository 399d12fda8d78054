//! Bodies on their way through: counted, bounded in silence, and never ended cleanly when they were cut.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{Activity, OpenStream};
use crate::access::Underway;
use crate::control::{Control, Elapsed, Timer};
use crate::gate::Shared;
use crate::traffic::{Admitted, Traffic};

/// Lives as long as the response's body.
pub(super) struct Held<P> {
    pub(super) permit: P,
    pub(super) _admitted: Admitted,
    pub(super) _stream: OpenStream,
    /// For the access log, where one is kept.
    pub(super) underway: Option<Rc<Underway>>,
}

/// Counts the bytes of one stream and remembers when it last moved.
#[derive(Clone)]
pub(super) struct Meter {
    pub(super) traffic: Rc<Traffic>,
    pub(super) control: Control,
    pub(super) activity: Rc<Activity>,
    pub(super) moved_ms: Rc<Cell<u64>>,
}

impl Meter {
    pub(super) fn new<A>(gate: &Shared<A>, activity: &Rc<Activity>) -> Self {
        Self {
            traffic: Rc::clone(&gate.traffic),
            control: gate.control.clone(),
            activity: Rc::clone(activity),
            moved_ms: Rc::new(Cell::new(gate.control.now_ms())),
        }
    }

    fn note(&self, frame: &Frame<Bytes>, count: fn(&Traffic, usize)) {
        count(&self.traffic, frame.data_ref().map_or(0, Bytes::len));
        self.moved_ms.set(self.control.now_ms());
        self.activity.moved_ms.set(self.control.now_ms());
    }

    pub(super) fn silent_ms(&self) -> u64 {
        self.control.now_ms().saturating_sub(self.moved_ms.get())
    }
}

/// A request's body, for as many attempts as it takes to send it: at an edge what was sent is kept for the next.
pub(super) struct Source {
    inner: RefCell<Incoming>,
    kept: RefCell<Kept>,
    /// Which attempt reads it: the others have ended.
    attempt: Cell<u64>,
    /// The task that reads it.
    reader: RefCell<Option<Waker>>,
    meter: Meter,
}

#[derive(Default)]
struct Kept {
    parts: Vec<Bytes>,
    bytes: usize,
    max: usize,
    /// More was sent than is kept.
    lost: bool,
    ended: bool,
}

impl Source {
    /// Keeps `max` bytes at most; of a longer body nothing is kept.
    pub(super) fn new(inner: Incoming, max: usize, meter: Meter) -> Rc<Self> {
        let kept = Kept {
            max,
            ended: inner.is_end_stream(),
            ..Kept::default()
        };
        Rc::new(Self {
            inner: RefCell::new(inner),
            kept: RefCell::new(kept),
            attempt: Cell::new(0),
            reader: RefCell::default(),
            meter,
        })
    }

    /// Whether it can be sent once more.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.kept.borrow().lost
    }

    /// The body for the next attempt; the one before gets no more of it.
    pub(super) fn begin(self: &Rc<Self>) -> Sent {
        self.attempt.set(self.attempt.get() + 1);
        if let Some(before) = self.reader.take() {
            before.wake();
        }
        Sent {
            source: Rc::clone(self),
            attempt: self.attempt.get(),
            at: 0,
        }
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        let more = frame.data_ref().map_or(0, Bytes::len);
        // Trailers are sent once.
        if frame.is_trailers() || kept.bytes + more > kept.max {
            (kept.lost, kept.parts) = (true, Vec::new());
        }
        if let (false, Some(data)) = (kept.lost, frame.data_ref()) {
            kept.bytes += more;
            kept.parts.push(data.clone());
        }
    }
}

/// A request body on its way to a workload.
pub(super) struct Sent {
    source: Rc<Source>,
    attempt: u64,
    /// Kept parts that were sent.
    at: usize,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let source = Rc::clone(&self.source);
        if self.attempt != source.attempt.get() {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        if let Some(part) = source.kept.borrow().parts.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(part.clone()))));
        }
        if source.kept.borrow().ended {
            return Poll::Ready(None);
        }
        *source.reader.borrow_mut() = Some(cx.waker().clone());
        let frame = std::task::ready!(Pin::new(&mut *source.inner.borrow_mut()).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                source.meter.note(frame, Traffic::count_in);
                source.keep(frame);
                self.at = source.kept.borrow().parts.len();
            }
            Some(Err(_)) => {}
            None => source.kept.borrow_mut().ended = true,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.source.kept.borrow();
        self.at >= kept.parts.len() && (kept.ended || self.source.inner.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.source.kept.borrow();
        let unsent: usize = kept.parts.iter().skip(self.at).map(Bytes::len).sum();
        let unsent = u64::try_from(unsent).unwrap_or(u64::MAX);
        let rest = self.source.inner.borrow().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(unsent));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(unsent));
        }
        hint
    }
}

/// A response body on its way to the client; an error resets the stream, so a cut is never a clean end.
pub(super) struct Relayed<P> {
    pub(super) inner: Incoming,
    pub(super) timer: Timer,
    pub(super) idle_ms: u64,
    pub(super) meter: Meter,
    /// Whether trailers go on: those of a workload that speaks HTTP/1.1 stay behind, as for clients that do.
    pub(super) trailers: bool,
    pub(super) held: Held<P>,
}

impl<P> Unpin for Relayed<P> {}

impl<P> Body for Relayed<P> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame {
                    self.meter.note(frame, Traffic::count_out);
                    if let Some(underway) = &self.held.underway {
                        underway.sent(frame.data_ref().map_or(0, Bytes::len));
                    }
                }
                self.timer.arm(self.idle_ms);
                let ends = |frame: &hyper::Result<Frame<Bytes>>| frame.as_ref().is_ok_and(Frame::is_trailers);
                let frame = frame.filter(|frame| self.trailers || !ends(frame));
                Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
            }
            Poll::Pending => self
                .timer
                .poll_due(cx)
                .map(|Elapsed| Some(Err(io::ErrorKind::TimedOut.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
