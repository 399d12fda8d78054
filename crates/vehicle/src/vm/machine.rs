//! The caller's handle on a virtual machine, and the task that owns it.
//!
//! ```text
//!            suspend            resume
//!   Running ────────▶ Suspended ──────▶ Running      its monitor ends with each suspension, and another goes on
//!      │ exited, killed, crashed   │ killed
//!      ▼                           ▼
//!   Exited: the monitor is gone, and what was on disks is back in its directories
//! ```
//! One task has the monitor and does one thing at a time; the handle sends it orders and reads what it published. A kill
//! cuts short whatever it does.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use suijuris_guest::session::Session;
use suijuris_guest::wire::{FIRST_LINK, Frame};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::channel::Channel;
use super::console::Console;
use super::disk::Taken;
use super::monitor::{Hardware, Monitor};
use super::owner::Owner;
use super::record::Record;
use super::tools::DiskTools;
use crate::description::Enforced;
use crate::driver::Machine as _;
use crate::error::{FreezeError, LinkError, OutputError, ResumeError, SignalError, SuspendError};
use crate::machine::{Exit, Link, MachineId, Signal, State};
use crate::output::{Line, Lines, Since, Splitter};
use crate::process::{self, Process};

/// Orders that wait at most.
const ORDERS: usize = 16;

/// What the task is asked.
pub(super) enum Ask {
    Signal(Signal, oneshot::Sender<io::Result<()>>),
    Suspend(oneshot::Sender<Result<(), SuspendError>>),
    Resume(oneshot::Sender<Result<(), ResumeError>>),
    Freeze(String, oneshot::Sender<Result<(), FreezeError>>),
    Settle(oneshot::Sender<Result<(), FreezeError>>),
}

/// Everything of a machine that runs.
pub(super) struct Parts {
    pub(super) id: MachineId,
    pub(super) inner: Arc<Process>,
    pub(super) hardware: Hardware,
    pub(super) tools: DiskTools,
    pub(super) monitor: Option<Monitor>,
    pub(super) channel: Channel,
    pub(super) console: Arc<Console>,
    pub(super) consoles: JoinSet<()>,
    pub(super) disks: Vec<Taken>,
    pub(super) place: super::Place,
    pub(super) record: Option<Record>,
    pub(super) outputs: Vec<UnixStream>,
    pub(super) streams: JoinSet<()>,
    pub(super) has_link: bool,
    pub(super) limits: Vec<Enforced>,
}

/// A virtual machine. Dropping it kills it, where it does not outlive its driver; what was on its disks comes back when its directory is
/// used next.
#[derive(Debug)]
pub struct Machine {
    id: MachineId,
    state: watch::Receiver<State>,
    asks: mpsc::Sender<Ask>,
    kill: Arc<Notify>,
    session: Session,
    has_link: bool,
    has_output: bool,
    next_link: AtomicU32,
    streams: Mutex<JoinSet<()>>,
    outputs: Mutex<Option<Vec<UnixStream>>>,
    console: Arc<Console>,
    limits: Vec<Enforced>,
    /// Where what it writes is kept, of a machine that outlives its driver, and what lines of its first process begin with.
    kept: Option<(watch::Receiver<Option<Arc<process::Machine>>>, String)>,
    _task: JoinSet<()>,
    place: super::Place,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.place.stays = self.kept.is_some() && self.exit().is_none();
    }
}

/// Links of a machine that one driver opens; the next begins above.
const LINKS: u32 = 1 << 20;

impl Machine {
    /// A machine that runs.
    pub(super) fn started(parts: Parts) -> Self {
        let (machine, owner, asked) = Self::new(parts, State::Running);
        machine.run(|| owner.run(asked))
    }

    /// A machine that an earlier driver left, as its record says; `exit` where it is known to have ended.
    pub(super) async fn attached(parts: Parts, exit: Option<Exit>) -> io::Result<Self> {
        let (machine, mut owner, asked) = Self::new(parts, State::Running);
        owner.said = exit;
        let exit = owner.take_over().await?;
        if owner.monitor.is_none() {
            owner.publish.send_replace(State::Suspended);
        }
        if let Some(exit) = exit {
            owner.finish(exit).await;
            return Ok(machine);
        }
        Ok(machine.run(|| owner.run(asked)))
    }

    fn run<F: Future<Output = ()> + Send + 'static>(mut self, task: impl FnOnce() -> F) -> Self {
        self._task.spawn(task());
        self
    }

    fn new(parts: Parts, state: State) -> (Self, Owner, mpsc::Receiver<Ask>) {
        let (publish, state) = watch::channel(state);
        let (runs, running) = watch::channel(parts.monitor.as_ref().and_then(Monitor::kept));
        let has_output = parts.record.as_ref().map(|record| record.has_output);
        let mark = parts.record.as_ref().map(|record| record.mark.line());
        let earlier = parts.record.as_ref().map_or(0, |record| record.attached);
        let (asks, asked) = mpsc::channel(ORDERS);
        let kill = Arc::new(Notify::new());
        let machine = Self {
            id: parts.id,
            state,
            asks,
            kill: kill.clone(),
            session: parts.channel.session().clone(),
            has_link: parts.has_link,
            next_link: AtomicU32::new(earlier.wrapping_mul(LINKS).wrapping_add(FIRST_LINK)),
            streams: Mutex::new(parts.streams),
            outputs: Mutex::new(Some(parts.outputs).filter(|outputs| !outputs.is_empty())),
            console: parts.console.clone(),
            limits: parts.limits,
            kept: mark.map(|mark| (running, mark)),
            has_output: has_output.unwrap_or(false),
            _task: JoinSet::new(),
            place: parts.place,
        };
        let owner = Owner {
            inner: parts.inner,
            hardware: parts.hardware,
            tools: parts.tools,
            monitor: parts.monitor,
            channel: parts.channel,
            console: parts.console,
            consoles: parts.consoles,
            disks: parts.disks,
            record: parts.record,
            runs,
            said: None,
            publish,
            kill,
        };
        (machine, owner, asked)
    }

    fn exit(&self) -> Option<Exit> {
        match *self.state.borrow() {
            State::Exited(exit) => Some(exit),
            State::Running | State::Suspended => None,
        }
    }

    /// What the task answers; how the machine ended where it does not any more.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Exit> {
        if let Some(exit) = self.exit() {
            return Err(exit);
        }
        let (answer, answered) = oneshot::channel();
        if self.asks.send(ask(answer)).await.is_ok()
            && let Ok(answer) = answered.await
        {
            return Ok(answer);
        }
        Err(crate::driver::Machine::wait(self).await)
    }
}

