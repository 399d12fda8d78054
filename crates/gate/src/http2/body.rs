//! Bodies on their way through: counted, bounded in silence, and never ended cleanly when they were cut.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{Activity, OpenStream};
use crate::control::{Control, Elapsed, Timer};
use crate::gate::Shared;
use crate::traffic::{Admitted, Traffic};

/// Lives as long as the response's body.
pub(super) struct Held<P> {
    pub(super) permit: P,
    pub(super) _admitted: Admitted,
    pub(super) _stream: OpenStream,
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

/// A request body on its way to the workload.
pub(super) struct Sent {
    pub(super) inner: Incoming,
    pub(super) meter: Meter,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.meter.note(frame, Traffic::count_in);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body on its way to the client; an error resets the stream, so a cut is never a clean end.
pub(super) struct Relayed<P> {
    pub(super) inner: Incoming,
    pub(super) timer: Timer,
    pub(super) idle_ms: u64,
    pub(super) meter: Meter,
    pub(super) _held: Held<P>,
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
                }
                self.timer.arm(self.idle_ms);
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
