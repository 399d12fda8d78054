//! One suite for every backend: each promise of `Depot` is a function of a depot, and each backend runs them all.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these functions are tests"
)]

mod backend;
mod child;
mod crash;
mod failing;
mod garbage;
mod names;
mod open;
mod promises;
mod relay;
mod rest;
mod samples;
mod session;
