//! Programs that were started ahead, each in the namespaces of a machine that nobody has asked for yet.
//!
//! A [`Profile`] is all that cannot be changed once a program runs: its namespaces, the program itself, whether it may outlive this
//! process. Each has up to as many programs as the pool is large; each program becomes one machine, once. The pool is a matter of speed
//! alone: what is not there, has died, is of another version, sees other mounts or does not answer is done without.
//!
//! It is filled when an object comes to rest, and after a start only once none has been asked for during [`Ahead::quiet`]: whoever wakes
//! does not share the processor with it.

use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use suijuris_guest::assignment::Assignment;
use suijuris_guest::standby::{FREE, SOCKET};
use suijuris_sys::{Pidfd, descriptors, sockets};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::cgroup::Base;
use super::plan::{self, Groups};
use super::wire::{self, MESSAGE_BYTES, Namespaces, Order, Report, Request};
use super::{Shim, Waiting, spawn};
use crate::description::Isolation;
use crate::error::StartError;
use crate::machine::MachineId;
use crate::spec::{Lifetime, Network, Root, Spec};

/// Programs of one build that end before they stand by, one after the other, until no more are started: they cannot, as an older version.
const MOST_FAILURES: u32 = 3;
/// Profiles that are kept; one more pushes out the one that was asked for longest ago.
const MOST_PROFILES: usize = 4;

/// How many programs are started ahead, and when none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// Of each profile; none where it is 0.
    pub count: usize,
    /// Bytes of memory that the host must have available, else none is.
    pub least_available: u64,
    /// So long nobody may have asked for a machine before programs are started ahead.
    pub quiet: Duration,
}

impl Ahead {
    /// None is started ahead.
    pub const NONE: Self = Self::of(0);

    /// So many, on a host that has 256 MiB to spare, once nothing was started for several times what a wake takes.
    #[must_use]
    pub const fn of(count: usize) -> Self {
        Self {
            count,
            least_available: 256 << 20,
            quiet: Duration::from_millis(250),
        }
    }
}

/// What a program that was started ahead cannot change any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    name: String,
    lifetime: Lifetime,
    namespaces: Option<Namespaces>,
    exe: PathBuf,
    argv: Vec<OsString>,
}

impl Profile {
    /// That of `spec`; none where its machine can only be started cold.
    fn of(spec: &Spec, isolation: Isolation) -> Option<Self> {
        let argv = spec.stands_by.clone()?;
        let inherited = spec.inherit.iter().map(|(_, number)| number).chain(&spec.link);
        let fits = spec.root == Root::Host
            && spec.stranger.is_none()
            && spec.joins.is_none()
            && spec.program.exe.is_absolute()
            && inherited.into_iter().all(|number| FREE.contains(number));
        fits.then(|| Self {
            name: spec.name.clone(),
            lifetime: spec.lifetime,
            namespaces: (isolation != Isolation::Plain).then_some(Namespaces {
                user: isolation == Isolation::UserNamespaces,
                network: spec.network == Network::Private,
            }),
            exe: spec.program.exe.clone(),
            argv,
        })
    }

    /// What the shim is to run until a machine is assigned.
    fn request(&self, groups: &Groups) -> io::Result<Request> {
        let text = |text: &[u8]| CString::new(text);
        let number = SOCKET.to_string();
        let argv = self.argv.iter().map(|word| word.as_bytes());
        let argv = argv.chain([number.as_bytes()]).map(text);
        Ok(Request {
            root: None,
            exe: Some(text(self.exe.as_os_str().as_bytes())?),
            assignment: Assignment {
                argv: argv.collect::<Result<_, _>>()?,
                cwd: c"/".to_owned(),
                numbers: vec![SOCKET],
                is_apart: self.namespaces.is_some(),
                // For its own view, before it gives this up or passes it on.
                may_mount: true,
                ..Assignment::default()
            },
            namespaces: self.namespaces,
            joins: 0,
            stranger: None,
            groups: groups.leaves().to_vec(),
            detached: None,
        })
    }
}

/// Which file a program was executed from: another version of it is another file, or was written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Build {
    device: u64,
    node: u64,
    changed: (i64, i64),
    bytes: u64,
}

impl Build {
    fn of(profile: &Profile) -> io::Result<Self> {
        let file = fs::metadata(&profile.exe)?;
        Ok(Self {
            device: file.dev(),
            node: file.ino(),
            changed: (file.ctime(), file.ctime_nsec()),
            bytes: file.size(),
        })
    }
}

