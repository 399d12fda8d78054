//! How often a call may be made: for each action and each app or machine by itself.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::error::ApiError;
use super::routes::Route;

/// Calls between two times that forgotten callers are thrown away.
const SWEEP_CALLS: u32 = 4_096;

/// The limits; none where they are off.
#[derive(Debug)]
pub(crate) struct Rates {
    limiters: Vec<((NonZeroU32, NonZeroU32), DefaultKeyedRateLimiter<String>)>,
    calls: AtomicU32,
}

impl Rates {
    pub(crate) fn new(is_on: bool) -> Self {
        let mut limiters: Vec<((NonZeroU32, NonZeroU32), DefaultKeyedRateLimiter<String>)> = Vec::new();
        for route in super::routes::ROUTES.iter().filter(|_| is_on) {
            let rate = route.rate();
            if limiters.iter().all(|(known, _)| *known != rate) {
                let each = Duration::from_secs(1) / rate.0.get();
                let quota = Quota::with_period(each)
                    .unwrap_or(Quota::per_second(rate.0))
                    .allow_burst(rate.1);
                limiters.push((rate, RateLimiter::keyed(quota)));
            }
        }
        Self {
            limiters,
            calls: AtomicU32::new(0),
        }
    }

    /// Counts a call on `identifier`.
    pub(crate) fn check(&self, route: &Route, identifier: &str) -> Result<(), ApiError> {
        let rate = route.rate();
        let Some((_, limiter)) = self.limiters.iter().find(|(known, _)| *known == rate) else {
            return Ok(());
        };
        if self.calls.fetch_add(1, Ordering::Relaxed) % SWEEP_CALLS == SWEEP_CALLS - 1 {
            self.limiters
                .iter()
                .for_each(|(_, limiter)| limiter.retain_recent());
        }
        let key = format!("{:?} {identifier}", route.operation);
        limiter.check_key(&key).map_err(|_| {
            let text = "rate limit exceeded: this action on this app or machine is called too often; wait a second, or start the host with \
                        --no-rate-limit";
            ApiError::new(http::StatusCode::TOO_MANY_REQUESTS, text)
        })
    }
}
