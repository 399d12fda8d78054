//! The caller's handle on a machine of processes, started by this driver or taken over from an earlier one.
//!
//! One task per machine hears the shim's last word; everything else reads what it published. Dropping the
//! handle closes the shim's socket, upon which the shim kills the machine and cleans up, unless it was released.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use suijuris_sys::descriptors::watch as watch_fd;
use suijuris_sys::link::Outlet;
use suijuris_sys::{Pidfd, Process, sockets};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cgroup::Leaf;
use super::freezer::{self, Freezer};
use super::log;
use super::network::Maker;
use super::record::Record;
use super::state::Slot;
use super::wire::{self, MESSAGE_BYTES, Order, Report};
use crate::description::Enforced;
use crate::error::{LinkError, OutputError, ResumeError, SignalError, SuspendError};
use crate::machine::{Exit, Link, MachineId, Signal, State};
use crate::output::{Line, Lines, Since, Splitter};

/// How long suspending or resuming may take; processes stuck in the kernel delay it.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// How long a shim may take to kill its machine before it is killed itself; longer than its own limit.
const KILL_LIMIT: Duration = Duration::from_secs(15);
/// Pause between two looks at something that settles by itself.
const PAUSE: Duration = Duration::from_micros(300);
/// Bytes read of an output at a time.
const CHUNK: usize = 16 << 10;

/// The socket to a shim.
#[derive(Debug)]
pub(super) struct Channel {
    socket: AsyncFd<OwnedFd>,
    /// This side closed it: its end says nothing of the shim.
    is_closed: AtomicBool,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            socket: watch_fd(socket, Interest::READABLE)?,
            is_closed: AtomicBool::new(false),
        })
    }

    /// The next message and the descriptors that came along; `None` when the shim is gone, and never where this side closed it. Cancel safe.
    pub(super) async fn next<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let read = |socket: &OwnedFd| sockets::receive(socket.as_fd(), MESSAGE_BYTES);
        let message = self.socket.async_io(Interest::READABLE, read).await;
        if self.is_closed.load(Ordering::Acquire) {
            // Whoever waits is about to be dropped, on another thread perhaps.
            return std::future::pending().await;
        }
        let Some(message) = message? else {
            return Ok(None);
        };
        Ok(Some((wire::decode(&message.bytes)?, message.descriptors)))
    }

    /// Sends one message, which fits into the socket's buffer as nothing else is in it.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sockets::send(self.socket.get_ref().as_fd(), bytes, &[]).map(drop)
    }

    fn order(&self, order: Order) -> io::Result<()> {
        self.send(&wire::encode(&order)?)
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // Fails only when the shim closed it first.
        let _ = nix::sys::socket::shutdown(
            self.socket.get_ref().as_raw_fd(),
            nix::sys::socket::Shutdown::Both,
        );
    }
}

/// What a handle is made of.
pub(super) struct Parts {
    pub(super) id: MachineId,
    pub(super) pid: u32,
    pub(super) pidfd: Pidfd,
    pub(super) keeper: Process,
    /// The shim, where this process is its parent.
    pub(super) child: Option<Child>,
    pub(super) channel: Channel,
    pub(super) groups: Vec<Leaf>,
    pub(super) outlet: Option<Outlet>,
    /// The outputs that this process reads.
    pub(super) outputs: Vec<pipe::Receiver>,
    /// Whether the shim keeps the output.
    pub(super) has_log: bool,
    pub(super) limits: Vec<Enforced>,
    /// Of a machine that may outlive its caller.
    pub(super) place: Option<Slot>,
}

/// What the handle and its task share.
#[derive(Debug)]
struct Shared {
    channel: Channel,
    pidfd: Pidfd,
    ended: AsyncFd<OwnedFd>,
    shim: Pidfd,
    freezer: Freezer,
    groups: Vec<Leaf>,
    exit: watch::Sender<Option<Exit>>,
}

/// A machine that is there, or was when it was found.
#[derive(Debug)]
pub struct Machine {
    id: MachineId,
    pid: u32,
    exit: watch::Receiver<Option<Exit>>,
    /// None of a machine that had ended when it was found.
    shared: Option<Arc<Shared>>,
    suspended: AtomicBool,
    /// Taken while the machine is being suspended or resumed.
    changing: Mutex<()>,
    outlet: Option<Outlet>,
    /// What the machine writes, where this process reads it and nobody does yet.
    outputs: Lock<Vec<pipe::Receiver>>,
    has_log: bool,
    limits: Vec<Enforced>,
    place: Option<Slot>,
    /// What makes sockets in its network, once it was needed.
    maker: Lock<Option<Maker>>,
    /// Owns the task that waits for the end.
    _task: JoinSet<()>,
}

impl Machine {
    /// What makes sockets in its network.
    pub(super) const fn maker(&self) -> &Lock<Option<Maker>> {
        &self.maker
    }

