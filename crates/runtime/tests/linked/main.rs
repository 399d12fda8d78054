//! The runtime as a program, `suijuris-init`, with this test as its supervisor at the other end of the link.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod attaching;
mod connections;
mod depot;
mod hostile;
mod rig;
mod secrets;
mod spares;
mod standing_by;
mod streams;
mod verified;
