//! Wire types shared across process edges: refusals at the HTTP edge, events, the agent socket, the channel between
//! a vehicle's owner and the runtime in its machine.
//!
//! Types and their JSON, and the one thin client that both ends of the channel share. Servers live in the shells.

#![forbid(unsafe_code)]

pub mod agent;
pub mod channel;
pub mod cloudevents;
pub mod control;
pub mod event;
pub mod problem;
pub mod verdict;

pub use event::Event;
pub use problem::Problem;
