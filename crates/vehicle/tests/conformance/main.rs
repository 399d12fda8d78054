//! One suite for every driver, and what is special about each.
//!
//! `suite` is generic over [`suijuris_vehicle::Driver`]: a further driver is a further [`suite::Stage`], which says how
//! to make its machines play a [`suite::Part`] and how to kill the supervisor that started one. Each stage gives its
//! driver the same actor, or plays the parts itself.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod fake;
mod firecracker;
mod forks;
mod full;
mod images;
mod process;
mod qemu;
mod standby;
mod suite;
