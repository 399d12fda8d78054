//! Tests of the link through its public interface.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod bytes;
mod ends;
mod handshake;
mod vectors;
mod windows;
