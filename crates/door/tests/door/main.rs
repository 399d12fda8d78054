//! The door over a depot, over HTTP, and behind the proxies that ask it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod life;
mod packed;
#[path = "../../../policy/tests/differential/random.rs"]
mod random;
#[path = "../../../policy/tests/differential/rules.rs"]
mod rules;
#[path = "../../../policy/tests/differential/world.rs"]
mod world;
