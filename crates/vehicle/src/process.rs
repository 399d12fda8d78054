//! Machines as processes of this host: no KVM, no root needed.
//!
//! Each machine is a tree of processes under a [`shim`] of its own, in namespaces where the host allows
//! (the first program is process 1 in there), plain where it does not. [`Process::detect`] finds out by
//! trying. Nothing of a machine outlives its handle or its caller, however either ends, unless it was started to
//! outlive them ([`Process::keeping_in`]). The one gap: where
//! there are neither namespaces nor control groups, and the shim itself is killed, what the first program
//! has started lives on.
//!
//! A program that embeds this driver calls [`shim::main`] when it is executed with the arguments that it
//! gave to [`Shim`].

mod attach;
mod cgroup;
mod detect;
mod enter;
mod freezer;
mod handle;
mod inside;
mod keeper;
mod limits;
mod log;
mod mounts;
mod network;
mod networks;
mod plan;
mod record;
mod root;
mod scratch;
pub mod shim;
mod state;
mod stranger;
mod wire;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use suijuris_sys::{Pidfd, sockets};
use tokio::process::{Child, Command};

use crate::Driver;
use crate::description::{Description, Isolation, Suspending};
use crate::error::{AttachError, ListError, StartError};
use crate::machine::MachineId;
use crate::spec::Spec;
use cgroup::Base;
pub use enter::Entering;
pub use handle::Machine;
use handle::{Channel, Parts};
use limits::Limiter;
pub use network::Family;
pub use networks::{Attachment, Networks, NetworksError, UPLINK, WayOut};
use plan::Plan;
pub use scratch::remove_strange;
use state::StateDir;
pub use state::StateError;
pub use wire::{Fault, Step};
use wire::{Order, Report};

/// How long a start may take before it is given up; a slow disk or a busy host, not a normal start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Numbers of machines and of their control groups: those of all drivers of a process share its name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A number that no other machine of this process has.
fn number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

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

/// What a caller insists on; none means the best that works.
#[derive(Debug, Clone, Copy, Default)]
pub struct Want {
    /// How to keep machines apart.
    pub isolation: Option<Isolation>,
    /// How to suspend them.
    pub suspending: Option<Suspending>,
}

impl Process {
    /// How this driver executes its shim; what [`Machine::enter`] needs.
    #[must_use]
    pub const fn shim(&self) -> &Shim {
        &self.shim
    }
}

/// A step on the way to a running machine failed; what [`StartError::Failed`] holds, where a step is to blame.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct StepFailed {
    /// Which, and what to do about it.
    pub fault: Fault,
    /// The kernel's answer.
    pub source: io::Error,
}

/// The shim did not do its part; what [`StartError::Failed`] holds otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It could not be executed.
    #[error("cannot execute {shim}; is the installation complete?")]
    Missing {
        /// Its path.
        shim: String,
        /// Why.
        source: io::Error,
    },
    /// It ended without a word.
    #[error("the shim ended before the machine had started; does {shim} call shim::main?")]
    Silent {
        /// Its path.
        shim: String,
    },
}

impl From<Fault> for StepFailed {
    fn from(fault: Fault) -> Self {
        let source = fault.cause();
        Self { fault, source }
    }
}

impl From<StepFailed> for StartError {
    fn from(error: StepFailed) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<ShimError> for StartError {
    fn from(error: ShimError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// Starts machines as processes.
#[derive(Debug)]
pub struct Process {
    shim: Shim,
    base: Option<Base>,
    limiter: Limiter,
    state: Option<StateDir>,
    description: Description,
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
            limiter: Limiter::default(),
            state: None,
            description,
            spare: Mutex::default(),
        }
    }

    /// The same driver, able to start machines that outlive it, and to find those again that an earlier driver with
    /// this directory started. Made if missing, for its owner alone; used by one process at a time.
    ///
    /// # Errors
    /// When another process uses it, others may look into it, or it cannot be used.
    pub fn keeping_in(mut self, directory: &Path) -> Result<Self, StateError> {
        self.state = Some(StateDir::open(directory)?);
        self.description.detached = true;
        Ok(self)
    }

    async fn launch(&self, plan: Plan) -> Result<Machine, StartError> {
        let Waiting { socket, child } = self.take_spare().map_or_else(|| self.spawn(), Ok)?;
        // The child has not been waited for, so that it still has its number.
        let keeper = child.id().and_then(suijuris_sys::Process::of);
        let keeper = keeper.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let request = plan.request.seal()?;
        let files = [&request].into_iter().chain(&plan.files);
        let fds: Vec<BorrowedFd<'_>> = files.map(AsFd::as_fd).collect();
        match sockets::send(socket.as_fd(), &wire::encode(&Order::Run)?, &fds) {
            // Already gone: told below, from its silence.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => drop(sent?),
        }
        drop(plan.files);
        let channel = Channel::new(socket)?;
        let answer = tokio::time::timeout(START_LIMIT, channel.next::<Report>()).await;
        let slow = |_| StartError::Slow {
            limit_s: START_LIMIT.as_secs(),
        };
        let (pid, pidfd) = match answer.map_err(slow)?? {
            Some((Report::Started { pid }, fds)) => (pid, fds.into_iter().next().map(Pidfd::from)),
            Some((Report::Failed(fault), _)) => return Err(StepFailed::from(fault).into()),
            _ => return Err(self.silent()),
        };
        let parts = Parts {
            id: plan.id,
            pid,
            pidfd: pidfd.ok_or_else(|| self.silent())?,
            keeper,
            child: Some(child),
            channel,
            groups: plan.groups.hand_over(),
            outlet: plan.outlet,
            has_log: plan.request.detached.is_some_and(|detached| detached.pipes > 0),
            outputs: plan.outputs,
            limits: plan.enforced,
            place: plan.place,
        };
        Ok(Machine::started(parts)?)
    }

    fn silent(&self) -> StartError {
        let shim = self.shim.exe.display().to_string();
        ShimError::Silent { shim }.into()
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
            .map_err(|source| ShimError::Missing { shim: shim(), source })?;
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

    fn describe(&self) -> &Description {
        &self.description
    }

    async fn start(&self, spec: Spec) -> Result<Machine, StartError> {
        self.launch(Plan::new(self, spec)?).await
    }

    async fn attach(&self, id: &MachineId) -> Result<Machine, AttachError> {
        match &self.state {
            Some(state) => attach::attach(state, id).await,
            None => Err(AttachError::Unknown(id.clone())),
        }
    }

    async fn list(&self) -> Result<Vec<MachineId>, ListError> {
        self.state.as_ref().map_or_else(|| Ok(Vec::new()), StateDir::list)
    }

    /// Has a shim wait for the next start, which then takes about half the time. It costs a sleeping process; call it as
    /// after a machine has ended.
    fn prepare(&self) -> Result<(), StartError> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.as_mut().is_none_or(|waiting| !waiting.is_alive()) {
            *spare = Some(self.spawn()?);
        }
        Ok(())
    }
}
