//! A proxy that starts what it forwards to, as Fly's does: services by app and port, load limits, requests that wait while a
//! machine starts, machines that rest without traffic, replays.
//!
//! It knows neither machines nor objects: whoever runs machines is a [`fleet::Fleet`]. Requests pass `suijuris-gate`, so that
//! what is ambiguous is refused before anybody is asked about it; here is decided where they go.
//!
//! | module | duty |
//! |---|---|
//! | [`fleet`], [`load`] | what is told of machines; what is on its way to them |
//! | `choice` | which machine a request goes to (pure) |
//! | `autostop` | which machine rests (pure), and the loop |
//! | `router` | one request until it has a machine: hooks, starts, queues, second attempts, replays |
//! | `starts` | one start for all who wait |
//! | `replay` | what an app's `fly-replay` says; what of it is remembered; the signature under its state |
//! | `asked`, `passage`, `authorizer` | a request, its permit, and the gate's questions |
//! | `acme` | certificates for apps' own names |
//! | `hook` | who is asked whether a request may pass |
//! | `listener`, `raw` | what a connection is; raw ones |
//! | [`relay`] | raw ones that outlive this process |
//! | [`proxy`](Proxy), `metrics`, `traces` | threads; counters; spans of requests (feature `traces`) |

#![forbid(unsafe_code)]

mod acme;
mod asked;
mod authorizer;
mod autostop;
mod choice;
pub mod fleet;
mod hook;
mod ids;
mod listener;
pub mod load;
mod metrics;
mod passage;
pub mod problems;
mod proxy;
mod raw;
pub mod relay;
mod replay;
mod router;
mod starts;
#[cfg(feature = "traces")]
pub mod traces;

pub use acme::Acme;
pub use hook::{BadHook, Hook};
pub use proxy::{AUTOSTOP, Entry, HOLD, Options, Proxy, ServeError, UNREACHABLE, address};
pub use replay::state::{AppKey, Key, LASTS_S, StateError};

/// The fuzz body of what sends a request elsewhere: whatever the bytes, it is read or refused, and keeps its bounds.
#[doc(hidden)]
pub fn fuzz_replay(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _any_answer = replay::header(text).is_ok();
    }
    let _any_answer = replay::json(bytes).is_ok();
}
