//! The gate over real sockets: what clients get, and what the workload never sees.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod answers;
mod bounds;
mod bytes;
mod corpus;
mod fd_passing;
mod forwarding;
mod http2;
mod refused;
mod rig;
mod smuggling;
mod spellings;
mod sys;
mod tunnels;
