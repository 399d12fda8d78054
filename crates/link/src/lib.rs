//! What a supervisor and a runtime say to each other: launch, messages and verdicts, connections, signs of life, over any
//! byte stream; descriptors where the vehicle passes them.
//!
//! `frame` is the bytes, `handshake` how two ends find that they belong together, `mux` windows and turns: these are pure.
//! `message` and `launch` are what is said. `link` is the ends for programs, over a `transport`. The bytes are specified in
//! `spec/link.md`. Not here: what either side does with a message.

#![forbid(unsafe_code)]

pub mod decoder;
pub mod frame;
pub mod fuzz;
pub mod handshake;
pub mod identity;
pub mod launch;
pub mod limits;
mod link;
pub mod message;
pub mod mux;
mod state;
mod stream;
pub mod transport;

pub use identity::{ActivationId, Nonce, Secret};
pub use launch::{Cause, Launch};
pub use link::{
    Driver, End, HEARTBEAT_EVERY, Link, Runtime, RuntimeLink, SILENCE, Supervisor, SupervisorLink,
};
pub use message::{ToRuntime, ToSupervisor};
pub use state::LinkError;
pub use stream::Stream;
