//! The caller's handle on a running machine.
//!
//! One task per machine hears the shim's last word; everything else reads what it published. Dropping the
//! handle closes the shim's socket, upon which the shim kills the machine and cleans up.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use suijuris_sys::descriptors::watch;
use suijuris_sys::{Pidfd, sockets};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cgroup::Leaf;
use super::freezer::Freezer;
use super::wire::{self, MESSAGE_BYTES, Order, Report};
use crate::machine::{Exit, Signal, State};

/// How long suspending or resuming may take; processes stuck in the kernel delay it.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// How long a shim may take to kill its machine before it is killed itself; longer than its own limit.
const KILL_LIMIT: Duration = Duration::from_secs(15);
/// Pause between two looks at something that settles by itself.
const PAUSE: Duration = Duration::from_micros(300);

/// A signal could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// There is nothing to send it to.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// The kernel refused.
    #[error("cannot signal the machine")]
    Refused(#[source] io::Error),
}

/// A machine could not be suspended or resumed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// There is nothing to suspend.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// A process stuck in the kernel held it up; the machine runs on.
    #[error(
        "the machine did not come to rest within {limit_s} s; a process waits for a disk or a network file system"
    )]
    Slow {
        /// The time given, in seconds.
        limit_s: u64,
    },
    /// The kernel refused.
    #[error("cannot change the state of the machine's processes")]
    Refused(#[from] io::Error),
}

