//! Numbers that differ: ids of requests, and the chance that decides between equal machines. Not secret.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Digits of a ULID.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Where they come from.
#[derive(Debug)]
pub(crate) struct Ids {
    seed: u64,
    count: AtomicU64,
    started: Instant,
    /// The clock when it was started, since 1970.
    since: Duration,
}

fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Ids {
    /// `since`: the clock now, since 1970.
    pub(crate) fn new(since: Duration) -> Self {
        // Without randomness the clock has to do: they must differ, not be secret.
        let seed = getrandom::u64().unwrap_or(u64::try_from(since.as_nanos()).unwrap_or(1));
        Self {
            seed,
            count: AtomicU64::new(0),
            started: Instant::now(),
            since,
        }
    }

    /// A number that nobody expects.
    pub(crate) fn number(&self) -> u64 {
        let nth = self.count.fetch_add(1, Ordering::Relaxed);
        mixed(self.seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Time since 1970, as it was when this began and has passed since.
    pub(crate) fn now(&self) -> Duration {
        self.since + self.started.elapsed()
    }

    /// A ULID.
    pub(crate) fn ulid(&self) -> String {
        let time = u128::from(u64::try_from(self.now().as_millis()).unwrap_or_default() & 0xffff_ffff_ffff);
        let high = u128::from(self.number() & 0xffff);
        let value = time << 80 | high << 64 | u128::from(self.number());
        (0..26)
            .rev()
            .filter_map(|at| DIGITS.get(usize::try_from(value >> (at * 5) & 31).ok()?))
            .map(|digit| char::from(*digit))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulids_are_in_order_of_time_and_differ() {
        let ids = Ids::new(Duration::from_millis(1_469_922_850_259));
        let (first, second) = (ids.ulid(), ids.ulid());
        assert_eq!(first.len(), 26);
        assert_ne!(first, second);
        assert!(first.starts_with("01ARZ3NDEK"), "{first}");
    }
}
