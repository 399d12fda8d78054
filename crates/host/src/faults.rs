//! Points at which a test ends the daemon as `kill -9` would: before each commit, before and after each effect. A daemon that is
//! not told to die never does.

use std::sync::atomic::{AtomicI64, Ordering};

use nix::sys::signal::{Signal, raise};

/// How many points are passed before the end.
#[derive(Debug)]
pub(crate) struct Faults {
    left: AtomicI64,
    armed: bool,
}

impl Faults {
    /// Dies at the point of this number, counted from 0; never where there is none.
    pub(crate) fn new(at: Option<u32>) -> Self {
        Self {
            left: AtomicI64::new(at.map_or(0, i64::from)),
            armed: at.is_some(),
        }
    }

    /// A point.
    pub(crate) fn pass(&self) {
        if self.armed && self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            // Returns only where the signal could not be sent.
            let _ = raise(Signal::SIGKILL);
        }
    }
}