/// How far a program that was started ahead has come.
#[derive(Debug)]
enum Stage {
    /// Its shim makes it.
    Starting,
    /// It was executed.
    Running(Pidfd),
    /// It stands by.
    Ready(Pidfd),
}

/// A program that was started ahead. Dropped, it is ended.
#[derive(Debug)]
pub(super) struct Standby {
    pub(super) waiting: Waiting,
    pub(super) id: MachineId,
    pub(super) groups: Groups,
    stage: Stage,
    build: Build,
    /// Has something to say once what is mounted in this process's view has changed since the program got its own.
    mounts: File,
}

impl Standby {
    /// What names the program beyond its death.
    pub(super) fn first(&self) -> io::Result<Pidfd> {
        match &self.stage {
            Stage::Starting => Err(io::ErrorKind::NotFound.into()),
            Stage::Running(pidfd) | Stage::Ready(pidfd) => pidfd.try_clone(),
        }
    }

    const fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready(_))
    }

    /// Whether it is of this build, and sees what is mounted now.
    fn is_current(&self, build: Build) -> bool {
        self.build == build && !descriptors::poll_urgent(self.mounts.as_fd()).unwrap_or(true)
    }

    /// Hears what its shim has said by now; whether it may still come to something.
    fn lives(&mut self) -> bool {
        self.waiting.is_alive() && self.hear().is_some()
    }

    fn hear(&mut self) -> Option<()> {
        loop {
            let message = match sockets::receive(self.waiting.socket.as_fd(), MESSAGE_BYTES) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(()),
                message => message.ok()??,
            };
            let pidfd = message.descriptors.into_iter().next().map(Pidfd::from);
            let stage = std::mem::replace(&mut self.stage, Stage::Starting);
            self.stage = match (wire::decode(&message.bytes).ok()?, stage) {
                (Report::Started { .. }, Stage::Starting) => Stage::Running(pidfd?),
                (Report::StandingBy, Stage::Running(pidfd)) => Stage::Ready(pidfd),
                _ => return None,
            };
        }
    }
}

/// The programs of one profile.
#[derive(Debug)]
struct Kept {
    profile: Profile,
    standbys: VecDeque<Standby>,
    /// The build whose programs ended before they stood by, and how many one after the other.
    failed: (Option<Build>, u32),
}

#[derive(Debug, Default)]
struct State {
    /// The one asked for last is the last.
    kept: Vec<Kept>,
    last_start: Option<Instant>,
    /// How many machines came of programs started ahead.
    used: u64,
    /// Fills the pool later.
    filling: JoinSet<()>,
}

/// All programs that were started ahead.
#[derive(Debug)]
pub(super) struct Pool {
    ahead: Ahead,
    shim: Shim,
    base: Option<Base>,
    isolation: Isolation,
    state: Mutex<State>,
}

