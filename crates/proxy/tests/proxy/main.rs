//! The proxy over real sockets, in front of machines that are played.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod acme;
mod bad_input;
#[path = "../../../gate/tests/gate/corpus.rs"]
mod corpus;
mod headers;
mod hooks;
mod limits;
mod protocols;
mod replays;
mod rig;
mod waking;
