//! The world that the process lives in: true time, what happens when, and what must hold at each instant.
//!
//! Of each object at most one machine runs. An epoch begins only under a claim that really stands in the depot, and never
//! within another. Whoever writes has seen every write before. What ends is recorded before the next begins. Long after the
//! last fault an owner wakes each object; then the host stops all of them. Nobody waits longer than everything together may
//! take, and everybody has been answered.

use std::collections::BTreeMap;
use std::time::Duration;

use suijuris_core::activation::requests::{Queue, RequestId};
use suijuris_core::activation::{
    Activation, By, Effect, Event as Told, Facts, Found, Phase, Proposal, ProposalId, Run, Stop, Terms,
};
use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::witness::{HolderId, Mark, Mono, Purpose};

use super::bugs::Bug;
use super::chance::{Chance, MS, Ns};
use super::machine::{Act, Disk, Lock, Machine};
use super::plan::{Plan, SECOND};
use super::schedule::Schedule;
use super::shore::Shore;
use super::watch::Watch;

/// Longer than any answer may take: a wake that hangs, an end that hangs, a disk that hangs, a pause that is waited out.
const PATIENCE: Ns = 260 * SECOND;

/// What happens at some instant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// To the activation, from the process of this number.
    Tell(usize, u64, Told),
    Tick(usize, u64),
    Machine(usize, u64, Act),
    /// A claim arrives at the depot.
    Claim(usize, u64, suijuris_core::activation::Ask, Purpose),
    /// The end of a machine is written.
    Record(usize, u64, suijuris_core::activation::Ask),
    Attach(usize, u64, Run),
    Client(usize),
    Request(usize),
    Return(usize, u64, Proposal),
    Rival,
    Kill,
    Begin,
    Quiet,
    Stop,
}

/// One object: what its process has of it, and the truth.
pub(crate) struct Object {
    pub(crate) activation: Option<Activation>,
    pub(crate) watch: Watch,
    pub(crate) queue: Queue,
    armed: Option<Ns>,
    pub(crate) shore: Shore,
    pub(crate) disk: Disk,
    pub(crate) machines: Vec<Machine>,
    /// Who proposed, and when.
    pub(crate) clients: BTreeMap<ProposalId, Ns>,
    pub(crate) requests: BTreeMap<RequestId, Ns>,
    /// When its workload last failed before it served.
    pub(crate) failed: Option<Ns>,
}

/// A simulated world.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) plan: Plan,
    pub(crate) bug: Option<Bug>,
    pub(crate) terms: Terms,
    pub(crate) now: Ns,
    schedule: Schedule<Event>,
    pub(crate) objects: Vec<Object>,
    /// Number of the process that runs, and whether it does.
    pub(crate) process: u64,
    runs: bool,
    pub(crate) ids: u64,
    effects: u64,
    kill_before: Option<u64>,
    broken: Option<String>,
    trace: Option<Vec<String>>,
    pub(crate) tally: Tally,
}