    /// Has its shim kill it, and does not wait for that.
    pub(crate) fn end(&self) {
        if let Ok(shared) = self.live() {
            // A shim that cannot be reached has ended.
            let _ = shared.channel.order(Order::Kill);
        }
    }

    /// The control groups that it lives in.
    pub(super) fn groups(&self) -> &[Leaf] {
        self.shared.as_ref().map_or(&[], |shared| &shared.groups)
    }

    /// A machine that was started just now; one that may outlive its caller may from here on.
    pub(super) fn started(parts: Parts) -> io::Result<Self> {
        let mut machine = Self::new(parts)?;
        if let (Some(place), Some(shared)) = (&mut machine.place, &machine.shared) {
            // A shim that is gone already has written down how the machine ended.
            let _ = shared.channel.order(Order::Release);
            place.is_over = false;
        }
        Ok(machine)
    }

    /// A machine that was taken over.
    pub(super) fn attached(parts: Parts, first: Process) -> io::Result<Self> {
        let mut machine = Self::new(parts)?;
        if let Some(shared) = &machine.shared {
            *machine.suspended.get_mut() = shared.freezer.recover(first)?;
        }
        Ok(machine)
    }

    /// A machine of which only how it ended is left.
    pub(super) fn ended(record: Record, place: Slot, exit: Exit) -> Self {
        Self {
            pid: record.first().pid,
            id: record.id,
            exit: watch::Sender::new(Some(exit)).subscribe(),
            shared: None,
            suspended: AtomicBool::new(false),
            changing: Mutex::default(),
            outlet: None,
            outputs: Lock::default(),
            has_log: record.has_log,
            limits: record.limits,
            place: Some(place),
            maker: Lock::default(),
            _task: JoinSet::new(),
        }
    }

    fn new(parts: Parts) -> io::Result<Self> {
        let exit = watch::Sender::new(None);
        let heard = exit.subscribe();
        let shared = Arc::new(Shared {
            channel: parts.channel,
            ended: parts.pidfd.try_clone()?.watch()?,
            pidfd: parts.pidfd,
            shim: parts.keeper.pidfd().ok_or(io::ErrorKind::NotFound)?,
            freezer: Freezer::new(&parts.groups, parts.keeper.pid),
            groups: parts.groups,
            exit,
        });
        let mut task = JoinSet::new();
        task.spawn(hear_end(Arc::clone(&shared), parts.child));
        Ok(Self {
            id: parts.id,
            pid: parts.pid,
            exit: heard,
            shared: Some(shared),
            suspended: AtomicBool::new(false),
            changing: Mutex::default(),
            outlet: parts.outlet,
            outputs: Lock::new(parts.outputs),
            has_log: parts.has_log,
            limits: parts.limits,
            place: parts.place,
            maker: Lock::default(),
            _task: task,
        })
    }

    /// The host's number of its first program; only for people to read, signals go by descriptor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Becomes `Some` when nothing of the machine is left.
    #[must_use]
    pub fn exited(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// What there is of it as long as it has not ended.
    fn live(&self) -> Result<&Shared, Exit> {
        match (*self.exit.borrow(), &self.shared) {
            (Some(exit), _) => Err(exit),
            (None, Some(shared)) => Ok(shared),
            (None, None) => Err(Exit::Lost),
        }
    }

    /// Repeats `step` until it says that it is done.
    async fn settle(&self, step: impl Fn(&Freezer) -> io::Result<bool> + Send) -> Result<(), Unsettled> {
        let limit = Instant::now() + FREEZE_LIMIT;
        loop {
            let shared = self.live().map_err(Unsettled::Ended)?;
            match step(&shared.freezer) {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() > limit => return Err(Unsettled::Slow),
                Ok(false) => sleep(PAUSE).await,
                // The group goes when the machine ends, which the task is about to hear.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                    return Err(Unsettled::Ended(crate::Machine::wait(self).await));
                }
                Err(error) => return Err(Unsettled::Refused(error)),
            }
        }
    }
}

/// Why freezing or thawing did not come about.
enum Unsettled {
    Ended(Exit),
    Slow,
    Refused(io::Error),
}

impl From<Unsettled> for SuspendError {
    fn from(why: Unsettled) -> Self {
        match why {
            Unsettled::Ended(exit) => Self::Ended(exit),
            Unsettled::Slow => Self::Slow {
                limit_s: FREEZE_LIMIT.as_secs(),
            },
            Unsettled::Refused(error) => Self::Refused(error),
        }
    }
}

impl From<Unsettled> for ResumeError {
    fn from(why: Unsettled) -> Self {
        match why {
            Unsettled::Ended(exit) => Self::Ended(exit),
            Unsettled::Slow => Self::Slow {
                limit_s: FREEZE_LIMIT.as_secs(),
            },
            Unsettled::Refused(error) => Self::Refused(error),
        }
    }
}

impl crate::Machine for Machine {
    fn id(&self) -> &MachineId {
        &self.id
    }

