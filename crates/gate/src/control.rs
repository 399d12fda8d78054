//! The runtime's hand on the gate, and the gate's coarse clock.
//!
//! Every connection owns a timer. Arming one is a store to a cell: the sweep looks at all of them every
//! [`TICK_MS`], so a request costs no timer entry. A change of phase wakes the same timers, so no connection needs
//! a second wait for it. Single-threaded, like the gate.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Granularity of every bound in time; a deadline fires at most this much late.
pub const TICK_MS: u64 = 100;

/// How long the last turn takes: long enough for whatever has arrived to be read and judged.
const LAST_TURN: Duration = Duration::from_millis(2);

/// What the gate does with traffic as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No verdict yet: requests wait, bounded. Tunnels pass nothing, and what was handed over is cut.
    Holding,
    /// Requests are judged.
    Open,
    /// As open for those who have come by now, before it drains: nobody else is taken in.
    LastTurn,
    /// Requests in flight finish; new ones are refused.
    Draining,
    /// Everything is cut; serving ends.
    Closed,
}

/// Steers a running gate; clones steer the same one.
#[derive(Clone)]
pub struct Control(Rc<State>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

struct State {
    phase: Cell<Phase>,
    round: Cell<u64>,
    cuts: Cell<u64>,
    drained: Cell<bool>,
    /// It drains, or is closed after that.
    drains: Cell<bool>,
    workload: Cell<Option<SocketAddr>>,
    started: Instant,
    now_ms: Cell<u64>,
    slots: RefCell<Vec<Weak<Slot>>>,
    sweeper: Cell<Option<Waker>>,
}

impl Control {
    /// A control in `phase`.
    #[must_use]
    pub fn new(phase: Phase) -> Self {
        Self(Rc::new(State {
            phase: Cell::new(phase),
            round: Cell::new(0),
            cuts: Cell::new(0),
            drained: Cell::new(false),
            drains: Cell::new(phase == Phase::Draining),
            workload: Cell::new(None),
            started: Instant::now(),
            now_ms: Cell::new(0),
            slots: RefCell::default(),
            sweeper: Cell::new(None),
        }))
    }

    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.phase.get()
    }

    /// Moves to `phase`; everything that waits looks again.
    pub fn set(&self, phase: Phase) {
        self.0.phase.set(phase);
        match phase {
            Phase::Holding | Phase::Open => {
                self.0.drained.set(false);
                self.0.drains.set(false);
            }
            Phase::Draining => self.0.drains.set(true),
            Phase::LastTurn | Phase::Closed => {}
        }
        self.ask_again();
    }

    /// Begins to drain an open gate with the last turn of those who have come; any other drains at once.
    pub fn begin_drain(&self) {
        self.set(match self.phase() {
            Phase::Open => Phase::LastTurn,
            _ => Phase::Draining,
        });
    }

    /// Waits until nobody is judged any more who had come before the gate began to drain. What they were granted is in flight
    /// by then.
    pub async fn last_turn(&self) {
        if self.phase() == Phase::LastTurn {
            tokio::time::sleep(LAST_TURN).await;
        }
        if self.phase() == Phase::LastTurn {
            self.set(Phase::Draining);
        }
    }

    /// The workload listens here, as whoever looked found out: connections to a workload by TCP go there from now on.
    pub fn found_workload(&self, at: SocketAddr) {
        self.0.workload.set(Some(at));
    }

    pub(crate) fn workload(&self) -> Option<SocketAddr> {
        self.0.workload.get()
    }

    /// The time to finish what is in flight is over: who has no answer yet gets the object's own. A gate that drains sees to that
    /// itself when its time is over; whoever goes on at once says so.
    pub fn end_drain(&self) {
        self.0.drained.set(true);
        self.wake_all();
    }

    /// Whether what ends now ends since the gate drains, and not since it was closed at once.
    pub(crate) fn drains(&self) -> bool {
        self.0.drains.get()
    }

    /// Whether it is over.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.drained.get()
    }

    /// Puts requests whose authorizer said [`Hold`](crate::Admission::Hold) before the authorizer again, and raw
    /// connections that it admitted: those it refuses now are cut.
    pub fn ask_again(&self) {
        self.0.round.set(self.0.round.get() + 1);
        self.wake_all();
    }

    /// Cuts every connection open now, whatever it is doing, without changing the phase.
    pub fn cut_all(&self) {
        self.0.cuts.set(self.0.cuts.get() + 1);
        self.wake_all();
    }

    /// Grows with each change of phase and each [`Control::ask_again`].
    pub(crate) fn round(&self) -> u64 {
        self.0.round.get()
    }

    /// Grows with each [`Control::cut_all`].
    pub(crate) fn cuts(&self) -> u64 {
        self.0.cuts.get()
    }

    /// Milliseconds since the control was made, as of the last tick.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    /// A timer of one connection or task.
    pub(crate) fn timer(&self) -> Timer {
        self.refresh();
        let slot = Rc::new(Slot {
            due_ms: Cell::new(u64::MAX),
            waker: Cell::new(None),
        });
        self.0.slots.borrow_mut().push(Rc::downgrade(&slot));
        if let Some(waker) = self.0.sweeper.take() {
            waker.wake();
        }
        Timer {
            control: self.clone(),
            slot,
        }
    }

    /// Moves the coarse clock and wakes what is due, for as long as it is polled; sleeps while no timer exists.
    pub(crate) async fn sweep(self) {
        loop {
            poll_fn(|cx| self.poll_any_timer(cx)).await;
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            self.refresh();
            let now_ms = self.now_ms();
            self.0.slots.borrow_mut().retain(|slot| {
                let Some(slot) = slot.upgrade() else { return false };
                if slot.due_ms.get() <= now_ms {
                    slot.wake();
                }
                true
            });
        }
    }

    fn poll_any_timer(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.0.slots.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.0.sweeper.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn refresh(&self) {
        let now_ms = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.now_ms.set(now_ms);
    }

    fn wake_all(&self) {
        for slot in self.0.slots.borrow().iter().filter_map(Weak::upgrade) {
            slot.wake();
        }
    }
}

struct Slot {
    due_ms: Cell<u64>,
    waker: Cell<Option<Waker>>,
}

impl Slot {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn watch(&self, cx: &Context<'_>) {
        let waker = match self.waker.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.waker.set(Some(waker));
    }
}

/// The bound in time did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// One deadline, and one place to be woken by the control. Serves a single waiting future at a time.
pub(crate) struct Timer {
    control: Control,
    slot: Rc<Slot>,
}

impl Timer {
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Sets the deadline `ms` from now.
    pub(crate) fn arm(&self, ms: u64) {
        // One tick more: the coarse clock may be that much behind.
        self.slot
            .due_ms
            .set(self.control.now_ms().saturating_add(ms).saturating_add(TICK_MS));
    }

    /// Waits for `poll` until the deadline set before. Cancel safe if `poll` is.
    pub(crate) async fn until<T>(
        &self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Elapsed> {
        poll_fn(|cx| match poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll_due(cx).map(Err),
        })
        .await
    }

    /// Ready once the deadline is over; else woken then, and at each change of the control.
    pub(crate) fn poll_due(&self, cx: &Context<'_>) -> Poll<Elapsed> {
        if self.slot.due_ms.get() <= self.control.now_ms() {
            return Poll::Ready(Elapsed);
        }
        self.slot.watch(cx);
        Poll::Pending
    }

    /// Waits for `poll`, at most `ms`. Cancel safe if `poll` is.
    pub(crate) async fn within<T>(
        &self,
        ms: u64,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Elapsed> {
        self.arm(ms);
        self.until(poll).await
    }
}
