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
mod birth;
mod cgroup;
mod detect;
mod enter;
mod freezer;
mod handle;
mod inside;
mod keeper;
mod limits;
mod log;
mod network;
mod networks;
mod plan;
mod pool;
mod record;
mod root;
mod scratch;
pub mod shim;
mod state;
mod stranger;
mod users;
mod wire;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
pub(crate) use detect::SEVERAL_USERS;
pub use enter::Entering;
pub use handle::Machine;
use handle::{Channel, Parts};
use limits::Limiter;
pub use network::Family;
pub use networks::{Attachment, Networks, NetworksError, UPLINK, WayOut};
use plan::Plan;
pub use pool::Ahead;
use pool::{Pool, Standby};
pub use scratch::remove_strange;
use state::StateDir;
pub use state::StateError;
use users::Subordinate;
pub use wire::{Fault, Step};
use wire::{Order, Report};

/// How long a start may take before it is given up; a slow disk or a busy host, not a normal start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long making a machine of a program that stands by may take before it is started cold: longer than the shim's own limit.
const ASSIGN_LIMIT: Duration = Duration::from_secs(2);

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
    /// Users of images beside the caller's own, where an administrator gave that numbers.
    users: Option<Subordinate>,
    spare: Mutex<Option<Waiting>>,
    pool: Arc<Pool>,
}

/// A shim that has been executed and waits for its order.
#[derive(Debug)]
struct Waiting {
    socket: OwnedFd,
    child: Child,
}

impl Process {
    fn new(shim: Shim, base: Option<Base>, description: Description) -> Self {
        let pool = Pool::new(Ahead::NONE, shim.clone(), base.clone(), description.isolation);
        Self {
            shim,
            base,
            limiter: Limiter::default(),
            state: None,
            description,
            users: None,
            spare: Mutex::default(),
            pool: Arc::new(pool),
        }
    }

    /// The same driver, which starts programs ahead that can stand by, each in the namespaces of a machine that is yet to come.
    #[must_use]
    pub fn starting_ahead(mut self, ahead: Ahead) -> Self {
        let (shim, base) = (self.shim.clone(), self.base.clone());
        self.pool = Arc::new(Pool::new(ahead, shim, base, self.description.isolation));
        self
    }

    /// How many programs stand by now.
    #[must_use]
    pub fn standing_by(&self) -> usize {
        self.pool.ready()
    }

    /// How many machines came of programs that stood by.
    #[must_use]
    pub fn were_standing_by(&self) -> u64 {
        self.pool.used()
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
        let waiting = self.take_spare().map_or_else(|| spawn(&self.shim), Ok)?;
        self.run(plan, waiting, (Order::Run, START_LIMIT)).await
    }

    /// Makes the machine of `spec` of a program that stands by. Where none comes of it, nothing is left of either: a machine that takes
    /// its place must not meet it.
    async fn assign(&self, standby: Standby, spec: Spec) -> Result<Machine, StartError> {
        let (leaves, first) = (standby.groups.leaves().to_vec(), standby.first()?);
        let assigned = match Plan::named(self, spec, (standby.id, standby.groups)) {
            Ok(plan) => {
                let how = (Order::Assign, ASSIGN_LIMIT);
                self.run(plan, standby.waiting, how).await
            }
            Err(error) => Err(error),
        };
        if assigned.is_err() {
            // A shim that has told why has killed it; one that is stuck cannot.
            let _ = first.signal(libc::SIGKILL);
            let _ = tokio::time::timeout(ASSIGN_LIMIT, first.watch()?.readable()).await;
            cgroup::remove_all(&leaves);
        }
        assigned
    }

    /// Has the shim `waiting` make the machine of `plan`.
    async fn run(
        &self,
        plan: Plan,
        Waiting { socket, mut child }: Waiting,
        (order, limit): (Order, Duration),
    ) -> Result<Machine, StartError> {
        // The child has not been waited for, so that it still has its number.
        let keeper = child.id().and_then(suijuris_sys::Process::of);
        let keeper = keeper.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let request = plan.request.seal()?;
        let files = [&request].into_iter().chain(&plan.files);
        let fds: Vec<BorrowedFd<'_>> = files.map(AsFd::as_fd).collect();
        match sockets::send(socket.as_fd(), &wire::encode(&order)?, &fds) {
            // Already gone: told below, from its silence.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => drop(sent?),
        }
        drop(plan.files);
        let channel = Channel::new(socket)?;
        let (pid, pidfd) = match self.started(&channel, limit).await {
            Ok(started) => started,
            Err(error) => {
                if order == Order::Assign {
                    let _ = child.start_kill();
                    let _ = tokio::time::timeout(limit, child.wait()).await;
                }
                return Err(error);
            }
        };
        let parts = Parts {
            id: plan.id,
            pid,
            pidfd,
            keeper,
            child: Some(child),
            channel,
            groups: plan.groups.hand_over(),
            outlet: plan.outlet,
            outputs: plan.outputs,
            has_log: plan.request.detached.is_some_and(|detached| detached.pipes > 0),
            limits: plan.enforced,
            place: plan.place,
        };
        Ok(Machine::started(parts)?)
    }

    /// The first program of the machine that the shim at the other end makes.
    async fn started(&self, channel: &Channel, limit: Duration) -> Result<(u32, Pidfd), StartError> {
        let slow = |_| StartError::Slow {
            limit_s: limit.as_secs(),
        };
        let answer = tokio::time::timeout(limit, channel.next::<Report>()).await;
        match answer.map_err(slow)?? {
            Some((Report::Started { pid }, fds)) => {
                let pidfd = fds.into_iter().next().map(Pidfd::from);
                Ok((pid, pidfd.ok_or_else(|| self.silent())?))
            }
            Some((Report::Failed(fault), _)) => Err(StepFailed::from(fault).into()),
            _ => Err(self.silent()),
        }
    }

    fn silent(&self) -> StartError {
        let shim = self.shim.exe.display().to_string();
        ShimError::Silent { shim }.into()
    }

    fn take_spare(&self) -> Option<Waiting> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.and_then(|mut waiting| waiting.is_alive().then_some(waiting))
    }
}

/// Executes the shim, which waits for its order.
fn spawn(shim: &Shim) -> Result<Waiting, StartError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (socket, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(io::Error::from)?;
    let mut command = Command::new(&shim.exe);
    command.args(&shim.args).env_clear().current_dir("/");
    command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|source| ShimError::Missing {
        shim: shim.exe.display().to_string(),
        source,
    })?;
    Ok(Waiting { socket, child })
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
        let Some(standby) = self.pool.take(&spec) else {
            return self.launch(Plan::new(self, spec)?).await;
        };
        let Some(again) = spec.try_clone()? else {
            return self.launch(Plan::new(self, spec)?).await;
        };
        if let Ok(machine) = self.assign(standby, spec).await {
            self.pool.count();
            return Ok(machine);
        }
        // What is wrong with the machine itself goes wrong once more, and is told then.
        self.launch(Plan::new(self, again)?).await
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

    /// Starts programs ahead for machines like `next`, where it is said and its program can stand by; else has a shim wait for the
    /// next start, which then takes about half the time. Either costs sleeping processes; call it as after a machine has ended.
    fn prepare(&self, next: Option<&Spec>) -> Result<(), StartError> {
        if next.map_or(Ok(false), |next| self.pool.prepare(next))? {
            return Ok(());
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.as_mut().is_none_or(|waiting| !waiting.is_alive()) {
            *spare = Some(spawn(&self.shim)?);
        }
        Ok(())
    }
}