    fn state(&self) -> State {
        match *self.exit.borrow() {
            Some(exit) => State::Exited(exit),
            None if self.suspended.load(Ordering::Acquire) => State::Suspended,
            None => State::Running,
        }
    }

    fn limits(&self) -> &[Enforced] {
        &self.limits
    }

    async fn wait(&self) -> Exit {
        let mut exited = self.exit.clone();
        let exit = exited.wait_for(Option::is_some).await;
        exit.ok().and_then(|exit| *exit).unwrap_or(Exit::Lost)
    }

    /// As process 1 of its namespace the first program receives only what it handles, and [`Signal::KILL`].
    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        let shared = self.live().map_err(SignalError::Ended)?;
        match shared.pidfd.signal(signal.number()) {
            // It ended just now; who waits will hear of it.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result.map_err(SignalError::Refused),
        }
    }

    async fn kill(&self) -> Exit {
        let shared = match self.live() {
            Ok(shared) => shared,
            Err(exit) => return exit,
        };
        // A shim that cannot be reached has ended or will be killed below.
        let _ = shared.channel.order(Order::Kill);
        if let Ok(exit) = timeout(KILL_LIMIT, self.wait()).await {
            return exit;
        }
        let _ = shared.shim.signal(libc::SIGKILL);
        self.wait().await
    }

    async fn suspend(&self) -> Result<(), SuspendError> {
        let _changing = self.changing.lock().await;
        let frozen = self.settle(Freezer::freeze).await;
        match frozen {
            Ok(()) => self.suspended.store(true, Ordering::Release),
            Err(_) => drop(self.settle(Freezer::thaw).await),
        }
        Ok(frozen?)
    }

    async fn resume(&self) -> Result<(), ResumeError> {
        let _changing = self.changing.lock().await;
        self.settle(Freezer::thaw).await?;
        self.suspended.store(false, Ordering::Release);
        Ok(())
    }

    async fn link(&self) -> Result<Link, LinkError> {
        self.live().map_err(LinkError::Ended)?;
        let outlet = self.outlet.as_ref().ok_or(LinkError::None)?;
        let stream = outlet.open().and_then(|stream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        Ok(Link {
            stream: stream.map_err(LinkError::Refused)?,
            passes_descriptors: true,
        })
    }

    fn output(&self, since: Since) -> Result<Lines, OutputError> {
        if let Some(place) = self.place.as_ref().filter(|_| self.has_log) {
            return Ok(log::follow(place.path(), since, self.exit.clone())?);
        }
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = std::mem::take(&mut *outputs);
        if outputs.is_empty() {
            return Err(OutputError::None);
        }
        Ok(Lines::read_by(|readers, sender| {
            for pipe in outputs {
                readers.spawn(read(pipe, sender.clone()));
            }
        }))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            // At once, not only when the runtime gets round to dropping the task that shares it.
            shared.channel.close();
        }
        if let (Some(place), Some(_)) = (&mut self.place, *self.exit.borrow()) {
            // Its end has been told.
            place.is_over = true;
        }
    }
}

/// Sends on what comes through `pipe`, line by line, until nobody writes or reads any more.
async fn read(mut pipe: pipe::Receiver, sender: mpsc::Sender<Line>) {
    let mut splitter = Splitter::default();
    let mut chunk = vec![0; CHUNK];
    while let Ok(length) = pipe.read(&mut chunk).await {
        let lines = match length {
            0 => splitter.finish().into_iter().collect(),
            _ => splitter.push(chunk.get(..length).unwrap_or_default()),
        };
        for line in lines {
            if sender.send(line).await.is_err() {
                return;
            }
        }
        if length == 0 {
            return;
        }
    }
}

/// Waits for the shim's last word, buries the shim, and publishes how the machine ended.
async fn hear_end(shared: Arc<Shared>, shim: Option<Child>) {
    let exit = match shared.channel.next::<Report>().await {
        Ok(Some((Report::Exited(exit), _))) => exit,
        _ => Exit::Lost,
    };
    if exit == Exit::Lost {
        // Whatever became of it, it keeps no machine any more.
        let _ = shared.shim.signal(libc::SIGKILL);
    }
    if let Some(mut shim) = shim {
        // Its code says nothing that the report did not.
        let _ = shim.wait().await;
    }
    if exit == Exit::Lost {
        clean_up(&shared).await;
    }
    shared.exit.send_replace(Some(exit));
}

/// Makes sure that nothing is left of a machine whose shim was killed.
async fn clean_up(shared: &Shared) {
    let _ = shared.pidfd.signal(libc::SIGKILL);
    let limit = Instant::now() + KILL_LIMIT;
    while !freezer::clear(&shared.groups) && Instant::now() < limit {
        sleep(PAUSE).await;
    }
    // Readable once the process has ended, and with it its namespace.
    let _ = timeout(KILL_LIMIT, shared.ended.readable()).await;
}
