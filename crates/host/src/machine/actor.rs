//! The one owner of a machine: takes what is asked for, follows the plan, records each step before the next.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use suijuris_vehicle::process;
use suijuris_vehicle::{Machine as _, State as Running};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::effects::{KILL_LIMIT, World};
use super::plan::{Effect, Next, Outcome, Seen, after, plan};
use super::requests::{Refusal, Request, accept};
use super::{By, Kind, Machine, Stamp, State};
use crate::capacity::Capacity;
use crate::checks::{self, Results};
use crate::clock::now_ms;
use crate::door::Doors;
use crate::faults::Faults;
use crate::ids;
use crate::store::{Store, Table};

/// Pause before a step is tried again whose record could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// Requests that wait for one machine.
pub(crate) const WAITING: usize = 64;

/// What is asked of an actor.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) request: Request,
    pub(crate) nonce: Option<String>,
    pub(crate) by: By,
    pub(crate) reply: Reply,
}

pub(crate) type Reply = oneshot::Sender<Result<Arc<Machine>, Refusal>>;

/// What all actors share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) world: Arc<World>,
    pub(crate) store: Store,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) doors: Doors,
    /// Grows with each change of a record, so that whoever shares what it made of them sees when it is old.
    pub(crate) changes: AtomicU64,
}

/// Processes with the name of the life that they are.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) processes: Arc<process::Machine>,
}

/// The owner of one machine.
#[derive(Debug)]
pub(crate) struct Actor {
    shared: Arc<Shared>,
    machine: Arc<Machine>,
    life: Option<Life>,
    commands: mpsc::Receiver<Command>,
    record: watch::Sender<Arc<Machine>>,
    processes: watch::Sender<Option<Arc<process::Machine>>>,
    /// Who waits for the end of a create or an update.
    asked: Option<Reply>,
    /// Listens at the machine's own socket while there are processes of it.
    door: JoinSet<()>,
    /// Makes the checks of the life and version that this names.
    checking: Option<(String, JoinSet<()>)>,
    checks: watch::Sender<Results>,
}

/// What others see of a machine, and how they ask.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) record: watch::Receiver<Arc<Machine>>,
    pub(crate) processes: watch::Receiver<Option<Arc<process::Machine>>>,
    pub(crate) checks: watch::Receiver<Results>,
}

impl Handle {
    /// Whether its checks let the proxy use it for the service at `internal_port`.
    pub(crate) fn is_healthy(&self, internal_port: u32) -> bool {
        checks::is_healthy(&self.checks.borrow(), internal_port)
    }

    /// Its checks, as clients see them.
    pub(crate) fn checks(&self) -> Vec<serde_json::Value> {
        self.checks.borrow().iter().map(checks::Checked::shown).collect()
    }

    /// The record as it is now.
    pub(crate) fn now(&self) -> Arc<Machine> {
        Arc::clone(&self.record.borrow())
    }
}

impl Actor {
    /// An actor for a machine that is recorded, and its handle. `life`: what was found of it.
    pub(crate) fn new(
        shared: Arc<Shared>,
        machine: Machine,
        life: Option<Life>,
        asked: Option<Reply>,
    ) -> (Self, Handle) {
        let machine = Arc::new(machine);
        let (sender, commands) = mpsc::channel(WAITING);
        let (record, seen) = watch::channel(Arc::clone(&machine));
        let (processes, running) = watch::channel(life.as_ref().map(|life| Arc::clone(&life.processes)));
        let (checks, checked) = watch::channel(Results::default());
        let actor = Self {
            shared,
            machine,
            life,
            commands,
            record,
            processes,
            asked,
            door: JoinSet::new(),
            checking: None,
            checks,
        };
        let handle = Handle {
            commands: sender,
            record: seen,
            processes: running,
            checks: checked,
        };
        (actor, handle)
    }

    /// Runs until the machine is destroyed or nobody holds a handle.
    pub(crate) async fn run(mut self) {
        if self.life.is_some() {
            // A machine that runs does without rather than end.
            let _ = self.open_door();
            self.check();
        }
        loop {
            let stamp = stamp();
            match plan(&self.machine, self.seen(), &stamp) {
                Next::Record(next) => self.record_or_wait(*next).await,
                Next::Do(effect) => {
                    self.shared.faults.pass();
                    let outcome = self.perform(effect).await;
                    self.shared.faults.pass();
                    // The instant after the effect, which may have taken long.
                    let stamp = self::stamp();
                    if let Some(next) = after(&self.machine, effect, &outcome, &stamp) {
                        self.record_or_wait(next).await;
                    }
                }
                Next::Rest if self.machine.state == State::Destroyed => return,
                Next::Rest => {
                    if !self.wait(None).await {
                        return;
                    }
                }
                Next::Wait(until_ms) => {
                    if !self.wait(Some(until_ms)).await {
                        return;
                    }
                }
            }
        }
    }

