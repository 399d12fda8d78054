//! One unmodified program: spawn it, see when it can serve, see how it ends, stop it.
//!
//! [`spawn`] prepares (placeholders, environment, user) and starts, [`Running`] watches and stops; `ready` finds the
//! listening socket, `process_tree` knows which processes belong to the program. Not here: when a workload may run (the
//! resident decides), what its output means (the caller forwards it), adopted orphans in general (`pid1`).
//!
//! Called by boot and the resident, on the main thread: the kernel kills the program when the thread that started it
//! ends.

mod command;
mod confine;
mod ended;
mod limits;
mod live;
mod notify;
mod pace;
mod prepare;
pub(crate) mod process_tree;
mod ready;
mod running;
mod secrets;
mod sockets;
mod user;

pub(crate) use command::is_asked;
pub use ended::{Ended, Exhausted, How, Stopped};
pub use limits::{MachineLimits, VARIABLE as LIMITED, volume_bytes};
pub use live::Stuck;
pub use prepare::{CONNECTIONS_FD, Output, Placement, SpawnError, free_port, spawn};
pub use ready::{Listening, NotReady, listening};
pub use running::Running;
pub use secrets::{SecretError, Secrets};
