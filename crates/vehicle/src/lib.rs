//! Drivers that start, find again, stop, suspend and resume machines. Knows nothing of objects.
//!
//! A machine is described by a [`Spec`], run by a [`Driver`] and held by a [`Machine`]. [`Driver::describe`] says what a
//! driver can do on this host, and why not more. [`process`] runs machines as trees of processes, [`vm`] as virtual machines; `fake` plays them
//! for tests. Every driver passes one suite, `tests/conformance`. What runs in a machine, when it should run and
//! whether it may, is decided by the callers (`suijuris up`, the supervisor).

#![forbid(unsafe_code)]

pub mod description;
pub mod driver;
pub mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod machine;
pub mod output;
pub mod process;
mod secret;
pub mod spec;
pub mod vm;

pub use description::{
    Description, Enforced, ImageUsers, Isolation, Location, Means, Resource, Shortfall, Suspending,
};
pub use driver::{Driver, Machine};
pub use error::{
    AttachError, FreezeError, LinkError, ListError, OutputError, ResumeError, SignalError, SpecError,
    StartError, SuspendError,
};
pub use machine::{Exit, Link, MachineId, Signal, State};
pub use output::{Line, Lines, Since};
pub use spec::{
    Account, ImageFiles, ImageRoot, Lifetime, Mount, Network, Output, Owner, Place, Program, Resources, Root,
    Spec,
};
