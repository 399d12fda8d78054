//! Tests of the core from outside: lineage, memory, manifest, and the bytes that `spec/` promises.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod approvals;
mod checkpoints;
mod classes;
mod fuzz_bodies;
mod history;
mod lives;
mod manifest;
mod memory;
mod restored;
mod segments;
mod transitions;
mod values;
mod vectors;
mod witness;
mod writes;
