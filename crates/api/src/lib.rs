//! Wire types shared across process edges: refusals at the HTTP edge, events, the agent socket, the control socket.
//!
//! Types and their JSON, and nothing else of ours: whoever speaks to us needs this crate alone. Core's values become these
//! documents in `words`. Servers live in the shells; what supervisor and runtime say to each other is `link`'s.

#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
pub mod control;
pub mod daemon;
pub mod event;
pub mod history;
pub mod json;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod owner;
pub mod problem;
pub mod routes;
pub mod tls;

pub use event::Event;
pub use problem::Problem;
