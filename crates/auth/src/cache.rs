//! Tokens verified lately, by digest: bounded in number and bytes, oldest out first.

use std::collections::{HashMap, VecDeque};

use suijuris_core::id::Digest;
use suijuris_core::time::Timestamp;

use super::{LEEWAY, Verified};

/// Tokens remembered at most.
const MAX_TOKENS: usize = 1_024;

/// Bytes of tokens remembered at most; what a token says takes about as much room as its text.
const MAX_BYTES: usize = 512 << 10;

/// Verified tokens. Only good signatures get in, so that strangers cannot fill it.
#[derive(Default)]
pub(super) struct Cache {
    tokens: HashMap<Digest, (Verified, usize)>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Cache {
    pub(super) fn find(&self, digest: &Digest) -> Option<Verified> {
        self.tokens.get(digest).map(|(verified, _)| verified.clone())
    }

    /// Remembers a token of `len` bytes; drops what expired before `now`, then the oldest, to make room.
    pub(super) fn keep(&mut self, digest: Digest, verified: Verified, len: usize, now: Timestamp) {
        if self.is_full(len) {
            self.drop_expired(now);
        }
        while self.is_full(len) {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.forget(&oldest);
        }
        if self.tokens.insert(digest, (verified, len)).is_none() {
            self.order.push_back(digest);
            self.bytes += len;
        }
    }

    fn is_full(&self, len: usize) -> bool {
        self.tokens.len() >= MAX_TOKENS || self.bytes + len > MAX_BYTES
    }

    fn forget(&mut self, digest: &Digest) {
        if let Some((_, len)) = self.tokens.remove(digest) {
            self.bytes -= len;
        }
    }

    fn drop_expired(&mut self, now: Timestamp) {
        self.tokens
            .retain(|_, (verified, _)| now < verified.expires.saturating_add(LEEWAY));
        self.order.retain(|digest| self.tokens.contains_key(digest));
        self.bytes = self.tokens.values().map(|(_, len)| len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use suijuris_core::inputs::Caller;

    fn verified(expires: i64) -> Verified {
        Verified {
            caller: Arc::new(Caller::default()),
            not_before: Timestamp(0),
            expires: Timestamp(expires),
        }
    }

    fn digest(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn it_stays_within_its_bounds_and_forgets_the_oldest() {
        let mut cache = Cache::default();
        for number in 0..MAX_TOKENS + 10 {
            cache.keep(digest(number), verified(1_000_000), 100, Timestamp(0));
        }
        assert_eq!((cache.tokens.len(), cache.order.len()), (MAX_TOKENS, MAX_TOKENS));
        assert!(cache.find(&digest(9)).is_none());
        assert!(cache.find(&digest(10)).is_some());
        for number in 0..100 {
            cache.keep(digest(10_000 + number), verified(1_000_000), 8_192, Timestamp(0));
        }
        assert!(
            cache.bytes <= MAX_BYTES && cache.tokens.len() == 64,
            "{}",
            cache.tokens.len()
        );
    }

    #[test]
    fn expired_tokens_go_before_good_ones() {
        let mut cache = Cache::default();
        cache.keep(digest(0), verified(1_000_000), 1, Timestamp(0));
        for number in 1..MAX_TOKENS {
            cache.keep(digest(number), verified(1_000), 1, Timestamp(0));
        }
        cache.keep(digest(MAX_TOKENS), verified(1_000_000), 1, Timestamp(500_000));
        assert_eq!(cache.tokens.len(), 2);
        assert!(cache.find(&digest(0)).is_some());
    }
}
