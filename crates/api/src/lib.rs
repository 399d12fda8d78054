//! Wire types shared across process edges: refusals at the HTTP edge, events, the agent socket, the control socket.
//!
//! Types and their JSON. Servers live in the shells; what supervisor and runtime say to each other is `link`'s.

#![forbid(unsafe_code)]

pub mod agent;
pub mod cloudevents;
pub mod control;
pub mod daemon;
pub mod event;
pub mod problem;
pub mod verdict;

pub use event::Event;
pub use problem::Problem;
