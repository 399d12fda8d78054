//! Until when the object may serve, as one atomic that is looked at on every admission.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use suijuris_core::witness::Mono;

/// Until when the object may serve. Clones are the same lease; the default one is good for nothing until it is set.
#[derive(Debug, Clone, Default)]
pub struct Lease(Arc<Until>);

#[derive(Debug, Default)]
struct Until {
    boot_ns: AtomicU64,
    /// Counts revocations: whoever sets it names the one it knows of.
    era: Mutex<u64>,
}

impl Lease {
    /// One that never ends: there is no witness, and none is required.
    #[must_use]
    pub fn unlimited() -> Self {
        let lease = Self::default();
        lease.0.boot_ns.store(u64::MAX, Ordering::Release);
        lease
    }

    /// Whether the object may serve at this reading of `CLOCK_BOOTTIME`, nanoseconds.
    #[must_use]
    pub fn is_good(&self, boot_ns: u64) -> bool {
        boot_ns < self.until_ns()
    }

    /// The instant at which it ends, by `CLOCK_BOOTTIME`, nanoseconds; zero where it is good for nothing.
    #[must_use]
    pub fn until_ns(&self) -> u64 {
        self.0.boot_ns.load(Ordering::Acquire)
    }

    /// Ends it now, whatever the witness's thread is about to set.
    pub(super) fn revoke(&self) -> u64 {
        let mut era = self.0.era.lock().unwrap_or_else(PoisonError::into_inner);
        *era += 1;
        self.0.boot_ns.store(0, Ordering::Release);
        *era
    }

    /// Sets the end, if nobody has revoked the lease since `era`.
    pub(super) fn set(&self, era: u64, until: Option<Mono>) {
        let present = self.0.era.lock().unwrap_or_else(PoisonError::into_inner);
        if *present == era {
            let until = until.map_or(0, |until| until.0);
            self.0.boot_ns.store(until, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_revoked_is_not_set_by_whoever_does_not_know() {
        let lease = Lease::default();
        assert!(!lease.is_good(0));
        lease.set(0, Some(Mono(10)));
        assert!(lease.is_good(9) && !lease.is_good(10));
        let era = lease.revoke();
        lease.set(0, Some(Mono(20)));
        assert!(!lease.is_good(0));
        lease.set(era, Some(Mono(20)));
        assert!(lease.is_good(19));
        lease.set(era, None);
        assert!(!lease.is_good(0));
        assert!(Lease::unlimited().is_good(u64::MAX - 1));
    }
}
