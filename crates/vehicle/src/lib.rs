//! Drivers that start, stop, suspend and resume machines. Knows nothing of objects.
//!
//! A machine is described by a [`Spec`] and run by a [`Driver`]. The only driver here is [`process`]:
//! a machine is a tree of processes, in namespaces of its own where the host allows them and plain
//! where it does not; [`Driver::describe`] says which, and why not better. What runs in a machine, when
//! it should run and whether it may, is decided by the callers (`suijuris up`, later the host).

#![forbid(unsafe_code)]

pub mod machine;
pub mod process;

pub use machine::{Exit, Mount, Network, Output, Signal, Spec, State};

/// Starts machines of one kind.
pub trait Driver {
    /// Handle on a machine of this kind. Dropping it ends the machine.
    type Machine;
    /// Why a machine could not be started.
    type Error: std::error::Error;
    /// What this driver can and cannot do on this host.
    type Description;

    /// Starts a machine and returns once its first program has been executed.
    ///
    /// Cancel safe: a dropped start leaves nothing behind.
    fn start(&self, spec: Spec) -> impl Future<Output = Result<Self::Machine, Self::Error>> + Send;

    /// Which mechanisms are in use, and what stands against better ones.
    fn describe(&self) -> &Self::Description;
}
