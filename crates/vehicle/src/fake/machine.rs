//! One played machine: its handle, its inside, and the tasks that perform its script.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::script::{Ends, Links, Script, Speaks, Stops, Suspends};
use super::{line, stream_pair};
use crate::description::{Enforced, Means, Resource};
use crate::error::{LinkError, OutputError, ResumeError, SignalError, SuspendError};
use crate::machine::{Exit, Link, MachineId, Signal, State};
use crate::output::{Line, Lines, Since};
use crate::spec::{Lifetime, Output, Spec};

/// Lines kept for a reader.
const KEPT: usize = 1_024;
/// Links that wait to be taken.
const WAITING_LINKS: usize = 16;
/// Pause between two lines of a machine that floods: none but what lets others run.
const FLOOD_PAUSE: Duration = Duration::from_micros(10);

/// A machine of a world.
pub(super) struct Played {
    id: MachineId,
    pub(super) lifetime: Lifetime,
    pub(super) script: Script,
    limits: Vec<Enforced>,
    has_output: bool,
    has_link: bool,
    exit: watch::Sender<Option<Exit>>,
    suspended: watch::Sender<bool>,
    inner: Mutex<Inner>,
    /// Rung when there are lines, links or signals.
    news: Notify,
    is_told: AtomicBool,
    /// Number of the supervisor whose handle counts, and whether there is a handle.
    held: Mutex<(u64, bool)>,
}

#[derive(Default)]
struct Inner {
    /// Lines with the number of the first.
    lines: Vec<Line>,
    first: u64,
    /// The machine's ends of links that nobody has taken.
    links: Vec<UnixStream>,
    /// The machine's ends of those that its script has taken.
    taken: JoinSet<()>,
    signals: Vec<Signal>,
    tasks: JoinSet<()>,
}

impl Played {
    pub(super) fn new(id: MachineId, spec: &Spec, script: Script) -> Arc<Self> {
        let resources = spec.resources;
        let asked = [
            (Resource::Memory, resources.memory.is_some()),
            (Resource::Cpu, resources.cpu.is_some()),
            (Resource::Processes, resources.processes.is_some()),
            (Resource::OpenFiles, resources.open_files.is_some()),
        ];
        let by = Means::VirtualMachine;
        let limits = asked.iter().filter(|(_, asked)| *asked);
        Arc::new(Self {
            id,
            lifetime: spec.lifetime,
            script,
            limits: limits.map(|(what, _)| Enforced { what: *what, by }).collect(),
            has_output: matches!(spec.stdout, Output::Lines) || matches!(spec.stderr, Output::Lines),
            has_link: spec.link.is_some(),
            exit: watch::Sender::new(None),
            suspended: watch::Sender::new(false),
            inner: Mutex::default(),
            news: Notify::new(),
            is_told: AtomicBool::new(false),
            held: Mutex::default(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    fn held(&self) -> MutexGuard<'_, (u64, bool)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a handle of the supervisor that is there.
    pub(super) fn is_held(&self) -> bool {
        self.held().1
    }

    /// Forgets the handles of a supervisor that died.
    pub(super) fn abandon(&self) {
        let mut held = self.held();
        *held = (held.0 + 1, false);
        drop(held);
        self.lose_links();
    }

    /// Whether a handle that knew of its end has been dropped.
    pub(super) fn is_told(&self) -> bool {
        self.is_told.load(Ordering::Acquire)
    }

    /// Begins to perform the script.
    pub(super) fn begin(self: &Arc<Self>) {
        let mut inner = self.inner();
        if let Ends::After(time, exit) = self.script.ends {
            inner.tasks.spawn(end_after(Arc::downgrade(self), time, exit));
        }
        match &self.script.speaks {
            Speaks::Nothing => {}
            Speaks::Lines(lines) => inner.lines.extend(lines.iter().map(line)),
            Speaks::Counts(every) => {
                inner.tasks.spawn(count(Arc::downgrade(self), *every));
            }
            Speaks::Floods => {
                inner.tasks.spawn(count(Arc::downgrade(self), FLOOD_PAUSE));
            }
        }
    }

    pub(super) fn end(&self, exit: Exit) {
        self.exit.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(exit);
            is_first
        });
        self.lose_links();
        self.inner().tasks.abort_all();
        self.news.notify_waiters();
    }

    fn lose_links(&self) {
        let mut inner = self.inner();
        inner.links.clear();
        inner.taken.abort_all();
    }

    fn say(&self, text: String) {
        let mut inner = self.inner();
        inner.lines.push(line(text));
        if inner.lines.len() > KEPT {
            inner.lines.remove(0);
            inner.first += 1;
        }
        drop(inner);
        self.news.notify_waiters();
    }

    fn signalled(self: &Arc<Self>, signal: Signal) {
        let mut inner = self.inner();
        inner.signals.push(signal);
        if signal == Signal::KILL {
            drop(inner);
            return self.end(Exit::Signal(signal.number()));
        }
        if let Stops::After(time, exit) = self.script.stops {
            inner.tasks.spawn(end_after(Arc::downgrade(self), time, exit));
        }
        drop(inner);
        self.news.notify_waiters();
    }

    fn link(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = stream_pair()?;
        let mut inner = self.inner();
        match self.script.links {
            Links::Played | Links::Silent if inner.links.len() >= WAITING_LINKS => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Links::Played | Links::Silent => inner.links.push(theirs),
            Links::Echoes => {
                inner.taken.spawn(echo(theirs));
            }
            Links::Closes => drop(theirs),
        }
        drop(inner);
        self.news.notify_waiters();
        Ok(ours)
    }
}

async fn end_after(played: Weak<Played>, time: Duration, exit: Exit) {
    sleep(time).await;
    if let Some(played) = played.upgrade() {
        let mut suspended = played.suspended.subscribe();
        // Nothing happens in a machine that stands still.
        let _ = suspended.wait_for(|suspended| !suspended).await;
        played.end(exit);
    }
}

async fn count(played: Weak<Played>, every: Duration) {
    for number in 0_u64.. {
        sleep(every).await;
        let Some(played) = played.upgrade() else { return };
        let mut suspended = played.suspended.subscribe();
        let _ = suspended.wait_for(|suspended| !suspended).await;
        played.say(number.to_string());
    }
}

async fn echo(mut stream: UnixStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// The handle on a played machine, as a supervisor has it.
#[derive(Debug)]
pub struct Machine {
    id: MachineId,
    limits: Vec<Enforced>,
    played: Handle,
    /// Number of the supervisor that has it.
    supervisor: u64,
}

struct Handle(Arc<Played>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Played").field(&self.0.exit()).finish()
    }
}

impl Machine {
    pub(super) fn of(played: Arc<Played>) -> Self {
        let supervisor = {
            let mut held = played.held();
            held.1 = true;
            held.0
        };
        Self {
            id: played.id.clone(),
            limits: played.limits.clone(),
            played: Handle(played),
            supervisor,
        }
    }

    fn live(&self) -> Result<&Arc<Played>, Exit> {
        let Handle(played) = &self.played;
        played.exit().map_or(Ok(played), Err)
    }
}

impl crate::Machine for Machine {
    fn id(&self) -> &MachineId {
        &self.id
    }

    fn state(&self) -> State {
        let Handle(played) = &self.played;
        match played.exit() {
            Some(exit) => State::Exited(exit),
            None if *played.suspended.borrow() => State::Suspended,
            None => State::Running,
        }
    }

    fn limits(&self) -> &[Enforced] {
        &self.limits
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.played.0.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).unwrap_or(Exit::Lost)
    }

    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        let played = self.live().map_err(SignalError::Ended)?;
        played.signalled(signal);
        Ok(())
    }