/// What happened, so that a simulation in which nothing happens is noticed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) machines: u64,
    pub(crate) activations: u64,
    pub(crate) suspended: u64,
    pub(crate) taken: u64,
    pub(crate) refused: u64,
    pub(crate) again: u64,
    pub(crate) requests: u64,
    pub(crate) acknowledged: u64,
    pub(crate) crashes: u64,
    pub(crate) hung: u64,
    pub(crate) restarts: u64,
    pub(crate) attached: u64,
    pub(crate) lost: u64,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, trace: bool) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance);
        Self::of(chance, plan, bug, trace)
    }

    /// A short world whose process is killed before its effect of this number.
    pub(crate) fn calm(seed: u64, kill_before: u64) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance).calm();
        let mut world = Self::of(chance, plan, None, false);
        world.kill_before = Some(kill_before);
        world
    }

    fn of(chance: Chance, plan: Plan, bug: Option<Bug>, trace: bool) -> Self {
        let mut terms = Terms::DEFAULT;
        if bug == Some(Bug::NoPause) {
            (terms.pace.first, terms.pace.cap) = (Duration::from_millis(1), Duration::from_millis(1));
        }
        let objects = (0..plan.objects).map(|_| Object::founded()).collect();
        let mut world = Self {
            chance,
            plan,
            bug,
            terms,
            now: SECOND,
            schedule: Schedule::new(),
            objects,
            process: 0,
            runs: false,
            ids: 0,
            effects: 0,
            kill_before: None,
            broken: None,
            trace: trace.then(Vec::new),
            tally: Tally::default(),
        };
        world.say(|world| format!("{:?}", world.plan));
        world.after(0, Event::Begin);
        for at in 0..world.plan.objects {
            let (client, request) = (world.delay(0, 5_000), world.delay(0, 20_000));
            world.after(client, Event::Client(at));
            world.after(request, Event::Request(at));
        }
        for _ in 0..world.plan.rivals {
            let at = world.chance.within(0, world.plan.faults_end);
            world.after(at, Event::Rival);
        }
        if world.plan.kills_every > 0 {
            world.after(world.plan.kills_every, Event::Kill);
        }
        world.after(world.plan.quiet, Event::Quiet);
        world.after(world.plan.stop, Event::Stop);
        world
    }

    /// Lives to the end, or to the first thing that must not be; what that is.
    pub(crate) fn live(&mut self) -> Option<String> {
        while let Some((at, event)) = self.schedule.next(self.plan.end) {
            self.now = at;
            self.tally.events += 1;
            self.happen(event);
            if self.broken.is_some() {
                return self.broken.take();
            }
        }
        self.all_are_over();
        self.broken.take()
    }

    pub(crate) fn told(self) -> Vec<String> {
        self.trace.unwrap_or_default()
    }

    pub(crate) fn say(&mut self, words: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>10.3} s  {}", self.now as f64 / 1e9, words(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    pub(crate) fn break_by(&mut self, why: String) {
        self.say(|_| format!("BROKEN: {why}"));
        self.broken.get_or_insert(why);
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.now < self.plan.faults_end
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.now >= self.plan.quiet
    }

    pub(crate) fn faulty(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.is_faulty() && self.chance.happens(per_mille)
    }

    pub(crate) fn delay(&mut self, from_ms: u64, to_ms: u64) -> Ns {
        self.chance.within(from_ms * MS, to_ms * MS)
    }

    pub(crate) fn after(&mut self, delay: Ns, event: Event) {
        self.schedule.plan(self.now + delay, event);
    }

    /// Tells the activation soon, if its process still runs then.
    pub(crate) fn told_soon(&mut self, at: usize, told: Told) {
        let delay = self.chance.within(0, MS);
        self.after(delay, Event::Tell(at, self.process, told));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tell(at, process, told) if self.is_running(process) => self.tell(at, told),
            Event::Tick(at, process) if self.is_running(process) => self.tick(at),
            Event::Return(at, process, proposal) if self.is_running(process) => self.returns(at, proposal),
            Event::Attach(at, process, run) if self.is_running(process) => self.attach(at, run),
            Event::Machine(at, id, act) => self.act(at, id, act),
            Event::Claim(at, process, ask, purpose) => self.claim_arrives(at, process, ask, purpose),
            Event::Record(at, process, ask) => self.record(at, process, ask),
            Event::Client(at) => self.client(at),
            Event::Request(at) => self.request(at),
            Event::Rival => self.rival(),
            Event::Kill => self.kill_now_and_then(),
            Event::Begin => self.begin(),
            Event::Quiet => self.wake_all(),
            Event::Stop => self.stop_all(),
            Event::Tell(..) | Event::Tick(..) | Event::Return(..) | Event::Attach(..) => {}
        }
    }

    pub(crate) fn is_running(&self, process: u64) -> bool {
        self.runs && process == self.process
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            now: Mono(self.now),
            terms: &self.terms,
        }
    }

    /// Tells an activation, and does what it wants.
    pub(crate) fn tell(&mut self, at: usize, told: Told) {
        let told = self.misread(at, told);
        let Some(activation) = self.objects[at].activation.take() else {
            return;
        };
        self.say(|_| format!("{at} <- {told:?} ({})", activation.phase().as_str()));
        if !self.objects[at].watch.event(told) {
            self.break_by(format!("{at}: {told:?} is told twice"));
        }
        if let Told::Heard(_, suijuris_core::activation::Word::Taken(id)) = told {
            self.objects[at].clients.remove(&id);
        }
        let (activation, effects) = activation.on(told, self.facts());
        self.take(at, activation, &effects);
    }

    /// The bug that believes what is about an earlier machine.
    fn misread(&self, at: usize, told: Told) -> Told {
        let now = self.objects[at].activation.as_ref().and_then(Activation::machine);
        match (self.bug, told, now) {
            (Some(Bug::StaleBelieved), Told::Exited(run), Some(now)) if run != now => Told::Exited(now),
            _ => told,
        }
    }

    fn take(&mut self, at: usize, activation: Activation, effects: &[Effect]) {
        let object = &mut self.objects[at];
        let careless = matches!(
            self.bug,
            Some(Bug::HastyHandOver | Bug::StaleBelieved | Bug::EarlyExit | Bug::NoPause)
        );
        let checked = object.watch.effects(&activation, effects, &self.terms);
        object.activation = Some(activation);
        if let (Err(why), false) = (checked, careless) {
            self.break_by(format!("{at}: {why}"));
        }
        for effect in effects {
            self.effects += 1;
            if self.kill_before == Some(self.effects) {
                return self.kill();
            }
            self.perform(at, *effect);
        }
        self.arm(at);
        self.requests_due(at);
    }

    /// One alarm for each activation, at the earliest deadline of it and its queue.
    fn arm(&mut self, at: usize) {
        let object = &mut self.objects[at];
        let own = object.activation.as_ref().and_then(Activation::deadline);
        let due = own.into_iter().chain(object.queue.deadline()).min();
        let Some(due) = due.map(|due| due.0.max(self.now)) else {
            return;
        };
        if object.armed.is_none_or(|armed| due < armed) && self.bug != Some(Bug::NoTicks) {
            object.armed = Some(due);
            self.after(due - self.now, Event::Tick(at, self.process));
        }
    }

    fn tick(&mut self, at: usize) {
        if self.objects[at].armed.is_none_or(|armed| armed > self.now) {
            return;
        }
        self.objects[at].armed = None;
        let activation = self.objects[at].activation.as_ref();
        let due = activation.and_then(Activation::deadline);
        if due.is_some_and(|due| due.0 <= self.now) {
            self.tell(at, Told::Tick);
        }
        self.requests_due(at);
        self.arm(at);
    }

    fn kill_now_and_then(&mut self) {
        if self.is_faulty() {
            let every = self.plan.kills_every;
            let delay = self.chance.within(every / 4, every * 2);
            self.after(delay, Event::Kill);
            if self.runs {
                self.kill();
            }
        }
    }

    /// The process ends at once. Its machines run on; who waited in it has lost its connection.
    fn kill(&mut self) {
        self.say(|_| "the process is killed".to_owned());
        self.runs = false;
        for object in &mut self.objects {
            object.activation = None;
            object.watch = Watch::default();
            object.queue = Queue::default();
            object.armed = None;
            object.clients.clear();
            object.requests.clear();
            if object.disk.lock == Lock::Process {
                object.disk.lock = Lock::Free;
            }
            for machine in &mut object.machines {
                machine.run = None;
            }
        }
        let delay = self.delay(10, 3_000);
        self.after(delay, Event::Begin);
    }

    /// A process begins, and looks for what there is.
    fn begin(&mut self) {
        self.process += 1;
        self.runs = true;
        self.tally.restarts += u64::from(self.process > 1);
        self.say(|world| format!("process {} begins", world.process));
        for at in 0..self.plan.objects {
            let object = &mut self.objects[at];
            // The account lives as long as the process.
            object.failed = None;
            let found = match (object.machines.is_empty(), self.bug) {
                (false, Some(Bug::NobodyLooks)) => Found::Untaken,
                (false, _) => Found::Machine,
                (true, _) if object.disk.open => Found::Untaken,
                (true, _) => Found::AtRest,
            };
            if found == Found::AtRest {
                object.disk.lock = Lock::Process;
            }
            let (activation, effects) = Activation::new(found, self.facts());
            self.take(at, activation, &effects);
            if !self.runs {
                return;
            }
            if self.has_rival(at) {
                self.after(
                    SECOND,
                    Event::Tell(
                        at,
                        self.process,
                        Told::Lost(suijuris_core::activation::Loss::Twin),
                    ),
                );
            }
        }
    }

    pub(crate) fn has_rival(&self, at: usize) -> bool {
        let mark = self.objects[at].shore.mark();
        mark.and_then(|mark| mark.holder.as_ref())
            .is_some_and(|holder| holder.id != HolderId([0; 16]))
    }

    /// Another copy, elsewhere, takes an object whose host stood still for too long.
    fn rival(&mut self) {
        let at = self.chance.below(self.objects.len());
        if self.has_rival(at) {
            return;
        }
        self.say(|_| format!("{at} is taken by another copy"));
        let epoch = self.objects[at].shore.mark().map_or(0, |mark| mark.epoch);
        let version = self.objects[at].shore.read().map(|(_, version)| version);
        let _ = self.objects[at].shore.swap(&mark(epoch + 1, [1; 16]), version);
        let delay = self.delay(0, 2_000);
        self.after(
            delay,
            Event::Tell(
                at,
                self.process,
                Told::Lost(suijuris_core::activation::Loss::Twin),
            ),
        );
    }

    /// Long after the last fault an owner wakes each object.
    fn wake_all(&mut self) {
        for at in 0..self.plan.objects {
            self.nobody_waits_for_ever(at);
            self.propose(at, By::Owner);
        }
    }

    /// By now each has answered; and the host stops all.
    fn stop_all(&mut self) {
        for at in 0..self.plan.objects {
            self.nobody_waits_for_ever(at);
            let waits = self.objects[at].clients.len();
            if waits > 0 {
                self.break_by(format!(
                    "{at}: an owner was not answered: {:?}",
                    self.objects[at].activation
                ));
            }
            self.tell(at, Told::Stop(Stop::Graceful(Duration::from_secs(20))));
        }
    }

    fn nobody_waits_for_ever(&mut self, at: usize) {
        let object = &self.objects[at];
        let since = object.clients.values().chain(object.requests.values()).min();
        if since.is_some_and(|since| since + PATIENCE < self.now) {
            let state = format!("{:?}", object.activation);
            self.break_by(format!("{at}: somebody waits since {since:?}: {state}"));
        }
    }

    fn all_are_over(&mut self) {
        for at in 0..self.plan.objects {
            let object = &self.objects[at];
            let is_over = object.activation.as_ref().is_some_and(Activation::is_over);
            let left = object.clients.len() + object.requests.len() + object.machines.len();
            if !is_over || left > 0 {
                let state = format!("{:?}, {:?}", object.activation, object.machines);
                self.break_by(format!("{at}: at the end {left} are left: {state}"));
            }
        }
    }

    pub(crate) fn phase(&self, at: usize) -> Option<Phase> {
        self.objects[at].activation.as_ref().map(Activation::phase)
    }
}

impl Object {
    fn founded() -> Self {
        Self {
            activation: None,
            watch: Watch::default(),
            queue: Queue::default(),
            armed: None,
            shore: Shore::new(false),
            disk: Disk {
                epoch: 0,
                open: false,
                writes: 0,
                lock: Lock::Free,
            },
            machines: Vec::new(),
            clients: BTreeMap::new(),
            requests: BTreeMap::new(),
            failed: None,
        }
    }
}

/// A mark of this epoch, held under this name.
pub(crate) fn mark(epoch: u64, name: [u8; 16]) -> Mark {
    let head = RecordId::of(b"inception");
    Mark {
        v: suijuris_core::witness::VERSION,
        object: ObjectId::from(head),
        epoch,
        seq: epoch,
        head,
        holder: Some(suijuris_core::witness::Holder {
            id: HolderId(name),
            who: String::new(),
            lease: suijuris_core::time::Span(0),
            at: suijuris_core::time::Timestamp(0),
            beat: 0,
        }),
    }
}
