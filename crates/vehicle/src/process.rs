//! Machines as processes of this host: no KVM, no root needed.
//!
//! Each machine is a tree of processes under a [`shim`] of its own, in namespaces where the host allows
//! (the first program is process 1 in there), plain where it does not. [`Process::detect`] finds out by
//! trying. Nothing of a machine outlives its handle or its caller, however either ends.
//!
//! A program that embeds this driver calls [`shim::main`] when it is executed with the arguments that it
//! gave to [`Shim`].

mod cgroup;
mod freezer;
mod handle;
mod inside;
mod mounts;
pub mod shim;
mod tree;
mod wire;

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::Serialize;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::machine::{Network, Output, Spec};
use crate::{Driver, sys};
use cgroup::{Base, Leaf, Version};
use handle::Channel;
pub use handle::{FreezeError, Machine, SignalError};
pub use wire::{Fault, Step};
use wire::{Namespaces, Order, Report, Request};

/// How long a start may take before it is given up; a slow disk or a busy host, not a normal start.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Most files a machine may inherit; the message also carries the request and both outputs.
const MOST_FILES: usize = sys::MESSAGE_FDS - 3;
/// Most mounts of a machine.
const MOST_MOUNTS: usize = 256;
/// Highest number of an inherited file: the usual soft limit on open files.
const HIGHEST_FILE: i32 = 1023;

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
    Spec(String),
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
    #[error("not possible on this host: {0}")]
    Unavailable(Shortfall),
    /// The caller's own resources gave out.
    #[error("cannot prepare the machine's start")]
    Io(#[from] io::Error),
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
    /// Finds the best that works here by starting a machine that ends at once, and clears what killed
    /// callers left in control groups.
    ///
    /// # Errors
    /// [`StartError::Unavailable`] when what `want` insists on does not work; others when nothing does.
    pub async fn detect(shim: Shim, want: Want) -> Result<Self, StartError> {
        let mut shortfalls = Vec::new();
        for isolation in isolations(want) {
            let mut freezing_shortfalls = Vec::new();
            for freezing in freezings(want) {
                let trial = Self::unproven(shim.clone(), isolation, freezing);
                let refused = match trial {
                    Ok(trial) => match trial.probe().await {
                        Ok(()) => {
                            shortfalls.extend(freezing_shortfalls);
                            return Ok(trial.settled(shortfalls));
                        }
                        Err(StartError::Step { fault, source }) if fault.step != Step::Cgroup => {
                            shortfalls.push(Shortfall {
                                wanted: isolation.to_string(),
                                why: reason(&fault, &source),
                            });
                            break;
                        }
                        Err(StartError::Step { fault, source }) => reason(&fault, &source),
                        Err(error) => return Err(error),
                    },
                    Err(error) => error.to_string(),
                };
                freezing_shortfalls.push(Shortfall {
                    wanted: freezing.to_string(),
                    why: refused,
                });
            }
            // Only a caller that insists gets here: signals alone need nothing.
            if want.freezing.is_some() {
                shortfalls.extend(freezing_shortfalls);
            }
        }
        Err(shortfalls.into_iter().next().map_or_else(
            || StartError::Spec("nothing was asked for".to_owned()),
            StartError::Unavailable,
        ))
    }

    fn unproven(shim: Shim, isolation: Isolation, freezing: Freezing) -> io::Result<Self> {
        let base = match freezing {
            Freezing::CgroupV2 => Some(Base::own(Version::V2)?),
            Freezing::CgroupV1 => Some(Base::own(Version::V1)?),
            Freezing::Signals => None,
        };
        let description = Description {
            isolation,
            freezing,
            shortfalls: Vec::new(),
        };
        Ok(Self {
            shim,
            base,
            description,
            next: AtomicU64::new(0),
            spare: Mutex::default(),
        })
    }

    fn settled(mut self, shortfalls: Vec<Shortfall>) -> Self {
        self.description.shortfalls = shortfalls;
        let stale = self.base.as_ref().map(Base::stale).unwrap_or_default();
        for leaf in stale {
            // What does not die at once is left to the next sweep.
            let _ = freezer::clear(&leaf) || freezer::clear(&leaf);
        }
        self
    }

    /// Goes all the way to a machine but for the exec.
    async fn probe(&self) -> Result<(), StartError> {
        let spec = Spec {
            network: self.best_network(),
            ..Spec::new("probe", "/")
        };
        let mut plan = self.plan(spec)?;
        plan.request.exe = None;
        if let Some(leaf) = &plan.request.cgroup {
            try_freezing(leaf).map_err(|error| step(Fault::new(Step::Cgroup, "", &error)))?;
        }
        self.launch(plan).await?.wait().await;
        Ok(())
    }

    fn best_network(&self) -> Network {
        if self.description.isolation == Isolation::Plain {
            Network::Host
        } else {
            Network::Private
        }
    }

    fn plan(&self, spec: Spec) -> Result<Plan, StartError> {
        check(&spec, self.description.isolation).map_err(StartError::Spec)?;
        let (stdout, out) = output(spec.stdout, io::stdout().as_fd())?;
        let (stderr, err) = output(spec.stderr, io::stderr().as_fd())?;
        let (inherited, numbers): (Vec<_>, Vec<_>) = spec.inherit.into_iter().unzip();
        let files = [stdout, stderr].into_iter().chain(inherited).collect();
        let namespaces = (self.description.isolation != Isolation::Plain).then_some(Namespaces {
            user: self.description.isolation == Isolation::UserNamespaces,
            network: spec.network == Network::Private,
        });
        let id = format!("{}-{}", spec.name, self.next.fetch_add(1, Ordering::Relaxed));
        let nul = |_| StartError::Spec("a path, an argument or a variable contains a zero byte".to_owned());
        let variable = |(name, value): (OsString, OsString)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
        };
        let mut request = Request {
            exe: Some(CString::new(spec.exe.as_os_str().as_bytes()).map_err(nul)?),
            argv: spec
                .argv
                .iter()
                .map(|arg| CString::new(arg.as_bytes()))
                .collect::<Result<_, _>>()
                .map_err(nul)?,
            env: spec
                .env
                .into_iter()
                .map(variable)
                .collect::<Result<_, _>>()
                .map_err(nul)?,
            cwd: CString::new(spec.cwd.as_os_str().as_bytes()).map_err(nul)?,
            numbers,
            namespaces,
            mounts: spec
                .mounts
                .iter()
                .map(mounts::order)
                .collect::<Result<_, _>>()
                .map_err(nul)?,
            cgroup: None,
        };
        let leaf = self.base.as_ref().map(|base| base.leaf(&id)).transpose();
        request.cgroup = leaf.map_err(|error| step(Fault::new(Step::Cgroup, "", &error)))?;
        Ok(Plan {
            id,
            request,
            files,
            outputs: [out, err],
        })
    }

    async fn launch(&self, plan: Plan) -> Result<Machine, StartError> {
        let leaf = plan.request.cgroup.clone();
        let launched = self.launch_in(plan).await;
        if let (Err(_), Some(leaf)) = (&launched, &leaf) {
            // The shim removes it where one got that far.
            let _ = leaf.remove();
        }
        launched
    }

    async fn launch_in(&self, plan: Plan) -> Result<Machine, StartError> {
        let waiting = self.take_spare().map_or_else(|| self.spawn(), Ok)?;
        let request = plan.request.seal()?;
        let files = [&request].into_iter().chain(&plan.files);
        let fds: Vec<BorrowedFd<'_>> = files.map(AsFd::as_fd).collect();
        match sys::send(waiting.socket.as_fd(), &wire::encode(&Order::Run)?, &fds) {
            // Already gone: told below, from its silence.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent?,
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
        self.launch(self.plan(spec)?).await
    }

    fn describe(&self) -> &Description {
        &self.description
    }
}

