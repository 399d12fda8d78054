//! Counters of one gate, which the runtime reads for its `remain` rule.
//!
//! Cells, not atomics: gate and reader share a thread.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;

/// What passes and passed through one gate.
#[derive(Debug)]
pub struct Traffic {
    connections: Cell<usize>,
    in_flight: Cell<usize>,
    held: Cell<usize>,
    waiting: Cell<usize>,
    requests: Cell<u64>,
    refused: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    last_activity: Cell<Instant>,
    ended: Notify,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            connections: Cell::default(),
            in_flight: Cell::default(),
            held: Cell::default(),
            waiting: Cell::default(),
            requests: Cell::default(),
            refused: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            last_activity: Cell::new(Instant::now()),
            ended: Notify::new(),
        }
    }
}

impl Traffic {
    /// Client connections open now, handed-over ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Admitted requests, tunnels and handed-over connections that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Requests and connections that wait for a verdict.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Those of them for which the gate has to open first.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Requests and raw connections admitted so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Requests and connections refused so far, unparseable ones included.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Bytes sent to the workload so far.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Bytes the workload sent to clients so far.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// When something admitted last began, ended or moved bytes through a tunnel. Monotonic.
    #[must_use]
    pub fn last_activity(&self) -> Instant {
        self.last_activity.get()
    }

    pub(crate) fn touch(&self) {
        self.last_activity.set(Instant::now());
    }

    pub(crate) fn count_refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub(crate) fn count_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    pub(crate) fn count_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// Counts one connection until the guard drops.
    pub(crate) fn connection(self: &Rc<Self>) -> Open {
        Open::new(self, |traffic| &traffic.connections)
    }

    /// Counts one waiting request until the guard drops.
    pub(crate) fn hold(self: &Rc<Self>) -> Open {
        Open::new(self, |traffic| &traffic.held)
    }

    /// Counts one request for which the gate has to open, until the guard drops.
    pub(crate) fn wait(self: &Rc<Self>) -> Open {
        Open::new(self, |traffic| &traffic.waiting)
    }

    /// Counts one admitted request, tunnel or connection until the guard drops.
    pub(crate) fn admitted(self: &Rc<Self>) -> Admitted {
        self.requests.set(self.requests.get() + 1);
        self.touch();
        Admitted {
            _open: Open::new(self, |traffic| &traffic.in_flight),
            _ended: Ended(Rc::clone(self)),
        }
    }

    /// Waits until no connection is open, so that whoever was taken in has been answered. Cancel safe.
    pub async fn empty(&self) {
        while self.connections() > 0 {
            let ended = self.ended.notified();
            if self.connections() > 0 {
                ended.await;
            }
        }
    }

    /// Waits until nothing admitted is in flight. Cancel safe.
    pub async fn quiet(&self) {
        while self.in_flight() > 0 {
            let ended = self.ended.notified();
            if self.in_flight() > 0 {
                ended.await;
            }
        }
    }
}

/// One more in a gauge while it lives.
#[derive(Debug)]
pub(crate) struct Open {
    traffic: Rc<Traffic>,
    gauge: fn(&Traffic) -> &Cell<usize>,
}

impl Open {
    fn new(traffic: &Rc<Traffic>, gauge: fn(&Traffic) -> &Cell<usize>) -> Self {
        gauge(traffic).set(gauge(traffic).get() + 1);
        Self {
            traffic: Rc::clone(traffic),
            gauge,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let gauge = (self.gauge)(&self.traffic);
        gauge.set(gauge.get() - 1);
        if gauge.get() == 0 {
            self.traffic.ended.notify_waiters();
        }
    }
}

/// One more in flight while it lives; its end is activity.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Dropped first, so that who waits for quiet sees the new count.
    _open: Open,
    _ended: Ended,
}

#[derive(Debug)]
struct Ended(Rc<Traffic>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn empty_is_a_gate_without_connections() {
        let traffic = Rc::<Traffic>::default();
        let open = traffic.connection();
        let mut empty = pin!(traffic.empty());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(empty.as_mut().poll(&mut cx).is_pending());
        drop(open);
        assert!(empty.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn quiet_comes_when_the_last_admitted_ends() {
        let traffic = Rc::<Traffic>::default();
        let (first, second) = (traffic.admitted(), traffic.admitted());
        let mut quiet = pin!(traffic.quiet());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(quiet.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert!(quiet.as_mut().poll(&mut cx).is_pending());
        drop(second);
        assert!(quiet.as_mut().poll(&mut cx).is_ready());
        assert_eq!((traffic.in_flight(), traffic.requests()), (0, 2));
    }
}
