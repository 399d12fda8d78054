//! The world that copies live in: true time, the network, and what must hold at each instant.
//!
//! One event after the other, in the order of true time. After each: no two copies may serve. Whenever a copy is accepted
//! or serves, its history must hold everything that was witnessed and, with a required witness, everything that was
//! acknowledged. At the end, long after the last fault, exactly one copy serves, if any disk holds the witnessed head.

use std::time::Duration;

use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::manifest::Witness;
use suijuris_core::witness::{
    Ask, Effect, Failure, HolderId, Input, Keeper, LeaseStatus, Mark, Notice, Purpose, Swapped, Written,
};

use super::bugs::Bug;
use super::chance::{Chance, MS, Ns, Plan, Presence};
use super::machine::{Disk, Life, Machine, Pause, Process, Writing};
use super::schedule::Schedule;
use super::shore::Shore;

/// What happens at some instant.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Fault,
    /// Somebody looks for machines where nothing runs, and starts it.
    Sweep,
    Arrives(Box<Letter>),
    Resume(usize, u64),
    To(usize, u64, What),
}

/// What happens to a process.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Alarm(u64),
    Answer(Box<Input<u64>>),
    Hear(u64, Box<Notice>),
    Durable,
    Act,
}

/// A question on its way to the depot.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    from: (usize, u64),
    ask: Ask,
    question: Question,
    /// How long the answer takes; `None`: it is lost.
    back: Option<Ns>,
}

#[derive(Debug, Clone)]
enum Question {
    Read,
    Swap(Box<Mark>, Option<u64>),
    Look(HolderId),
}

/// A simulated world.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) plan: Plan,
    pub(crate) bug: Option<Bug>,
    pub(crate) now: Ns,
    schedule: Schedule<Event>,
    pub(crate) shore: Shore,
    pub(crate) machines: Vec<Machine>,
    pub(crate) shelf: Vec<Disk>,
    runs: u64,
    /// Effects performed so far, and before which one the process crashes in any case.
    pub(crate) effects: u64,
    pub(crate) crash_before: Option<u64>,
    acknowledged: Vec<(u64, RecordId)>,
    pub(crate) broken: Option<String>,
    trace: Option<Vec<String>>,
    pub(crate) tally: Tally,
}