    fn seen(&self) -> Seen {
        Seen::of(self.life.as_ref().map(|life| &*life.processes))
    }

    async fn record_or_wait(&mut self, next: Machine) {
        if self.commit(next).await.is_err() {
            sleep(RETRY).await;
        }
    }

    /// Replaces the record, durably, and tells it.
    async fn commit(&mut self, mut next: Machine) -> Result<(), Refusal> {
        next.count(stamp().now_ms);
        self.shared.faults.pass();
        let written = self.shared.store.set(Table::Machines, &next.id, &next).await;
        written.map_err(|error| Refusal::Broken(error.to_string()))?;
        self.shared.faults.pass();
        self.machine = Arc::new(next);
        let run = self.machine.run.as_ref().map(|run| run.name.as_str());
        let over = |life: &Life| {
            run != Some(life.name.as_str()) && matches!(life.processes.state(), Running::Exited(_))
        };
        if self.life.as_ref().is_some_and(over) {
            if let Some(life) = &self.life {
                crate::logs::keep(&life.processes, &self.shared.world.directory(&self.machine.id)).await;
            }
            self.set_life(None);
        }
        if self.machine.state.is_reserved() {
            self.shared.capacity.hold(&self.machine);
        } else {
            self.shared.capacity.release(&self.machine.id);
        }
        let operation = self.machine.operation.as_ref().map(|operation| &operation.kind);
        // A create that came to nothing is told once nothing is left of it.
        let undone = self.machine.failure.is_some() && self.machine.state == State::Destroying;
        let busy = undone || matches!(operation, Some(Kind::Create { .. } | Kind::Update { .. }));
        if !busy && let Some(asked) = self.asked.take() {
            let answer = match &self.machine.failure {
                Some(failure) => Err(Refusal::Failed(failure.why.clone())),
                None => Ok(Arc::clone(&self.machine)),
            };
            // Whoever asked may have gone.
            let _ = asked.send(answer);
        }
        self.check();
        self.record.send_replace(Arc::clone(&self.machine));
        self.shared.changes.fetch_add(1, Ordering::Release);
        self.reset_rootfs().await;
        Ok(())
    }

    /// What a machine at rest wrote to its root file system goes, unless it stays for the next start, which would remove it too.
    async fn reset_rootfs(&self) {
        let machine = &self.machine;
        let is_over = matches!(machine.state, State::Stopped | State::Failed) && machine.operation.is_none();
        if is_over && machine.run.is_none() && !machine.keeps_rootfs {
            let (world, id) = (Arc::clone(&self.shared.world), machine.id.clone());
            // What stays is removed by the next start.
            let _ = tokio::task::spawn_blocking(move || world.reset(&id)).await;
        }
    }

    /// Makes the checks of a machine that is started, and of no other.
    fn check(&mut self) {
        let life = self
            .life
            .as_ref()
            .filter(|_| self.machine.state == State::Started);
        let planned = checks::planned(&self.machine.config);
        let Some(life) = life.filter(|_| !planned.is_empty()) else {
            if self.checking.take().is_some() {
                self.checks.send_replace(Results::default());
            }
            return;
        };
        let of = format!("{} {}", life.name, self.machine.version);
        if self.checking.as_ref().is_none_or(|(checked, _)| *checked != of) {
            let (world, processes) = (Arc::clone(&self.shared.world), Arc::clone(&life.processes));
            let connect: checks::Connect = Arc::new(move |port| {
                let (world, processes) = (Arc::clone(&world), Arc::clone(&processes));
                Box::pin(async move { world.connect(&processes, port).await })
            });
            self.checking = Some((of, checks::run(planned, &connect, &self.checks)));
        }
    }

    /// Listens at the machine's own socket from now on.
    fn open_door(&mut self) -> io::Result<()> {
        let directory = self.shared.world.directory(&self.machine.id);
        self.door = self.shared.doors.open(&directory, &self.machine.id)?;
        Ok(())
    }

    fn set_life(&mut self, life: Option<Life>) {
        self.processes
            .send_replace(life.as_ref().map(|life| Arc::clone(&life.processes)));
        if life.is_none() {
            self.door = JoinSet::new();
        }
        self.life = life;
    }

