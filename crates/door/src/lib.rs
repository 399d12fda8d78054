//! The door: the object's own decision, made outside while it sleeps.
//!
//! A library and a server that keep verified heads of sleeping objects, answer `wake` and `admit` for them with the
//! rules they carry, store messages, watch timers, and wake machines, each at most once at a time. The object decides
//! again inside: a door saves cost and has no authority; whatever it gets wrong is a refusal too many or a machine
//! started for nothing. Looking at an object never wakes it.
//!
//! Not here: the listening socket of `up` and handing connections over (cli), what a depot does (depot), rules (core).

mod asked;
mod bytes;
pub mod config;
mod door;
pub mod events;
pub mod heads;
mod kept;
mod metrics;
mod notes;
mod pack;
mod problems;
mod routes;
mod secret;
mod server;
pub mod sleepers;
mod value;
pub mod waker;
mod wakes;

pub use config::Config;
pub use door::{Clock, Door, Listener, Passed, Standing};
pub use secret::Secret;
pub use server::{serve, serve_door};
pub use sleepers::Sleepers;
