//! The actor of one object: it follows the pure machine of [`suijuris_core::activation`], performs its effects, and tells
//! it what happened.
//!
//! ```text
//!   connections, requests ──▶ inbox ──┐                       ┌──▶ tasks: start, claim, record, publish …
//!   timers, messages, lost claims ────┼──▶ Activation::on ────┤         │
//!   answers of tasks, the runtime ────┘                       └──▶ answers to whoever waits
//!        ▲                                                              │
//!        └──────────────────────────────────────────────────────────────┘
//! ```
//! Its loop awaits the next thing to happen and nothing else: whatever takes time is a task whose answer comes back as a
//! `Done`. How it begins is in `beginning`. It decides nothing for the object: dormant, it asks the object's rules at the door; awake, the runtime does.

mod beginning;
mod calling;
mod connections;
mod custody;
mod done;
mod effects;
mod ending;
mod forking;
mod handle;
mod looking;
mod moving;
mod own;
mod requests;
mod words;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_api::event::Verdict;
use suijuris_core::activation::requests::Queue;
use suijuris_core::activation::{Activation, Ask as AskNumber, Event, Facts, Loss, Phase, ProposalId, Stop};
use suijuris_core::lineage;
use suijuris_core::time::Timestamp;
use suijuris_core::witness::Mono;
use suijuris_custody::at_rest::Unrecorded;
use suijuris_custody::claim::{Claim, Handoff, RefusedCopy};
use suijuris_door::{PreparedBundle, Proposal};
use suijuris_link::launch::ServedAs;
use suijuris_store::{ObjectDir, StageError, Stamps};
use suijuris_vehicle::Driver;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::at_door::AtDoor;
use crate::capability::Receive;
use crate::connection::PendingConnection;
use crate::control::{Check, PendingRequest};
use crate::events::Reporter;
use crate::inbox::InboxWatcher;
use crate::machine::{Front, Running};
use crate::machine_notes::MachineNote;
use crate::paths::ObjectPaths;
use crate::services::Services;
pub use beginning::{Left, Resting};
use done::Done;
pub use handle::ObjectHandle;
use handle::{Awake, Holds, Pause, paused};
use own::OwnEnd;

/// Until a history is verified that this process has just opened: others are being opened.
const VERIFY_AFTER: Duration = Duration::from_secs(10);

/// Between two looks at counted refusals and timers, at most, so that a clock that was set is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is sent to an actor.
#[derive(Debug)]
pub enum Input {
    /// Somebody at the door.
    Connection(Box<PendingConnection>),
    /// A request of an owner or a host.
    Request(Box<PendingRequest>),
    /// A proxy asks whether a request may pass.
    Check(Box<Check>),
    /// The host stops the object.
    Stop(Stop),
    /// This process is about to be replaced: a machine that runs goes on without it.
    Detach,
}

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Another copy is the object.
    pub lost: bool,
    /// The object refused to fall asleep, and its machine was stopped without a record of its own.
    pub refused_to_sleep: bool,
}

/// Why an actor cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ActorError {
    /// Its disk.
    #[error("pending records could not be made durable")]
    Store(#[from] StageError),
}

/// Who proposed, and gets the answer.
#[derive(Debug)]
enum Proposer {
    Connection(Box<PendingConnection>),
    Timer,
    Message,
    /// A write that wakes, or that has to wait for the store.
    Memory,
    Owner(Box<PendingRequest>),
}

/// A proposal that the activation has.
#[derive(Debug)]
struct Proposed {
    by: Proposer,
    /// As the door permitted it; none where it came while the door does not decide.
    permitted: Option<Proposal>,
}

/// The machine of an object, between the order to start it and its end.
struct Started<M> {
    running: Running<M>,
    /// Reads what it says and waits for its end.
    _tasks: JoinSet<()>,
}

