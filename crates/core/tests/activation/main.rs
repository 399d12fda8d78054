//! Tests of the activation machine from outside: what a user would notice, the table in the docs, properties over random
//! sequences of events, and a simulated process with twenty objects.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod actor;
mod life;
mod pacing;
mod properties;
mod queue;
mod table;
mod watch;
