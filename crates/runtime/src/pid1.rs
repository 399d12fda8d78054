//! Duties of the first process: adopt and reap orphans, mount what a bare machine lacks, take signals, end everything.
//!
//! Called by boot (adopt, mount), by the control loop ([`Signals`], [`reap`]) and at the very end ([`teardown`]).
//! The workload's own status is left alone here: `workload::Running` takes it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use suijuris_sys::signals::FromOutside;
use suijuris_sys::{ChildSelector, ended_child};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::workload::{is_asked, process_tree};

/// Time between two looks at processes that are on their way out.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What we are among processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The first process of a machine that nobody prepared: mounts are ours to make, disks ours to flush.
    BareMachine,
    /// The first process of a container or namespace.
    First,
    /// A process among others; orphans of our descendants come to us.
    Subreaper,
    /// A process among others; orphans go elsewhere, as the kernel refused.
    Plain,
}

/// Takes the role that this process has, so that orphans come to us. Call it before anything is started.
#[must_use]
pub fn adopt() -> Role {
    if std::process::id() == 1 {
        let prepared = Path::new("/proc/self").exists();
        return if prepared { Role::First } else { Role::BareMachine };
    }
    match prctl::set_child_subreaper(true) {
        Ok(()) => Role::Subreaper,
        Err(_) => Role::Plain,
    }
}

/// One mount that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub target: PathBuf,
    /// What came of it; a failure is tolerated, for the workload may not need it.
    pub result: Result<(), Errno>,
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result {
            Ok(()) => write!(f, "mounted {}", self.target.display()),
            Err(error) => write!(f, "could not mount {}: {}", self.target.display(), error.desc()),
        }
    }
}

/// Type, place, flags and options of the mounts that programs expect.
const MOUNTS: [(&str, &str, MsFlags, Option<&str>); 7] = {
    let quiet = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
    let dead = quiet.union(MsFlags::MS_NOEXEC);
    [
        ("proc", "proc", dead, None),
        ("sysfs", "sys", dead, None),
        ("devtmpfs", "dev", MsFlags::MS_NOSUID, Some("mode=0755")),
        (
            "devpts",
            "dev/pts",
            MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
            Some("mode=0620,ptmxmode=0666"),
        ),
        ("tmpfs", "dev/shm", quiet, Some("mode=1777")),
        ("tmpfs", "run", quiet, Some("mode=0755")),
        ("tmpfs", "tmp", quiet, Some("mode=1777")),
    ]
};

/// Mounts `/proc`, `/sys`, `/dev`, `/run` and `/tmp` below `root` where nothing is mounted yet, and says what it
/// tried. On a [`Role::BareMachine`] only: anybody else's machine has been prepared, and its `/tmp` is in use.
#[must_use]
pub fn mount_missing(role: Role, root: &Path) -> Vec<Mount> {
    if role != Role::BareMachine {
        return Vec::new();
    }
    MOUNTS
        .iter()
        .map(|(kind, place, flags, options)| (root.join(place), *kind, *flags, *options))
        .filter(|(target, ..)| !is_mount_point(target))
        .map(|(target, kind, flags, options)| {
            // Where the directory cannot be made, mount says why.
            let _ = std::fs::create_dir_all(&target);
            let result = mount(Some(kind), &target, Some(kind), flags, options);
            Mount { target, result }
        })
        .collect()
}

/// Whether `path` lies on another device than the directory above it.
fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The host wants us to stop: SIGTERM or SIGINT, by number.
    Stop(i32),
    /// Meant for the workload: SIGHUP, SIGUSR1, SIGUSR2 or SIGWINCH, by number.
    Forward(i32),
    /// A child ended: call [`reap`].
    Child,
}

/// Signals to this process, from the moment that this is made.
#[derive(Debug)]
pub struct Signals {
    streams: Vec<(Signal, Stream)>,
    /// The wish to stop, where only those outside may have it: what runs in our machine does not stop us.
    from_outside: Option<FromOutside>,
}