/// One object on its host.
pub struct ObjectActor<D: Driver> {
    services: Rc<Services<D>>,
    paths: Rc<ObjectPaths>,
    object_dir: ObjectDir,
    front: Rc<Front>,
    url: String,
    claim: Arc<Claim>,
    prepared: Arc<PreparedBundle>,
    served_as: Option<ServedAs>,
    foreign: Option<Rc<Receive>>,
    reporter: Reporter,
    activation: Activation,
    events: VecDeque<Event>,
    queue: Queue,
    /// The dormant object; none while a machine has it.
    at_door: Option<AtDoor>,
    machine: Option<Started<D::Machine>>,
    /// The machine of an earlier process, until it is attached to.
    left: Option<MachineNote>,
    /// The next process goes on with the machine.
    detached: bool,
    /// Gives a start up, dropped or sent.
    give_up: Option<oneshot::Sender<()>>,
    /// The newest publishing.
    publishing: Option<AbortHandle>,
    /// Says that the object is lent to its machine, so that it may be claimed for it.
    lending: Option<oneshot::Sender<()>>,
    /// The claim that a resumption answers.
    resuming: Option<AskNumber>,
    handed: Handoff,
    /// Held while a key is made beside a start: two never write the same file.
    making_key: Arc<Mutex<()>>,
    /// The lineage's files as they were verified whole while the object rests.
    verified: Option<Stamps>,
    verifying: Option<AbortHandle>,
    /// Left by the last machine.
    unrecorded: Unrecorded,
    proposals: BTreeMap<ProposalId, Proposed>,
    requests: BTreeMap<u64, PendingRequest>,
    /// The request by which the host's stop asks the runtime to sleep.
    stopping: Option<u64>,
    numbers: u64,
    inbox: InboxWatcher,
    /// A proposal of timers, or of messages, is under way, or its refusal is being recorded.
    timers_proposed: bool,
    messages_proposed: bool,
    /// Refusals were counted since all were recorded.
    counted: bool,
    /// The runtime's verdict on the wake under way.
    wake_verdict: Option<Verdict>,
    /// What its gate answered everybody, where it refused everybody.
    problem: Option<Problem>,
    workload_end: words::WorkloadEnd,
    lost: Option<RefusedCopy>,
    refused_to_sleep: bool,
    own_end: OwnEnd,
    own_move: OwnEnd,
    broken: Option<ActorError>,
    inputs: mpsc::Receiver<Input>,
    accepting: watch::Sender<bool>,
    phase: watch::Sender<Phase>,
    awake: Rc<Cell<Awake>>,
    recorded: Rc<Cell<Option<lineage::Phase>>>,
    epoch: Rc<Cell<u64>>,
    rests_since: Rc<Cell<Option<Timestamp>>>,
    looked_after: Rc<Cell<bool>>,
    pause: Pause,
    holds: Holds,
    answers: mpsc::Sender<Done<D::Machine>>,
    answered: mpsc::Receiver<Done<D::Machine>>,
    tasks: JoinSet<()>,
    /// Room for connections that ask the sleeping object itself.
    callers: Arc<Semaphore>,
}

impl<D: Driver> std::fmt::Debug for ObjectActor<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectActor")
            .field("phase", &self.activation.phase())
            .finish_non_exhaustive()
    }
}

impl<D: Driver> ObjectActor<D> {
    /// Runs to the end: the object was stopped here, or is another copy's.
    ///
    /// # Errors
    /// [`ActorError`]: nothing can be recorded any more.
    pub async fn run(mut self) -> Result<Ended, ActorError> {
        self.prewarm();
        if self.at_door.is_some() {
            self.publish_at_rest();
            self.ask_again();
            self.verify_at_rest(VERIFY_AFTER);
        }
        loop {
            while let Some(event) = self.events.pop_front() {
                self.turn(event);
            }
            self.requests_that_are_due();
            self.end_of_itself();
            self.move_of_itself();
            if !self.events.is_empty() {
                continue;
            }
            self.show();
            if let Some(error) = self.broken.take() {
                self.finish().await;
                return Err(error);
            }
            if self.activation.is_over() || self.detached {
                self.finish().await;
                return Ok(Ended {
                    lost: self.lost.is_some() || self.activation.phase() == Phase::Lost,
                    refused_to_sleep: self.refused_to_sleep,
                });
            }
            self.next().await;
        }
    }

