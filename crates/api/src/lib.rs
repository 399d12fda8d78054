//! Wire types shared across process edges: refusals at the HTTP edge, the agent socket, events.
//!
//! Types and their JSON only; no sockets. Servers live in the shells (runtime, cli), so that a client
//! can depend on this crate alone.

pub mod problem;

pub use problem::Problem;