    async fn perform(&mut self, effect: Effect) -> Outcome {
        let world = Arc::clone(&self.shared.world);
        let processes = self.life.as_ref().map(|life| Arc::clone(&life.processes));
        match (effect, processes) {
            (Effect::Fetch, _) => {
                let operation = self.machine.operation.as_ref().map(|operation| &operation.kind);
                match operation {
                    Some(Kind::Update { next, .. }) => world.fetch(&next.config, &self.machine.org).await,
                    _ => world.fetch(&self.machine.config, &self.machine.org).await,
                }
            }
            (Effect::Prepare, _) => world.prepare(&self.machine).await,
            (Effect::Launch, _) => match self.launch().await {
                Ok(processes) => {
                    let name = self
                        .machine
                        .run
                        .as_ref()
                        .map(|run| run.name.clone())
                        .unwrap_or_default();
                    let processes = Arc::new(processes);
                    self.set_life(Some(Life { name, processes }));
                    Outcome::Done
                }
                Err(why) => Outcome::Failed(why),
            },
            (Effect::Clean, _) => {
                world.clean(&self.machine.id).await;
                Outcome::Done
            }
            (Effect::Signal(number), Some(processes)) => World::signal(&processes, number).await,
            (Effect::Kill, Some(processes)) => {
                // What does not die within this is killed again by the next plan.
                let _ = timeout(KILL_LIMIT, processes.kill()).await;
                Outcome::Done
            }
            (Effect::Suspend, Some(processes)) => told(processes.suspend().await),
            (Effect::Resume, Some(processes)) => told(processes.resume().await),
            (_, None) => Outcome::Done,
        }
    }

    async fn launch(&mut self) -> Result<process::Machine, String> {
        self.open_door()
            .map_err(|error| format!("the machine's socket cannot be made: {error}"))?;
        let launched = Box::pin(Arc::clone(&self.shared.world).launch(&self.machine)).await;
        if launched.is_err() {
            self.door = JoinSet::new();
        }
        launched
    }

    /// Waits for a request, for the end of the processes, or for an instant; `false` where nobody is left to ask.
    async fn wait(&mut self, until_ms: Option<u64>) -> bool {
        let processes = self.life.as_ref().map(|life| Arc::clone(&life.processes));
        let ended = async {
            match &processes {
                Some(processes) if !matches!(processes.state(), Running::Exited(_)) => {
                    let _exit = processes.wait().await;
                }
                _ => std::future::pending().await,
            }
        };
        let instant = async {
            match until_ms {
                Some(until) => sleep(Duration::from_millis(until.saturating_sub(now_ms()))).await,
                None => std::future::pending().await,
            }
        };
        let (ended, instant) = (pin!(ended), pin!(instant));
        tokio::select! {
            command = self.commands.recv() => match command {
                Some(command) => {
                    self.take(command).await;
                    true
                }
                None => false,
            },
            () = ended => true,
            () = instant => true,
        }
    }

    async fn take(&mut self, command: Command) {
        let Command {
            request,
            nonce,
            by,
            reply,
        } = command;
        let stamp = stamp();
        let accepted = accept(&self.machine, &request, nonce.as_deref(), by, &stamp).and_then(|next| {
            if next.state.is_reserved() && !self.machine.state.is_reserved() {
                self.shared.capacity.reserve(&next)?;
            }
            Ok(next)
        });
        let committed = match accepted {
            Ok(next) if next == *self.machine => Ok(()),
            Ok(next) => self.commit(next).await,
            Err(refusal) => Err(refusal),
        };
        match committed {
            Ok(()) if matches!(request, Request::Update(_)) => self.asked = Some(reply),
            // Whoever asked may have gone.
            Ok(()) => drop(reply.send(Ok(Arc::clone(&self.machine)))),
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }
}

/// The present instant, with randomness for ids.
pub(crate) fn stamp() -> Stamp {
    let now_ms = now_ms();
    // Ids must differ, not be secret: without randomness the clock's word has to do.
    let random = ids::random::<16>().map_or_else(|_| u128::from(now_ms), u128::from_be_bytes);
    Stamp { now_ms, random }
}

fn told<E: std::error::Error>(result: Result<(), E>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(super::effects::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_takes_little_so_that_there_may_be_ten_thousand() {
        fn size_of<F: Future>(_: impl Fn(Actor) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let bytes = size_of(Actor::run) + std::mem::size_of::<Actor>();
        assert!(bytes < 8 << 10, "{bytes}");
    }
}
