//! How often something is looked at that nobody tells of: a tenth of a millisecond apart while it is likely any moment, then
//! a fiftieth of the time waited so far. Being late costs whoever waits a fiftieth of the wait at most.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use suijuris_sys::descriptors;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

/// Time between two looks at first: a look takes some ten microseconds.
const FINE: Duration = Duration::from_micros(100);

/// For so long: who starts slower is not seen much later by looking less often.
const FINE_FOR: Duration = Duration::from_millis(50);

/// Time between two looks then, at least: the resolution of the event loop's timers.
const SHORTEST: Duration = Duration::from_millis(1);

/// Time between two looks at most.
const LONGEST: Duration = Duration::from_millis(50);

/// A timer, and the event loop's own descriptor of it.
#[derive(Debug)]
struct Fine {
    timer: TimerFd,
    fires: AsyncFd<OwnedFd>,
}

impl Fine {
    fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let fires = descriptors::watch(timer.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { timer, fires })
    }

    /// Waits [`FINE`].
    async fn passes(&self) -> io::Result<()> {
        let soon = Expiration::OneShot(TimeSpec::from_duration(FINE));
        // Setting it forgets whether it has fired before.
        self.timer.set(soon, TimerSetTimeFlags::empty())?;
        self.fires.readable().await?.clear_ready();
        Ok(())
    }
}

/// The times of looks at one thing.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    /// Finer than the event loop's own timers; none where the system has none left.
    fine: Option<Fine>,
}

impl Pace {
    /// Begins now. For looks that are dear `fine` is left out.
    pub(super) fn new(fine: bool) -> Self {
        Self {
            since: Instant::now(),
            fine: fine.then(Fine::new).and_then(Result::ok),
        }
    }

    /// Goes on with the longer times, whatever has passed: looks have become dear.
    pub(super) fn coarse(&mut self) {
        self.fine = None;
    }

    /// Waits for the next look. Cancel safe.
    pub(super) async fn next(&mut self) {
        let waited = self.since.elapsed();
        if waited >= FINE_FOR {
            self.fine = None;
        }
        let fine = match &self.fine {
            Some(fine) => fine.passes().await.is_ok(),
            None => false,
        };
        if !fine {
            sleep((waited / 50).clamp(SHORTEST, LONGEST)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn looks_are_close_together_at_first_and_then_are_not() {
        let mut pace = Pace::new(true);
        let (mut looks, mut last) = (0_u32, Duration::ZERO);
        while pace.since.elapsed() < FINE_FOR {
            let before = Instant::now();
            pace.next().await;
            last = before.elapsed();
            assert!(last >= FINE, "a look came {last:?} after the one before");
            looks += 1;
        }
        // A machine that is busy with something else gives fewer.
        assert!(looks <= 501, "{looks} looks in {FINE_FOR:?}");
        assert!(last >= FINE);
        let before = Instant::now();
        pace.next().await;
        assert!(before.elapsed() >= SHORTEST && pace.fine.is_none());
    }
}
