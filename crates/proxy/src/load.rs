//! What is on its way to each service of each machine: counted by a value that goes with the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Numbers given out so far.
static TARGETS: AtomicU64 = AtomicU64::new(1);

/// The load of one service of one machine.
#[derive(Debug)]
pub struct Load {
    target: u64,
    now: AtomicUsize,
    leaving: AtomicBool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            target: TARGETS.fetch_add(1, Ordering::Relaxed),
            now: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
        }
    }
}

impl Load {
    /// A number that no other load of this process has.
    #[must_use]
    pub const fn target(&self) -> u64 {
        self.target
    }

    /// Requests or connections now.
    #[must_use]
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// Its machine is about to be put to rest: it gets what no other can take.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// One more, if there is room below `hard`.
    pub(crate) fn take(self: &Arc<Self>, hard: Option<usize>) -> Option<Taken> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        let taken = Taken(Arc::clone(self));
        hard.is_none_or(|hard| before < hard).then_some(taken)
    }
}

/// One in the load until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken(Arc<Load>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_holds_and_what_ends_makes_room() {
        let load = Arc::new(Load::default());
        let first = load.take(Some(2)).unwrap();
        let second = load.take(Some(2)).unwrap();
        assert!(load.take(Some(2)).is_none());
        assert_eq!(load.now(), 2, "one that was refused does not count");
        drop(first);
        assert!(load.take(Some(2)).is_some());
        drop(second);
        assert_eq!(load.now(), 0);
        assert_ne!(load.target(), Load::default().target());
    }
}