/// What happened, so that a simulation in which nothing happens is noticed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) wakes: u64,
    pub(crate) served: u64,
    pub(crate) acknowledged: u64,
    pub(crate) rolled_back: u64,
    pub(crate) diverged: u64,
    pub(crate) live: u64,
    pub(crate) missing: u64,
    pub(crate) lost: u64,
    pub(crate) over: u64,
    pub(crate) ended_awake: u64,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, trace: bool) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance);
        let mut shore = Shore::new(plan.by_content);
        shore.blind = bug == Some(Bug::BlindSwap);
        let mut machines: Vec<Machine> = (0..plan.copies)
            .map(|_| Machine::draw(&mut chance, Disk::created()))
            .collect();
        for machine in &mut machines {
            machine.by_wall = bug == Some(Bug::WallClock);
        }
        let mut world = Self {
            chance,
            plan,
            bug,
            now: 0,
            schedule: Schedule::new(),
            shore,
            machines,
            shelf: Vec::new(),
            runs: 0,
            effects: 0,
            crash_before: None,
            acknowledged: Vec::new(),
            broken: None,
            trace: trace.then(Vec::new),
            tally: Tally::default(),
        };
        world.say(|world| format!("{:?}", world.plan));
        world.after(0, Event::Sweep);
        world.after(world.plan.fault_every, Event::Fault);
        world
    }

    /// Lives to the end, or to the first thing that must not be; what that is.
    pub(crate) fn live(&mut self) -> Option<String> {
        while let Some((at, event)) = self.schedule.next(self.plan.end) {
            self.now = at;
            self.tally.events += 1;
            self.happen(event);
            self.nobody_serves_twice();
            if self.broken.is_some() {
                return self.broken.take();
            }
        }
        self.somebody_serves();
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

    fn faulty(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.is_faulty() && self.chance.happens(per_mille)
    }

    pub(crate) fn after(&mut self, delay: Ns, event: Event) {
        self.schedule.plan(self.now + delay, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault => self.fault(),
            Event::Sweep => self.sweep(),
            Event::Arrives(letter) => self.arrives(&letter),
            Event::Resume(at, run) => self.resume(at, run),
            Event::To(at, run, what) => {
                let Some(process) = self.machines[at].run(run) else {
                    return;
                };
                if process.pause.is_some() {
                    process.deferred.push(Event::To(at, run, what));
                    return;
                }
                match what {
                    What::Alarm(alarm) if process.alarm == alarm => self.tell(at, Input::Tick),
                    What::Alarm(_) => {}
                    What::Answer(input) => self.tell(at, *input),
                    What::Hear(hearing, notice) if process.hearing == hearing => self.hear(at, *notice),
                    What::Hear(..) => {}
                    What::Durable => self.durable(at),
                    What::Act => self.act(at, run),
                }
            }
        }
    }

    /// Tells the keeper of a machine, and does what it wants.
    pub(crate) fn tell(&mut self, at: usize, mut input: Input<u64>) {
        if let Some(bug) = self.bug {
            bug.misread(&mut input, &self.machines[at]);
        }
        self.say(|_| format!("{at} <- {input:?}"));
        let moment = self.machines[at].moment(self.now);
        let answered = match (&input, self.bug) {
            (Input::Swapped(_, Ok(Swapped::Done(_))), Some(Bug::LeaseFromAnswer)) => true,
            (Input::Swapped(_, Ok(Swapped::Conflict(_))), bug) => bug == Some(Bug::LeaseFromRecognition),
            _ => false,
        };
        let Some(mut process) = self.machines[at].process.take() else {
            return;
        };
        if process.life == Life::Awake && matches!(input, Input::Swapped(_, Ok(_))) {
            process.deluded = false;
        }
        let (keeper, effects) = process.keeper.on(moment, input);
        process.keeper = keeper;
        if answered {
            process.believed_until = Some(moment.mono.0 + self.plan.serves());
        } else if self.bug == Some(Bug::LeaseFromRecognition) {
            // Whatever else renews the lease does it as it should.
            let until = process.keeper.good_until().map(|until| until.0);
            process.believed_until = process
                .believed_until
                .filter(|believed| until.is_some_and(|until| until < *believed));
        }
        let run = process.run;
        self.machines[at].process = Some(process);
        for effect in effects {
            self.effects += 1;
            if self.crash_before == Some(self.effects) || self.faulty(self.plan.crashes_at_effects) {
                return self.kill(at, "crashes");
            }
            if self.machines[at].run(run).is_none() {
                return;
            }
            self.perform(at, run, effect);
            if self.faulty(self.plan.pauses_at_effects) {
                self.pause_long(at);
            }
        }
        self.set_alarm(at, run);
    }

    fn set_alarm(&mut self, at: usize, run: u64) {
        let mono = self.machines[at].mono(self.now);
        // No two machines do the same at the same nanosecond of their clocks.
        let late = self.chance.within(MS / 100, MS / 10);
        let Some(process) = self.machines[at].run(run) else {
            return;
        };
        process.alarm += 1;
        let alarm = process.alarm;
        if let Some(until) = process.keeper.wait_until() {
            let length = until.0.saturating_sub(mono);
            let delay = self.machines[at].truly(length) + late;
            self.after(delay, Event::To(at, run, What::Alarm(alarm)));
        }
    }

    fn perform(&mut self, at: usize, run: u64, effect: Effect<u64>) {
        let (ask, question, within) = match effect {
            Effect::Read(ask, within) => (ask, Question::Read, within),
            Effect::Swap(ask, mark, expected, within) => {
                self.believe_in_asking(at);
                if let Some(process) = &mut self.machines[at].process {
                    process.written.note(&mark);
                }
                (ask, Question::Swap(mark, expected), within)
            }
            Effect::Look(ask, holder, within) => (ask, Question::Look(holder), within),
            Effect::Find(ask, seq, record) => {
                let found = self.machines[at].disk.holds(seq, &record);
                let delay = self.chance.within(0, 5) * MS;
                let answer = What::Answer(Box::new(Input::Found(ask, found)));
                return self.after(delay, Event::To(at, run, answer));
            }
            Effect::Recall(ask, mark, _) => {
                let ours = self.recalls(at, &mark);
                let delay = self.chance.within(0, 5) * MS;
                let answer = What::Answer(Box::new(Input::Recalled(ask, ours)));
                return self.after(delay, Event::To(at, run, answer));
            }
            Effect::Say(notice) => return self.said(at, run, notice),
        };
        self.post(at, run, ask, question, within);
    }

    fn recalls(&self, at: usize, mark: &Mark) -> bool {
        let Some(process) = &self.machines[at].process else {
            return false;
        };
        let named = mark.holder.as_ref().map(|holder| holder.id) == Some(process.keeper.id());
        process.written.has(mark) || named && self.bug == Some(Bug::ByName)
    }

    /// The known bug that takes a question for its answer.
    fn believe_in_asking(&mut self, at: usize) {
        let until = self.machines[at].mono(self.now) + self.plan.serves();
        if let Some(process) = &mut self.machines[at].process
            && self.bug == Some(Bug::LeaseFromAsking)
            && process.keeper.good_until().is_some()
        {
            process.believed_until = Some(until);
        }
    }

    /// Sends a question, and lets happen to it what happens in this world.
    fn post(&mut self, at: usize, run: u64, ask: Ask, question: Question, within: Duration) {
        let failed = |failure| match &question {
            Question::Read => Input::Read(ask, Err(failure)),
            Question::Swap(..) => Input::Swapped(ask, Err(failure)),
            Question::Look(_) => Input::Looked(ask, None),
        };
        let (unknown, denied) = (failed(Failure::Unknown), failed(Failure::Denied));
        let within = u64::try_from(within.as_nanos()).unwrap_or(Ns::MAX);
        let within = self.machines[at].truly(within);
        let answer = |input| Event::To(at, run, What::Answer(Box::new(input)));
        self.after(within, answer(unknown.clone()));
        if self.now < self.machines[at].cut_until || self.faulty(self.plan.lost_requests) {
            return;
        }
        let there = self.delay();
        if self.faulty(self.plan.denies) {
            return self.after(there, answer(denied));
        }
        let mut back = (!self.faulty(self.plan.lost_answers)).then(|| self.delay());
        if self.faulty(self.plan.lies) {
            self.after(MS, answer(unknown));
            back = None;
            if self.chance.happens(500) {
                return;
            }
        }
        let letter = Letter {
            from: (at, run),
            ask,
            question,
            back,
        };
        self.after(there, Event::Arrives(Box::new(letter)));
    }

    fn delay(&mut self) -> Ns {
        if self.faulty(self.plan.slow) {
            self.chance.within(0, self.plan.lease() * 3 / 2)
        } else {
            self.chance.within(MS / 10, 10 * MS)
        }
    }

    fn arrives(&mut self, letter: &Letter) {
        let (at, run) = letter.from;
        let ask = letter.ask;
        let input = match &letter.question {
            Question::Read => Input::Read(ask, Ok(self.shore.read())),
            Question::Swap(mark, expected) => {
                let swapped = self.shore.swap(mark, *expected);
                self.say(|world| format!("depot: {swapped:?} for {at}: now {:?}", world.shore.mark()));
                Input::Swapped(ask, Ok(swapped))
            }
            Question::Look(holder) => Input::Looked(ask, self.presence(holder)),
        };
        let Some(back) = letter.back else { return };
        let machine = &self.machines[at];
        if self.now >= machine.cut_until.max(machine.deaf_until) {
            self.after(back, Event::To(at, run, What::Answer(Box::new(input))));
        }
    }

    fn presence(&self, holder: &HolderId) -> Option<bool> {
        let late = match self.plan.presence {
            _ if self.bug == Some(Bug::EverybodyGone) => return Some(false),
            Presence::Unknown => return None,
            Presence::True => 0,
            Presence::Late(late) => late,
        };
        let here = self.machines.iter().any(|machine| {
            let runs = machine
                .process
                .as_ref()
                .is_some_and(|process| process.keeper.id() == *holder);
            let went = |(id, at): &([u8; 16], Ns)| *id == holder.0 && self.now < at + late;
            runs || machine.gone.iter().any(went)
        });
        Some(here)
    }

    /// A notice is checked at once and heard a little later: the object lives on another thread.
    fn said(&mut self, at: usize, run: u64, notice: Notice) {
        use suijuris_core::witness::Verdict;
        self.say(|_| format!("{at} says {notice:?}"));
        let Some(process) = &mut self.machines[at].process else {
            return;
        };
        let was_without = process.keeper.lease_status() == LeaseStatus::Without;
        let agrees = matches!(notice, Notice::Verdict(Verdict::Agrees(_)));
        process.deluded &= !(agrees && process.life == Life::Asking { wake: true });
        let deluded = process.deluded;
        let accepted = agrees || notice == Notice::Renewed && !was_without;
        if accepted && !deluded {
            self.is_newest(at, "was accepted");
        }
        if matches!(notice, Notice::Lost(_)) && self.is_holder(at) {
            self.break_by(format!("{at} believes to have lost what it holds"));
        }
        let delay = self.chance.within(0, 2 * MS);
        if let Some(process) = self.machines[at].run(run) {
            let hear = What::Hear(process.hearing, Box::new(notice));
            self.after(delay, Event::To(at, run, hear));
        }
    }

    fn is_holder(&self, at: usize) -> bool {
        let held = self.shore.mark().filter(|mark| mark.holder.is_some());
        // Versions that are digests repeat: a late write of whoever gives up may take effect on a mark without holder.
        let process = self.machines[at].process.as_ref();
        let process = process.filter(|process| process.life != Life::Leaving);
        held.is_some_and(|mark| process.is_some_and(|process| process.written.has(mark)))
    }

    fn nobody_serves_twice(&mut self) {
        let now = self.now;
        let serving = |machine: &Machine| machine.serves_witnessed(now);
        if self.machines.iter().filter(|machine| serving(machine)).count() > 1 {
            let who: Vec<usize> = (0..self.machines.len())
                .filter(|at| serving(&self.machines[*at]))
                .collect();
            self.break_by(format!("{who:?} serve at once"));
        }
    }

    /// Whether the copy holds everything that an accepted copy has to hold.
    pub(crate) fn is_newest(&mut self, at: usize, what: &str) {
        let disk = &self.machines[at].disk;
        let lacks = |(seq, record): &&(u64, RecordId)| !disk.holds(*seq, record);
        let witnessed = self.shore.witnessed().iter().find(lacks).copied();
        let acknowledged = self.acknowledged.iter().find(lacks).copied();
        if let Some((seq, _)) = witnessed {
            self.break_by(format!(
                "{at} {what}, and lacks record {seq}, which was witnessed"
            ));
        }
        if let Some((seq, _)) = acknowledged {
            self.break_by(format!(
                "{at} {what}, and lacks record {seq}, which was acknowledged"
            ));
        }
    }

    /// A write is acknowledged for good.
    pub(crate) fn acknowledge(&mut self, at: usize, seq: u64) {
        let record = self.machines[at].disk.record(seq);
        self.acknowledged.push((seq, record));
        self.tally.acknowledged += 1;
    }

    fn somebody_serves(&mut self) {
        let now = self.now;
        let serving: Vec<usize> = (0..self.machines.len())
            .filter(|at| self.machines[*at].serves_witnessed(now))
            .collect();
        let newest = self.holds_head(self.machines.iter().map(|machine| &machine.disk));
        match (&serving[..], newest) {
            ([at], true) => {
                self.tally.ended_awake += 1;
                self.is_newest(*at, "serves at the end");
            }
            ([], false) => {}
            (serving, true) => self.break_by(format!("at the end {serving:?} serve, and one could")),
            (serving, false) => self.break_by(format!("at the end {serving:?} serve, and none could")),
        }
    }

    pub(crate) fn holds_head<'a>(&self, mut disks: impl Iterator<Item = &'a Disk>) -> bool {
        match self.shore.mark() {
            None => true,
            Some(mark) => disks.any(|disk| disk.holds(mark.seq, &mark.head)),
        }
    }

    /// Starts what does not run, on the disk that is there.
    fn sweep(&mut self) {
        self.after(self.plan.lease() / 2, Event::Sweep);
        if !self.is_faulty() && !self.holds_head(self.machines.iter().map(|machine| &machine.disk)) {
            self.bring_newest();
        }
        for at in 0..self.machines.len() {
            if self.is_faulty() && self.machines[at].disk.quarantined && self.chance.happens(500) {
                // People try again, with a copy of whatever they find.
                self.copy_disk(at);
            }
            let machine = &self.machines[at];
            let idle = machine.process.is_none() && !machine.disk.quarantined;
            if idle && (!self.is_faulty() || self.chance.happens(400)) {
                self.start(at);
            }
        }
    }

    /// After the faults, people look for the newest copy.
    fn bring_newest(&mut self) {
        let Some(mark) = self.shore.mark() else { return };
        let found = self
            .shelf
            .iter()
            .position(|disk| disk.holds(mark.seq, &mark.head));
        let place = self.machines.iter().position(|machine| machine.process.is_none());
        if let (Some(found), Some(at)) = (found, place) {
            self.say(|_| format!("{at} gets the newest copy"));
            std::mem::swap(&mut self.machines[at].disk, &mut self.shelf[found]);
        }
    }

    pub(crate) fn start(&mut self, at: usize) {
        self.runs += 1;
        let name = HolderId(self.chance.name());
        let wake = !self.is_faulty() || self.chance.happens(700);
        let machine = &mut self.machines[at];
        let keeper = Keeper::new(
            object(),
            name,
            "a machine",
            self.plan.terms(),
            machine.disk.newest(),
        );
        machine.process = Some(Process {
            keeper,
            written: Written::default(),
            run: self.runs,
            life: Life::Asking { wake },
            pause: None,
            deferred: Vec::new(),
            unacknowledged: Vec::new(),
            writing: None,
            hearing: 0,
            alarm: 0,
            deluded: false,
            believed_until: (self.bug == Some(Bug::NoLease)).then_some(Ns::MAX),
        });
        self.say(|world| {
            format!(
                "{at} starts as {name} at {}",
                world.machines[at].disk.newest().seq
            )
        });
        let run = self.runs;
        self.after(self.plan.lease() / 5, Event::To(at, run, What::Act));
        self.tell(at, Input::Claim(purpose(wake)));
    }

    /// Another run of the same process: a copy of its memory.
    pub(crate) fn next_run(&mut self) -> u64 {
        self.runs += 1;
        self.runs
    }

    /// The process ends now. What was on its way to the disk got there or did not.
    pub(crate) fn kill(&mut self, at: usize, how: &str) {
        let Some(process) = self.machines[at].process.take() else {
            return;
        };
        self.say(|_| format!("{at} {how}"));
        self.machines[at].gone.push((process.keeper.id().0, self.now));
        if let Some((writing, nonce)) = process.writing
            && self.chance.happens(500)
        {
            self.machines[at].disk.append(writing == Writing::Begin, nonce);
        }
    }

    /// What the process of run `old` waits for, the run `run` at `to` waits for as well, `delay` later.
    pub(crate) fn repeat(&mut self, old: u64, to: usize, run: u64, delay: Ns) {
        let waiting: Vec<(Ns, What)> = self
            .schedule
            .planned()
            .filter_map(|(at, event)| match event {
                Event::To(_, found, what) if *found == old => Some((at, what.clone())),
                _ => None,
            })
            .collect();
        for (at, what) in waiting {
            let late = self.chance.within(MS / 100, MS / 10);
            self.after(at - self.now + delay + late, Event::To(to, run, what));
        }
    }

    /// The process goes on: with a fresh name, if it noticed and a copy may run on under the old one.
    fn resume(&mut self, at: usize, run: u64) {
        let name = HolderId(self.chance.name());
        let remembers = self.bug == Some(Bug::NoForgetting);
        let now = self.now;
        let machine = &mut self.machines[at];
        let Some(process) = machine.run(run) else { return };
        let Some(Pause { noticed, announced }) = process.pause.take() else {
            return;
        };
        let deferred = std::mem::take(&mut process.deferred);
        if noticed {
            let old = process.keeper.id();
            let name = if announced { old } else { name };
            if !announced && !remembers {
                process.written.forget();
            }
            process.hearing += 1;
            process.unacknowledged.clear();
            process.believed_until = process.believed_until.filter(|until| *until == Ns::MAX);
            process.life = Life::Asking { wake: true };
            // What was on its way to the disk gets there before anything is asked.
            let written = process.writing.take();
            if !announced {
                machine.gone.push((old.0, now));
            }
            self.say(|_| format!("{at} resumes and notices; now {name}"));
            self.tell(at, Input::Resumed(name));
            if let Some((writing, nonce)) = written {
                let newest = self.machines[at].disk.append(writing == Writing::Begin, nonce);
                self.tell(at, Input::Note(newest));
            }
            self.tell(at, Input::Claim(Purpose::Wake));
        } else {
            self.say(|_| format!("{at} goes on and has not noticed"));
        }
        for event in deferred {
            self.happen(event);
        }
    }
}

pub(crate) fn purpose(wake: bool) -> Purpose {
    if wake { Purpose::Wake } else { Purpose::Rest }
}

/// The object of every world.
pub(crate) fn object() -> ObjectId {
    RecordId::of(b"inception").into()
}

/// Whether acknowledging waits for the mark.
pub(crate) fn waits(plan: &Plan) -> bool {
    plan.strength == Witness::Required
}