    async fn kill(&self) -> Exit {
        if let Ok(played) = self.live() {
            played.end(Exit::Signal(Signal::KILL.number()));
        }
        self.wait().await
    }

    async fn suspend(&self) -> Result<(), SuspendError> {
        let played = self.live().map_err(SuspendError::Ended)?;
        match played.script.suspends {
            Suspends::AtOnce => {
                played.suspended.send_replace(true);
                Ok(())
            }
            Suspends::Fails => Err(SuspendError::Slow { limit_s: 5 }),
            Suspends::Hangs => std::future::pending().await,
        }
    }

    async fn resume(&self) -> Result<(), ResumeError> {
        let played = self.live().map_err(ResumeError::Ended)?;
        played.suspended.send_replace(false);
        Ok(())
    }

    async fn link(&self) -> Result<Link, LinkError> {
        let played = self.live().map_err(LinkError::Ended)?;
        if !played.has_link {
            return Err(LinkError::None);
        }
        let stream = played.link().map_err(LinkError::Refused)?;
        Ok(Link {
            stream,
            passes_descriptors: true,
        })
    }

    fn output(&self, since: Since) -> Result<Lines, OutputError> {
        let Handle(played) = &self.played;
        if !played.has_output {
            return Err(OutputError::None);
        }
        let inner = played.inner();
        let next = match since {
            Since::Kept => inner.first,
            Since::Now => inner.first + inner.lines.len() as u64,
        };
        drop(inner);
        let played = Arc::clone(played);
        Ok(Lines::read_by(|readers, sender| {
            readers.spawn(follow(played, next, sender.clone()));
        }))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Handle(played) = &self.played;
        let mut held = played.held();
        if held.0 != self.supervisor {
            return;
        }
        held.1 = false;
        drop(held);
        match played.exit() {
            Some(_) => played.is_told.store(true, Ordering::Release),
            None if played.lifetime == Lifetime::WithCaller => {
                played.end(Exit::Signal(Signal::KILL.number()));
            }
            None => {}
        }
    }
}

async fn follow(played: Arc<Played>, mut next: u64, sender: tokio::sync::mpsc::Sender<Line>) {
    loop {
        // Listening before looking, so that nothing falls between the two.
        let news = played.news.notified();
        let ended = played.exit().is_some();
        let line = {
            let inner = played.inner();
            next = next.max(inner.first);
            let index = usize::try_from(next - inner.first).unwrap_or(usize::MAX);
            inner.lines.get(index).cloned()
        };
        match line {
            Some(line) => {
                next += 1;
                if sender.send(line).await.is_err() {
                    return;
                }
            }
            None if ended => return,
            None => news.await,
        }
    }
}

/// The inside of a played machine, for tests that play its first program.
#[derive(Debug)]
pub struct Inside(Handle);

impl Inside {
    pub(super) fn of(played: &Arc<Played>) -> Self {
        Self(Handle(Arc::clone(played)))
    }

    /// The next link from a supervisor, where the script is [`Links::Played`]. Cancel safe.
    pub async fn link(&self) -> UnixStream {
        let Handle(played) = &self.0;
        loop {
            let news = played.news.notified();
            {
                let mut inner = played.inner();
                if !inner.links.is_empty() {
                    return inner.links.remove(0);
                }
            }
            news.await;
        }
    }

    /// Writes a line.
    pub fn say(&self, text: impl Into<String>) {
        self.0.0.say(text.into());
    }

    /// Ends the machine.
    pub fn exit(&self, exit: Exit) {
        self.0.0.end(exit);
    }

    /// The signals that it received.
    #[must_use]
    pub fn signals(&self) -> Vec<Signal> {
        self.0.0.inner().signals.clone()
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.0.0.suspended.borrow()
    }
}