/// The socket to a shim.
#[derive(Debug)]
pub(super) struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        watch(socket, Interest::READABLE).map(Self)
    }

    /// The next report and the descriptor that came along; `None` when the shim is gone. Cancel safe.
    pub(super) async fn receive(&self) -> io::Result<Option<(Report, Option<Pidfd>)>> {
        let read = |socket: &OwnedFd| sockets::receive(socket.as_fd(), MESSAGE_BYTES);
        let Some(message) = self.0.async_io(Interest::READABLE, read).await? else {
            return Ok(None);
        };
        let pidfd = message.descriptors.into_iter().next();
        Ok(Some((wire::decode(&message.bytes)?, pidfd.map(Pidfd::from))))
    }

    fn order(&self, order: Order) -> io::Result<()> {
        sockets::send(self.0.get_ref().as_fd(), &wire::encode(&order)?, &[]).map(drop)
    }

    fn close(&self) {
        // Fails only when the shim closed it first.
        let _ = nix::sys::socket::shutdown(self.0.get_ref().as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

/// What the handle and its task share.
#[derive(Debug)]
struct Shared {
    channel: Channel,
    pidfd: Pidfd,
    ended: AsyncFd<OwnedFd>,
    freezer: Freezer,
    exit: watch::Sender<Option<Exit>>,
}

/// A machine that has been started. Dropping it kills the machine.
#[derive(Debug)]
pub struct Machine {
    id: String,
    pid: u32,
    shim: Pidfd,
    shared: Arc<Shared>,
    suspended: AtomicBool,
    /// Taken while the machine is being suspended or resumed.
    changing: Mutex<()>,
    /// What the machine writes to files 1 and 2, where the caller reads it.
    outputs: [Option<pipe::Receiver>; 2],
    /// Owns the task that waits for the end.
    _task: JoinSet<()>,
}

impl Machine {
    pub(super) fn new(
        id: String,
        pid: u32,
        pidfd: Pidfd,
        channel: Channel,
        child: Child,
        leaf: Option<Leaf>,
        outputs: [Option<pipe::Receiver>; 2],
    ) -> io::Result<Self> {
        // The child has not been waited for, so that it still has its number.
        let shim_pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let shim = Pidfd::open(shim_pid)?;
        let ended = pidfd.try_clone()?.watch()?;
        let exit = watch::Sender::new(None);
        let shared = Arc::new(Shared {
            channel,
            pidfd,
            ended,
            freezer: Freezer::new(leaf, shim_pid),
            exit,
        });
        let mut task = JoinSet::new();
        task.spawn(hear_end(Arc::clone(&shared), child));
        let (suspended, changing) = (AtomicBool::new(false), Mutex::default());
        Ok(Self {
            id,
            pid,
            shim,
            shared,
            suspended,
            changing,
            outputs,
            _task: task,
        })
    }

    /// Its name and a number, unique within the driver.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The host's number of its first program; only for people to read, signals go by descriptor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its output, where [`crate::Output::Pipe`] was asked for. Ends when nothing of the machine is left.
    pub fn take_stdout(&mut self) -> Option<pipe::Receiver> {
        let [stdout, _] = &mut self.outputs;
        stdout.take()
    }

    /// Its error output, as [`Self::take_stdout`].
    pub fn take_stderr(&mut self) -> Option<pipe::Receiver> {
        let [_, stderr] = &mut self.outputs;
        stderr.take()
    }

    /// Where it is now.
    pub fn state(&self) -> State {
        match *self.shared.exit.borrow() {
            Some(exit) => State::Exited(exit),
            None if self.suspended.load(Ordering::Acquire) => State::Suspended,
            None => State::Running,
        }
    }

    /// Becomes `Some` when nothing of the machine is left.
    #[must_use]
    pub fn exited(&self) -> watch::Receiver<Option<Exit>> {
        self.shared.exit.subscribe()
    }

    /// Waits until nothing of the machine is left. Cancel safe; any number may wait, also afterwards.
    pub async fn wait(&self) -> Exit {
        let mut exited = self.exited();
        let exit = exited.wait_for(Option::is_some).await;
        exit.ok().and_then(|exit| *exit).unwrap_or(Exit::Lost)
    }

    fn ended(&self) -> Option<Exit> {
        *self.shared.exit.borrow()
    }

    /// Sends `signal` to the first program. As process 1 of its namespace it receives only what it
    /// handles, and [`Signal::KILL`].
    ///
    /// # Errors
    /// When the machine has ended or the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        if let Some(exit) = self.ended() {
            return Err(SignalError::Ended(exit));
        }
        match self.shared.pidfd.signal(signal.number()) {
            // It ended just now; who waits will hear of it.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result.map_err(SignalError::Refused),
        }
    }

    /// Resumes it if need be, sends `signal` to the first program, and kills all that is left after `budget`.
    ///
    /// Cancelled, the signal may have been sent, and nothing is killed.
    pub async fn stop(&self, signal: Signal, budget: Duration) -> Exit {
        // Both may fail because it has ended; whatever else is wrong, the kill below settles it.
        let _ = self.resume().await;
        let _ = self.signal(signal);
        match timeout(budget, self.wait()).await {
            Ok(exit) => exit,
            Err(_) => self.kill().await,
        }
    }

    /// Kills everything in it, suspended or not, and waits until nothing is left.
    pub async fn kill(&self) -> Exit {
        if let Some(exit) = self.ended() {
            return exit;
        }
        // A shim that cannot be reached has ended or will be killed below.
        let _ = self.shared.channel.order(Order::Kill);
        if let Ok(exit) = timeout(KILL_LIMIT, self.wait()).await {
            return exit;
        }
        let _ = self.shim.signal(libc::SIGKILL);
        self.wait().await
    }

    /// Stops every process of it from running, and returns once none does. Idempotent.
    ///
    /// Cancelled, some processes may stand still while the state says running; [`Self::resume`] mends that.
    ///
    /// # Errors
    /// When it has ended or does not come to rest; then it runs on.
    pub async fn suspend(&self) -> Result<(), FreezeError> {
        let _changing = self.changing.lock().await;
        let frozen = self.settle(Freezer::freeze).await;
        match frozen {
            Ok(()) => self.suspended.store(true, Ordering::Release),
            Err(_) => drop(self.settle(Freezer::thaw).await),
        }
        frozen
    }

    /// Lets every process of it run on. Idempotent; cancelled, call it again.
    ///
    /// # Errors
    /// When it has ended, or the kernel refuses.
    pub async fn resume(&self) -> Result<(), FreezeError> {
        let _changing = self.changing.lock().await;
        self.settle(Freezer::thaw).await?;
        self.suspended.store(false, Ordering::Release);
        Ok(())
    }

    /// Repeats `step` until it says that it is done.
    async fn settle(&self, step: impl Fn(&Freezer) -> io::Result<bool>) -> Result<(), FreezeError> {
        let limit = Instant::now() + FREEZE_LIMIT;
        loop {
            if let Some(exit) = self.ended() {
                return Err(FreezeError::Ended(exit));
            }
            match step(&self.shared.freezer) {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() > limit => {
                    return Err(FreezeError::Slow {
                        limit_s: FREEZE_LIMIT.as_secs(),
                    });
                }
                Ok(false) => sleep(PAUSE).await,
                // The group goes when the machine ends, which the task is about to hear.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                    return Err(FreezeError::Ended(self.wait().await));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // At once, not only when the runtime gets round to dropping the task that shares it.
        self.shared.channel.close();
    }
}

/// Waits for the shim's last word, buries the shim, and publishes how the machine ended.
async fn hear_end(shared: Arc<Shared>, mut shim: Child) {
    let exit = match shared.channel.receive().await {
        Ok(Some((Report::Exited(exit), _))) => exit,
        _ => Exit::Lost,
    };
    // Its code says nothing that the report did not.
    let _ = shim.wait().await;
    if exit == Exit::Lost {
        mop_up(&shared).await;
    }
    shared.exit.send_replace(Some(exit));
}

/// Makes sure that nothing is left of a machine whose shim was killed.
async fn mop_up(shared: &Shared) {
    let _ = shared.pidfd.signal(libc::SIGKILL);
    let limit = Instant::now() + KILL_LIMIT;
    while !shared.freezer.clear() && Instant::now() < limit {
        sleep(PAUSE).await;
    }
    // Readable once the process has ended, and with it its namespace.
    let _ = timeout(KILL_LIMIT, shared.ended.readable()).await;
}