impl Pool {
    pub(super) fn new(ahead: Ahead, shim: Shim, base: Option<Base>, isolation: Isolation) -> Self {
        Self {
            ahead,
            shim,
            base,
            isolation,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many programs stand by now.
    pub(super) fn ready(&self) -> usize {
        let mut state = self.state();
        self.look(&mut state);
        let standbys = state.kept.iter().flat_map(|kept| &kept.standbys);
        standbys.filter(|standby| standby.is_ready()).count()
    }

    /// How many machines came of programs started ahead.
    pub(super) fn used(&self) -> u64 {
        self.state().used
    }

    /// A machine came of one.
    pub(super) fn count(&self) {
        self.state().used += 1;
    }

    /// A program for the machine of `spec`, which is about to be started; whichever way, the pool is filled later.
    pub(super) fn take(self: &Arc<Self>, spec: &Spec) -> Option<Standby> {
        if self.ahead.count == 0 {
            return None;
        }
        let profile = Profile::of(spec, self.isolation);
        let mut state = self.state();
        state.last_start = Some(Instant::now());
        let kept = state.keep(&profile?);
        self.renew(kept);
        let ready = kept.standbys.iter().position(Standby::is_ready);
        let taken = ready.and_then(|at| kept.standbys.remove(at));
        self.fill_later(&mut state);
        taken
    }

    /// Programs for machines like that of `spec` are started now, or later where a machine was asked for just now; false where there
    /// can be none.
    pub(super) fn prepare(self: &Arc<Self>, spec: &Spec) -> Result<bool, StartError> {
        let profile = Profile::of(spec, self.isolation).filter(|_| self.ahead.count > 0);
        let Some(profile) = profile else {
            return Ok(false);
        };
        let mut state = self.state();
        if !self.has_memory() {
            state.let_go();
            return Ok(false);
        }
        if state.is_busy(self.ahead.quiet) {
            state.keep(&profile);
            self.fill_later(&mut state);
            return Ok(true);
        }
        let kept = state.keep(&profile);
        self.renew(kept);
        self.fill(kept)
    }

    /// Lets go of what died, or is of another version by now.
    fn renew(&self, kept: &mut Kept) {
        let Ok(build) = Build::of(&kept.profile) else {
            return kept.standbys.clear();
        };
        if kept.failed.0 != Some(build) {
            kept.failed = (Some(build), 0);
        }
        let Kept { standbys, failed, .. } = kept;
        standbys.retain_mut(|standby| {
            let lives = standby.lives();
            // One that stood by and was killed says nothing of the next.
            if standby.is_ready() {
                failed.1 = 0;
            } else if !lives {
                failed.1 += 1;
            }
            lives && standby.is_current(build)
        });
    }

    fn look(&self, state: &mut State) {
        state.kept.iter_mut().for_each(|kept| self.renew(kept));
    }

    /// Whether there are programs of this profile then.
    fn fill(&self, kept: &mut Kept) -> Result<bool, StartError> {
        let build = Build::of(&kept.profile)?;
        if kept.failed.1 >= MOST_FAILURES {
            return Ok(false);
        }
        while kept.standbys.len() < self.ahead.count {
            kept.standbys.push_back(self.start(&kept.profile, build)?);
        }
        Ok(true)
    }

    fn fill_all(&self) {
        let mut state = self.state();
        if !self.has_memory() {
            return state.let_go();
        }
        self.look(&mut state);
        for kept in &mut state.kept {
            // The next start is a cold one, and says why it fails.
            let _ = self.fill(kept);
        }
    }

    fn start(&self, profile: &Profile, build: Build) -> Result<Standby, StartError> {
        let id = plan::id(&profile.name, profile.lifetime)?;
        let detached = profile.lifetime == Lifetime::Detached;
        let leaf = self.base.as_ref().map(|base| base.leaf(id.as_str(), detached));
        let groups = Groups::of(leaf.transpose()?.into_iter().collect());
        let mounts = File::open("/proc/self/mountinfo")?;
        let waiting = spawn(&self.shim)?;
        descriptors::set_nonblocking(waiting.socket.as_fd())?;
        let request = profile.request(&groups)?.seal()?;
        let order = wire::encode(&Order::StandBy)?;
        // One that is gone already is found out when it is looked at.
        let _ = sockets::send(waiting.socket.as_fd(), &order, &[request.as_fd()]);
        Ok(Standby {
            waiting,
            id,
            groups,
            stage: Stage::Starting,
            build,
            mounts,
        })
    }

    /// Fills the pool once nobody has asked for a machine for a while.
    fn fill_later(self: &Arc<Self>, state: &mut State) {
        while state.filling.try_join_next().is_some() {}
        if state.filling.is_empty() {
            state.filling.spawn(fill_when_quiet(Arc::downgrade(self)));
        }
    }

    /// Whether the host has memory to spare.
    fn has_memory(&self) -> bool {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let kib = available.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        // A kernel that does not say is not known to be short.
        kib.is_none_or(|kib| kib.saturating_mul(1024) >= self.ahead.least_available)
    }
}

impl State {
    /// Ends all of them.
    fn let_go(&mut self) {
        self.kept.iter_mut().for_each(|kept| kept.standbys.clear());
    }

    fn is_busy(&self, quiet: Duration) -> bool {
        self.last_start.is_some_and(|start| start.elapsed() < quiet)
    }

    /// The programs of `profile`, which is the last one asked for.
    fn keep(&mut self, profile: &Profile) -> &mut Kept {
        let known = self.kept.iter().position(|kept| kept.profile == *profile);
        let kept = match known {
            Some(at) => self.kept.remove(at),
            None => Kept {
                profile: profile.clone(),
                standbys: VecDeque::new(),
                failed: (None, 0),
            },
        };
        if self.kept.len() >= MOST_PROFILES {
            self.kept.remove(0);
        }
        self.kept.push(kept);
        let last = self.kept.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "one was put there just now")]
        &mut self.kept[last]
    }
}

async fn fill_when_quiet(pool: Weak<Pool>) {
    loop {
        let Some(strong) = pool.upgrade() else { return };
        let last = strong.state().last_start;
        let at = last.map_or_else(Instant::now, |last| last + strong.ahead.quiet);
        if at <= Instant::now() {
            break;
        }
        drop(strong);
        sleep_until(at).await;
    }
    if let Some(pool) = pool.upgrade() {
        pool.fill_all();
    }
}
