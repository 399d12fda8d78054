//! The first process of a virtual machine, and what it and the driver outside say to each other.
//!
//! `init` does what a first process does (modules, mounts, clock, randomness, loopback, reaping, power off) and starts one
//! program in namespaces of its own, as process 1 there. `wire` is the bytes of the one channel between it and the driver
//! (`suijuris_vehicle::vm`), `session` the streams in them, the same at both ends. A crate of its own because both ends use
//! it and neither may know the other: the runtime carries `init`, so that one static program is all that a machine needs.

#![forbid(unsafe_code)]

mod image;
pub mod init;
mod kept;
mod port;
mod program;
pub mod session;
pub mod wire;
