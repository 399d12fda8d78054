//! The door: the object's own decision, made outside while it sleeps.
//!
//! A library and a server that keep verified heads of sleeping objects, answer `wake` and `admit` for them with the
//! rules they carry, store messages, watch timers, and wake machines, each at most once at a time. The object decides
//! again inside: a door saves cost and has no authority; whatever it gets wrong is a refusal too many or a machine
//! started for nothing. Looking at an object never wakes it.
//!
//! Two callers ask here: a [`Door`] for a table of packed heads that a depot feeds, and `up` for its one object, whose
//! state it has open ([`Sleeper`]). Who may ask, what is decided, which timers are due, how refusals are counted, how
//! long an object is left alone after a failure: each has one function for both.
//!
//! Not here: the listening socket of `up` and handing connections over (cli), what a depot does (depot), rules (core).

mod authenticate;
mod bytes;
mod class_door;
pub mod config;
mod deciding;
mod door;
pub mod events;
mod ext_authz;
pub mod heads;
pub mod http_answers;
mod metrics;
mod notes;
mod pack;
pub mod prepared;
pub mod problems;
pub mod proposal;
mod rates;
pub mod routes;
mod secret;
mod server;
pub mod single_flight;
mod sleeper;
pub mod sleepers;
mod value;
pub mod waker;

pub use authenticate::{Credentials, Shown};
pub use class_door::ClassDoor;
pub use config::Config;
pub use door::{Clock, Door, Listener, ObjectStatus, Passed, RefusalKeeper};
pub use ext_authz::{OwnedCheck, request};
pub use notes::NotedRefusal;
pub use prepared::PreparedBundle;
pub use proposal::Proposal;
pub use secret::Secret;
pub use server::{serve, serve_door};
pub use sleeper::Sleeper;
pub use sleepers::Sleepers;