impl Signals {
    /// Takes the signals over from their default action. Needs a tokio runtime with I/O. The first process of a machine
    /// calls it while it has one thread.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub fn new(role: Role) -> io::Result<Self> {
        let is_first = matches!(role, Role::First | Role::BareMachine);
        let stops = [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT];
        let from_outside = is_first.then(|| FromOutside::new(&stops)).transpose()?;
        let stops = stops.map(|signal| Signal::Stop(signal as i32));
        let stops = stops.into_iter().filter(|_| !is_first);
        let others = [
            Signal::Forward(libc::SIGHUP),
            Signal::Forward(libc::SIGUSR1),
            Signal::Forward(libc::SIGUSR2),
            Signal::Forward(libc::SIGWINCH),
            Signal::Child,
        ];
        let stream = |meaning: Signal| Ok((meaning, signal(meaning.kind())?));
        let streams = stops.chain(others).map(stream).collect::<io::Result<_>>()?;
        Ok(Self {
            streams,
            from_outside,
        })
    }

    /// The next signal; the host's wish to stop before all others. Several of one number may come as one. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        let Self {
            streams,
            from_outside,
        } = self;
        std::future::poll_fn(|context| {
            let outside = from_outside.as_ref();
            if let Some(Poll::Ready(number)) = outside.map(|outside| outside.poll_next(context)) {
                return Poll::Ready(Signal::Stop(number));
            }
            let came = |(meaning, stream): &mut (Signal, Stream)| {
                stream.poll_recv(context).is_ready().then_some(*meaning)
            };
            match streams.iter_mut().find_map(came) {
                Some(meaning) => Poll::Ready(meaning),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Signal {
    const fn kind(self) -> SignalKind {
        match self {
            Self::Stop(number) | Self::Forward(number) => SignalKind::from_raw(number),
            Self::Child => SignalKind::child(),
        }
    }
}

/// Takes ended orphans off the process table and returns how many. The child `keep`, the workload, and a command that was
/// asked whether it can serve are left to their
/// owners; orphans behind it in the kernel's list wait until its owner has taken it, so call this after that as well.
pub fn reap(keep: Option<i32>) -> usize {
    let mut reaped = 0;
    while let Ok(Some(exit)) = ended_child(ChildSelector::Any, false) {
        if Some(exit.pid) == keep
            || is_asked(exit.pid)
            || ended_child(ChildSelector::Pid(exit.pid), true).is_err()
        {
            break;
        }
        reaped += 1;
    }
    reaped
}

/// What was left to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Teardown {
    /// Processes that were asked to end.
    pub asked: usize,
    /// Processes that had to be killed.
    pub killed: usize,
    /// Processes that were still there when time was over.
    pub left: usize,
}

/// Ends every process below us within `budget`: SIGTERM, two thirds of the time, SIGKILL, the rest; then, on a bare
/// machine, flushes the disks. Takes the status of every child: let go of the workload first.
pub async fn teardown(role: Role, budget: Duration) -> Teardown {
    let begin = Instant::now();
    let below = process_tree::below_us();
    process_tree::signal_each(&below, libc::SIGTERM);
    process_tree::signal_each(&below, libc::SIGCONT);
    let stubborn = gone_by(begin + budget * 2 / 3, None).await;
    let left = match stubborn {
        0 => 0,
        _ => gone_by(begin + budget, Some(libc::SIGKILL)).await,
    };
    if role == Role::BareMachine {
        nix::unistd::sync();
    }
    Teardown {
        asked: below.len(),
        killed: stubborn.saturating_sub(left),
        left,
    }
}

/// Waits for all below us to end, sending `signal` at each look; how many are left at `deadline`.
async fn gone_by(deadline: Instant, signal: Option<i32>) -> usize {
    loop {
        let below = process_tree::below_us();
        if let Some(signal) = signal {
            process_tree::signal_each(&below, signal);
        }
        reap(None);
        if below.is_empty() || Instant::now() >= deadline {
            return below.len();
        }
        sleep(LOOK_AGAIN).await;
    }
}
