//! Machines as processes of this host: no KVM, no root needed.
//!
//! Each machine is a tree of processes under a [`shim`] of its own, in namespaces where the host allows
//! (the first program is process 1 in there), plain where it does not. [`Process::detect`] finds out by
//! trying. Nothing of a machine outlives its handle or its caller, however either ends. The one gap: where
//! there are neither namespaces nor control groups, and the shim itself is killed, what the first program
//! has started lives on.
//!
//! A program that embeds this driver calls [`shim::main`] when it is executed with the arguments that it
//! gave to [`Shim`].

mod cgroup;
mod detect;
mod freezer;
mod handle;
mod inside;
mod mounts;
mod plan;
pub mod shim;
mod wire;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::Serialize;
use suijuris_sys::sockets;
use tokio::process::{Child, Command};

use crate::Driver;
use crate::machine::Spec;
use cgroup::Base;
use handle::Channel;
pub use handle::{FreezeError, Machine, SignalError};
use plan::Plan;
pub use plan::SpecError;
pub use wire::{Fault, Step};
use wire::{Order, Report};

/// How long a start may take before it is given up; a slow disk or a busy host, not a normal start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How to execute the shim.
#[derive(Debug, Clone)]
pub struct Shim {
    /// The program, which must call [`shim::main`] on these arguments.
    pub exe: PathBuf,
    /// Its arguments, without the zeroth.
    pub args: Vec<OsString>,
}

impl Shim {
    /// The running program itself, with one argument.
    pub fn itself(arg: impl Into<OsString>) -> Self {
        Self {
            exe: PathBuf::from("/proc/self/exe"),
            args: vec![arg.into()],
        }
    }
}

/// What keeps a machine apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Namespaces, made with root's privilege.
    Namespaces,
    /// Namespaces, made inside a user namespace: needs no privilege.
    UserNamespaces,
    /// Nothing: the machine sees the host's processes and network.
    Plain,
}

/// How a machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Freezing {
    /// By a control group of version 2.
    CgroupV2,
    /// By the freezer of control groups version 1.
    CgroupV1,
    /// By SIGSTOP to each process; visible to parents inside the machine.
    Signals,
}

/// What a caller insists on; none means the best that works.
#[derive(Debug, Clone, Copy, Default)]
pub struct Want {
    /// How to keep machines apart.
    pub isolation: Option<Isolation>,
    /// How to suspend them.
    pub freezing: Option<Freezing>,
}

/// What the driver uses on this host, and what stood against better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// How machines are kept apart.
    pub isolation: Isolation,
    /// How machines are suspended.
    pub freezing: Freezing,
    /// What was tried and refused.
    pub shortfalls: Vec<Shortfall>,
}