/// A specification that passed all checks.
struct Plan {
    id: String,
    request: Request,
    /// Both outputs, then those that are inherited.
    files: Vec<OwnedFd>,
    /// The other ends of the outputs that are pipes.
    outputs: [Option<pipe::Receiver>; 2],
}

fn isolations(want: Want) -> Vec<Isolation> {
    let root = nix::unistd::Uid::effective().is_root();
    match want.isolation {
        Some(isolation) => vec![isolation],
        None if root => vec![Isolation::Namespaces, Isolation::UserNamespaces, Isolation::Plain],
        None => vec![Isolation::UserNamespaces, Isolation::Plain],
    }
}

fn freezings(want: Want) -> Vec<Freezing> {
    let all = || vec![Freezing::CgroupV2, Freezing::CgroupV1, Freezing::Signals];
    want.freezing.map_or_else(all, |freezing| vec![freezing])
}

fn try_freezing(leaf: &Leaf) -> io::Result<()> {
    leaf.freeze(true)?;
    let frozen = leaf.is_frozen()?;
    leaf.freeze(false)?;
    if frozen {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
}

fn step(fault: Fault) -> StartError {
    let source = fault.cause();
    StartError::Step { fault, source }
}

fn reason(fault: &Fault, source: &io::Error) -> String {
    format!("{fault}: {source}")
}

/// The machine's end of an output, and the caller's where there is one.
fn output(output: Output, own: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<pipe::Receiver>)> {
    Ok(match output {
        // A caller without output of its own has none to share.
        Output::Inherit => (own.try_clone_to_owned().or_else(|_| sys::null())?, None),
        Output::Null => (sys::null()?, None),
        Output::Fd(fd) => (fd, None),
        Output::Pipe => {
            let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
            (writer, Some(pipe::Receiver::from_owned_fd(reader)?))
        }
    })
}

/// What is wrong with a specification, if anything is.
fn check(spec: &Spec, isolation: Isolation) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=64).contains(&spec.name.len()) || !spec.name.bytes().all(allowed) {
        return Err(format!("name {:?} is not 1 to 64 of a-z, 0-9 and -", spec.name));
    }
    let targets = spec.mounts.iter().flat_map(mount_paths);
    for path in [spec.exe.as_path(), spec.cwd.as_path()]
        .into_iter()
        .chain(targets)
    {
        if !path.is_absolute() {
            return Err(format!("path {} is not absolute", path.display()));
        }
    }
    if let Some(name) = spec
        .env
        .keys()
        .find(|name| name.is_empty() || name.as_bytes().contains(&b'='))
    {
        return Err(format!("environment variable {name:?} is empty or contains `=`"));
    }
    check_files(&spec.inherit)?;
    if spec.mounts.len() > MOST_MOUNTS {
        return Err(format!(
            "{} mounts are more than {MOST_MOUNTS}",
            spec.mounts.len()
        ));
    }
    if isolation == Isolation::Plain && spec.network == Network::Private {
        return Err(
            "a private network needs namespaces, which are off; see the driver's description".to_owned(),
        );
    }
    if isolation == Isolation::Plain && !spec.mounts.is_empty() {
        return Err("mounts need namespaces, which are off; see the driver's description".to_owned());
    }
    Ok(())
}

fn check_files(files: &[(OwnedFd, i32)]) -> Result<(), String> {
    if files.len() > MOST_FILES {
        return Err(format!(
            "{} inherited files are more than {MOST_FILES}",
            files.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for &(_, number) in files {
        if !(3..=HIGHEST_FILE).contains(&number) || !seen.insert(number) {
            return Err(format!(
                "inherited file number {number} is taken, or not within 3 to {HIGHEST_FILE}"
            ));
        }
    }
    Ok(())
}

fn mount_paths(mount: &crate::Mount) -> Vec<&Path> {
    match mount {
        crate::Mount::Bind { from, to, .. } => vec![from, to],
        crate::Mount::Tmpfs { to, .. } => vec![to],
    }
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
