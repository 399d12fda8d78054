//! The door over a depot, over HTTP, and behind the proxies that ask it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod bad;
mod both;
mod depot;
mod http;
mod life;
mod packed;
mod proxies;
#[path = "../../../policy/tests/differential/random.rs"]
mod random;
mod rig;
#[path = "../../../policy/tests/differential/rules.rs"]
mod rules;
mod spellings;
#[path = "../../../policy/tests/differential/world.rs"]
mod world;