/// Something better that does not work here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// What it would have been.
    pub wanted: String,
    /// Which step failed, how, and what to do about it.
    pub why: String,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The specification cannot be used.
    #[error("the machine's specification is unusable: {0}")]
    Spec(SpecError),
    /// The shim could not be executed.
    #[error("cannot execute {shim}; is the installation complete?")]
    Shim {
        /// Its path.
        shim: String,
        /// Why.
        source: io::Error,
    },
    /// A step failed.
    #[error("{fault}")]
    Step {
        /// Which, and what to do about it.
        fault: Fault,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The shim ended without a word.
    #[error("the shim ended before the machine had started; does {shim} call shim::main?")]
    Silent {
        /// Its path.
        shim: String,
    },
    /// Nothing came of it in time.
    #[error("the machine had not started after {limit_s} s; the host is overloaded or a file system hangs")]
    Slow {
        /// The time given, in seconds.
        limit_s: u64,
    },
    /// What the caller insisted on does not work here.
    #[error("not possible on this host: {}", list(.0))]
    Unavailable(Vec<Shortfall>),
    /// The caller's own resources gave out.
    #[error("cannot prepare the machine's start")]
    Io(#[from] io::Error),
}

impl From<SpecError> for StartError {
    fn from(error: SpecError) -> Self {
        Self::Spec(error)
    }
}

/// Starts machines as processes.
#[derive(Debug)]
pub struct Process {
    shim: Shim,
    base: Option<Base>,
    description: Description,
    next: AtomicU64,
    spare: Mutex<Option<Waiting>>,
}

/// A shim that has been executed and waits for its order.
#[derive(Debug)]
struct Waiting {
    socket: OwnedFd,
    child: Child,
}

impl Process {
    fn new(shim: Shim, base: Option<Base>, description: Description) -> Self {
        Self {
            shim,
            base,
            description,
            next: AtomicU64::new(0),
            spare: Mutex::default(),
        }
    }

    async fn launch(&self, plan: Plan) -> Result<Machine, StartError> {
        let leaf = plan.request.cgroup.clone();
        let launched = self.launch_in(plan).await;
        if let (Err(_), Some(leaf)) = (&launched, &leaf) {
            // Where no shim got as far as to remove it.
            let _ = leaf.remove();
        }
        launched
    }

    async fn launch_in(&self, plan: Plan) -> Result<Machine, StartError> {
        let waiting = self.take_spare().map_or_else(|| self.spawn(), Ok)?;
        let request = plan.request.seal()?;
        let files = [&request].into_iter().chain(&plan.files);
        let fds: Vec<BorrowedFd<'_>> = files.map(AsFd::as_fd).collect();
        match sockets::send(waiting.socket.as_fd(), &wire::encode(&Order::Run)?, &fds) {
            // Already gone: told below, from its silence.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => drop(sent?),
        }
        drop(plan.files);
        let channel = Channel::new(waiting.socket)?;
        let answer = tokio::time::timeout(START_LIMIT, channel.receive()).await;
        let answer = answer.map_err(|_| StartError::Slow {
            limit_s: START_LIMIT.as_secs(),
        })??;
        match answer {
            Some((Report::Started { pid }, Some(pidfd))) => {
                let leaf = plan.request.cgroup;
                Ok(Machine::new(
                    plan.id,
                    pid,
                    pidfd,
                    channel,
                    waiting.child,
                    leaf,
                    plan.outputs,
                )?)
            }
            Some((Report::Failed(fault), _)) => Err(step(fault)),
            _ => Err(StartError::Silent {
                shim: self.shim.exe.display().to_string(),
            }),
        }
    }

    /// Has a shim wait for the next start, which then takes about half the time. It costs a sleeping
    /// process; call it when a start is likely and time is at hand, as after a machine has ended.
    ///
    /// # Errors
    /// When the shim cannot be executed.
    pub fn prepare(&self) -> Result<(), StartError> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.as_mut().is_none_or(|waiting| !waiting.is_alive()) {
            *spare = Some(self.spawn()?);
        }
        Ok(())
    }

    fn take_spare(&self) -> Option<Waiting> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.and_then(|mut waiting| waiting.is_alive().then_some(waiting))
    }

    fn spawn(&self) -> Result<Waiting, StartError> {
        let pair = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        );
        let (socket, theirs) = pair.map_err(io::Error::from)?;
        let mut command = Command::new(&self.shim.exe);
        command.args(&self.shim.args).env_clear().current_dir("/");
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let shim = || self.shim.exe.display().to_string();
        let child = command
            .spawn()
            .map_err(|source| StartError::Shim { shim: shim(), source })?;
        Ok(Waiting { socket, child })
    }
}

impl Waiting {
    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Driver for Process {
    type Machine = Machine;
    type Error = StartError;
    type Description = Description;

    async fn start(&self, spec: Spec) -> Result<Machine, StartError> {
        self.launch(Plan::new(self, spec)?).await
    }

    fn describe(&self) -> &Description {
        &self.description
    }
}

fn step(fault: Fault) -> StartError {
    let source = fault.cause();
    StartError::Step { fault, source }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::UserNamespaces => "namespaces without privilege",
            Self::Plain => "plain processes",
        })
    }
}

impl fmt::Display for Freezing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CgroupV2 => "control group v2",
            Self::CgroupV1 => "control group v1",
            Self::Signals => "SIGSTOP to each process",
        })
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.wanted, self.why)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, suspended by {}", self.isolation, self.freezing)?;
        self.shortfalls
            .iter()
            .try_for_each(|shortfall| write!(f, "; no {shortfall}"))
    }
}

fn list(shortfalls: &[Shortfall]) -> String {
    shortfalls
        .iter()
        .map(Shortfall::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