impl crate::driver::Machine for Machine {
    fn id(&self) -> &MachineId {
        &self.id
    }

    fn state(&self) -> State {
        *self.state.borrow()
    }

    fn limits(&self) -> &[Enforced] {
        &self.limits
    }

    async fn wait(&self) -> Exit {
        let mut state = self.state.clone();
        loop {
            if let State::Exited(exit) = *state.borrow_and_update() {
                return exit;
            }
            if state.changed().await.is_err() {
                // The task has panicked: the monitor went with it.
                return self.exit().unwrap_or(Exit::Lost);
            }
        }
    }

    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        let sent = self.ask(|answer| Ask::Signal(signal, answer)).await;
        sent.map_err(SignalError::Ended)?.map_err(SignalError::Refused)
    }

    async fn kill(&self) -> Exit {
        if self.exit().is_none() {
            self.kill.notify_one();
        }
        self.wait().await
    }

    async fn suspend(&self) -> Result<(), SuspendError> {
        self.ask(Ask::Suspend).await.map_err(SuspendError::Ended)?
    }

    async fn resume(&self) -> Result<(), ResumeError> {
        self.ask(Ask::Resume).await.map_err(ResumeError::Ended)?
    }

    async fn freeze(&self, tag: &str) -> Result<(), FreezeError> {
        let tag = tag.to_owned();
        let frozen = self.ask(|answer| Ask::Freeze(tag, answer)).await;
        frozen.map_err(FreezeError::Ended)??;
        // The directory is whole once it has ended.
        let _ = crate::driver::Machine::wait(self).await;
        Ok(())
    }

    async fn settle(&self) -> Result<(), FreezeError> {
        self.ask(Ask::Settle).await.map_err(FreezeError::Ended)?
    }

    async fn link(&self) -> Result<Link, LinkError> {
        if let Some(exit) = self.exit() {
            return Err(LinkError::Ended(exit));
        }
        if !self.has_link {
            return Err(LinkError::None);
        }
        let (stream, inside) = UnixStream::pair().map_err(LinkError::Refused)?;
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let session = self.session.clone();
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.try_join_next().is_some() {}
        streams.spawn(async move {
            let end = session.begin(id);
            session.send(Frame::Open(id)).await;
            end.carry(inside).await;
        });
        Ok(Link {
            stream,
            passes_descriptors: false,
        })
    }

    fn output(&self, since: Since) -> Result<Lines, OutputError> {
        if let Some((runs, mark)) = &self.kept {
            if !self.has_output {
                return Err(OutputError::None);
            }
            let (runs, mark) = (runs.clone(), mark.clone());
            return Ok(Lines::read_by(|readers, lines| {
                readers.spawn(follow(runs, mark, since, lines.clone()));
            }));
        }
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outputs = outputs.ok_or(OutputError::None)?;
        let (console, mut state) = (self.console.clone(), self.state.clone());
        Ok(Lines::read_by(|readers, lines| {
            for output in outputs {
                readers.spawn(read_lines(output, lines.clone()));
            }
            let lines = lines.clone();
            readers.spawn(async move {
                loop {
                    while let Some(text) = console.take() {
                        let line = Line { text, goes_on: false };
                        if lines.send(line).await.is_err() {
                            return;
                        }
                    }
                    if matches!(*state.borrow_and_update(), State::Exited(_)) {
                        return;
                    }
                    tokio::select! {
                        () = console.changed.notified() => {}
                        changed = state.changed() => if changed.is_err() { return },
                    }
                }
            });
        }))
    }
}

/// Passes on what is kept of each run, and what comes.
async fn follow(
    mut runs: watch::Receiver<Option<Arc<process::Machine>>>,
    mark: String,
    mut since: Since,
    to: mpsc::Sender<Line>,
) {
    loop {
        let run = runs.borrow_and_update().clone();
        if let Some(run) = run {
            if let Ok(mut lines) = run.output(since) {
                while let Some(line) = lines.next().await {
                    if !line.text.starts_with(&mark) && to.send(line).await.is_err() {
                        return;
                    }
                }
            }
            since = Since::Kept;
        }
        if runs.changed().await.is_err() {
            return;
        }
    }
}

async fn read_lines(mut output: UnixStream, lines: mpsc::Sender<Line>) {
    let (mut splitter, mut buffer) = (Splitter::default(), vec![0; 16 << 10]);
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        for line in splitter.push(buffer.get(..read).unwrap_or_default()) {
            if lines.send(line).await.is_err() {
                return;
            }
        }
    }
    if let Some(line) = splitter.finish() {
        let _ = lines.send(line).await;
    }
}
