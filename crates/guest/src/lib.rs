//! What runs in a machine before its program does: the first process of a virtual machine, with what it and the driver outside say to
//! each other; and the last steps of a machine of processes ([`assignment`]), for whoever becomes its first program ([`standby`]).
//!
//! `init` does what a first process does (modules, mounts, clock, randomness, loopback, reaping, power off) and starts one
//! program in namespaces of its own, as process 1 there. `wire` is the bytes of the one channel between it and the driver
//! (`suijuris_vehicle::vm`), `session` the streams in them, the same at both ends. A crate of its own because both ends use
//! it and neither may know the other: the runtime carries `init`, so that one static program is all that a machine needs.

#![forbid(unsafe_code)]

pub mod assignment;
mod image;
pub mod init;
mod kept;
pub mod mounts;
mod port;
mod program;
pub mod session;
pub mod standby;
pub mod wire;