    /// Waits for the next thing to happen, and takes it in.
    async fn next(&mut self) {
        let alarm = self.alarm();
        let (lost, looks) = (self.lost.is_some(), self.looks_at_inbox());
        tokio::select! {
            biased;
            Some(done) = self.answered.recv() => self.done(done),
            Some(input) = self.inputs.recv() => self.take_in(input),
            copy = self.claim.lost(), if !lost => self.lose(copy),
            waiting = self.inbox.arrives(), if looks => self.messages_wait(&waiting),
            () = sleep(alarm) => {
                self.events.push_back(Event::Tick);
                self.look_at_timers();
            }
            Some(_ended) = self.tasks.join_next() => {}
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Connection(connection) => self.connection(*connection, 0),
            Input::Request(request) => self.request(*request),
            Input::Check(check) => self.check(*check),
            Input::Stop(stop) => self.events.push_back(Event::Stop(stop)),
            Input::Detach => self.detach(),
        }
    }

    /// Leaves a machine that runs to the next process. Whoever waits here is refused; an object without one is stopped.
    fn detach(&mut self) {
        if self
            .machine
            .as_ref()
            .is_none_or(|machine| machine.running.note.is_none())
        {
            self.events.push_back(Event::Stop(Stop::Now));
            return;
        }
        let terms = &self.services.terms;
        let facts = Facts {
            now: self.now(),
            terms,
        };
        for effect in self.activation.clone().detach(facts) {
            self.perform(effect);
        }
        self.detached = true;
    }

    /// One transition and its effects.
    fn turn(&mut self, event: Event) {
        let terms = &self.services.terms;
        let facts = Facts {
            now: self.now(),
            terms,
        };
        let (activation, effects) = self.activation.clone().on(event, facts);
        self.activation = activation;
        for effect in effects {
            self.perform(effect);
        }
    }

    fn now(&self) -> Mono {
        Mono(self.services.clock.reading().mono_ns)
    }

    /// Tells whoever listens and whoever looks where the activation stands.
    fn show(&self) {
        let accepts = self.activation.door_decides();
        self.accepting
            .send_if_modified(|accepting| std::mem::replace(accepting, accepts) != accepts);
        let now = self.activation.phase();
        self.phase
            .send_if_modified(|phase| std::mem::replace(phase, now) != now);
        let awake = self.awake.get();
        let is_awake = matches!(now, Phase::Running | Phase::Draining);
        if let Some(at_door) = self.at_door.as_ref().filter(|_| !is_awake) {
            let (recorded, phase, at) = at_door.look(|state| {
                let head = state.head();
                self.epoch.set(head.epoch);
                (head.awake, head.phase, head.at)
            });
            self.recorded.set(Some(phase));
            self.rests_since.set((now == Phase::Resting).then_some(at));
            return self.awake.set(Awake::recorded(recorded));
        }
        self.rests_since.set(None);
        if is_awake != awake.since.is_some() {
            self.awake.set(Awake {
                before: awake.total(),
                since: is_awake.then(Instant::now),
            });
        }
    }

    /// How long until something is due by the clock; none where nothing is.
    fn alarm(&mut self) -> Option<Duration> {
        let deadlines = [self.activation.deadline(), self.queue.deadline()];
        let now = self.now();
        let until = |at: Mono| Duration::from_nanos(at.0.saturating_sub(now.0));
        let due = deadlines.into_iter().flatten().map(until).min();
        let own_end = (self.ends_by_time() || self.moves_by_time()).then_some(LONGEST_WAIT);
        due.into_iter().chain(self.next_timer()).chain(own_end).min()
    }

    const fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Another copy has the object.
    fn lose(&mut self, copy: RefusedCopy) {
        let loss = loss_of(&copy);
        self.reporter.event(copy.event());
        self.lost = Some(copy);
        self.events.push_back(Event::Lost(loss));
    }

    /// Lets those who are being refused read their answers, and tasks end that write.
    async fn finish(&mut self) {
        const FINISH_WITHIN: Duration = Duration::from_secs(1);
        self.stop_verifying();
        self.inputs.close();
        while let Ok(input) = self.inputs.try_recv() {
            if let Input::Connection(connection) = input {
                self.tasks.spawn_local(connection.refuse_leaving());
            }
        }
        let tasks = &mut self.tasks;
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FINISH_WITHIN, all).await;
    }
}

/// Never, where nothing is due.
async fn sleep(alarm: Option<Duration>) {
    match alarm {
        Some(alarm) => tokio::time::sleep(alarm).await,
        None => std::future::pending().await,
    }
}

fn loss_of(copy: &RefusedCopy) -> Loss {
    if copy.code == "twin" {
        Loss::Twin
    } else {
        Loss::RolledBack
    }
}
