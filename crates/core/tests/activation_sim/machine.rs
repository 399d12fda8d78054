//! The truth about one object: its disk, its mark, and the machines that really run, whatever its activation believes.

use suijuris_core::activation::{Attached, Leave, Run, Word};
use suijuris_core::activation::{Event as Told, ProposalId};

use super::bugs::Bug;
use super::chance::{MS, Ns};
use super::plan::SECOND;
use super::world::{Event, World};

/// Who has the store open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    Free,
    Process,
    Machine(u64),
}

/// What is on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) epoch: u64,
    /// An activation began and has not ended.
    pub(crate) open: bool,
    pub(crate) writes: u64,
    pub(crate) lock: Lock,
}

/// What a machine is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Booting,
    /// Its runtime waits for the claim's result.
    Waiting,
    Deciding,
    Awake,
    Draining,
    /// Dormant, and it wants to be suspended.
    Dormant,
    Suspended,
    Leaving,
}

/// A machine that runs.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) id: u64,
    /// What the process that is there now calls it.
    pub(crate) run: Option<Run>,
    pub(crate) life: Life,
    pub(crate) hung: bool,
    pub(crate) ends: bool,
    /// Writes that it found and made.
    view: u64,
}

/// What happens to a machine by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Boot,
    Decide,
    Serve,
    Live,
    Drained,
    Take(ProposalId),
    Exit,
}

impl World {
    /// A machine is made; it boots, or hangs.
    pub(crate) fn make_machine(&mut self, at: usize, run: Run) {
        self.ids += 1;
        let id = self.ids;
        let hung = self.faulty(self.plan.hangs);
        self.tally.machines += 1;
        self.objects[at].machines.push(Machine {
            id,
            run: Some(run),
            life: Life::Booting,
            hung,
            ends: false,
            view: 0,
        });
        let delay = self.delay(5, 50);
        self.after(delay, Event::Machine(at, id, Act::Boot));
        let count = self.objects[at].machines.len();
        if count > 1 {
            self.break_by(format!("{at} has {count} machines"));
        }
    }

    pub(crate) fn machine(&mut self, at: usize, id: u64) -> Option<&mut Machine> {
        let mut machines = self.objects[at].machines.iter_mut();
        machines.find(|machine| machine.id == id && !machine.ends)
    }

    /// The machine that the process calls so.
    pub(crate) fn called(&mut self, at: usize, run: Run) -> Option<&mut Machine> {
        let mut machines = self.objects[at].machines.iter_mut();
        machines.find(|machine| machine.run == Some(run) && !machine.ends)
    }

    /// A machine says something to the process, if that knows it.
    pub(crate) fn word(&mut self, at: usize, id: u64, word: Word) {
        let Some(run) = self.machine(at, id).and_then(|machine| machine.run) else {
            return;
        };
        self.told_soon(at, Told::Heard(run, word));
    }

    /// The machine will have ended soon.
    pub(crate) fn end_machine(&mut self, at: usize, id: u64, delay: Ns) {
        if let Some(machine) = self.machine(at, id) {
            machine.ends = true;
            self.after(delay, Event::Machine(at, id, Act::Exit));
        }
    }

    pub(crate) fn act(&mut self, at: usize, id: u64, act: Act) {
        if act == Act::Exit {
            return self.exit(at, id);
        }
        let Some(machine) = self.machine(at, id) else {
            return;
        };
        if machine.hung {
            return;
        }
        match act {
            Act::Boot => self.boot(at, id),
            Act::Decide => self.decide(at, id),
            Act::Serve => self.serve(at, id),
            Act::Live => self.go_on(at, id),
            Act::Drained => self.drained(at, id),
            Act::Take(proposal) => {
                if machine.life == Life::Awake {
                    self.tally.taken += 1;
                    self.word(at, id, Word::Taken(proposal));
                }
            }
            Act::Exit => {}
        }
    }

    fn exit(&mut self, at: usize, id: u64) {
        let object = &mut self.objects[at];
        let Some(place) = object.machines.iter().position(|machine| machine.id == id) else {
            return;
        };
        let machine = object.machines.remove(place);
        if object.disk.lock == Lock::Machine(id) {
            object.disk.lock = Lock::Free;
        }
        self.say(|_| format!("{at}: machine {id} has ended"));
        if let Some(run) = machine.run {
            self.told_soon(at, Told::Exited(run));
            if self.faulty(self.plan.repeats) || self.bug == Some(Bug::StaleBelieved) {
                let late = self.delay(1, 20_000);
                let life = self.process;
                self.after(late, Event::Tell(at, life, Told::Exited(run)));
            }
        }
    }

    fn boot(&mut self, at: usize, id: u64) {
        if self.faulty(self.plan.dies) {
            return self.end_machine(at, id, MS);
        }
        let object = &mut self.objects[at];
        match object.disk.lock {
            Lock::Free => object.disk.lock = Lock::Machine(id),
            lock => return self.break_by(format!("{at}: machine {id} boots while {lock:?} has the store")),
        }
        let writes = object.disk.writes;
        let Some(machine) = self.machine(at, id) else {
            return;
        };
        (machine.life, machine.view) = (Life::Waiting, writes);
        let run = machine.run;
        if let Some(run) = run {
            self.told_soon(at, Told::Started(run));
            if self.bug == Some(Bug::HastyHandOver) {
                self.hand_over(at, run);
            }
        }
    }

    pub(crate) fn hand_over(&mut self, at: usize, run: Run) {
        let Some(machine) = self.called(at, run) else {
            return;
        };
        if machine.life == Life::Waiting {
            machine.life = Life::Deciding;
            let id = machine.id;
            let delay = self.delay(1, 20);
            self.after(delay, Event::Machine(at, id, Act::Decide));
        }
    }

    fn decide(&mut self, at: usize, id: u64) {
        if self.has_rival(at) {
            // Its mark is never covered: nothing is served, and it leaves.
            return self.end_machine(at, id, SECOND);
        }
        if self.faulty(self.plan.refuses) {
            let after = self
                .chance
                .happens(500)
                .then(|| std::time::Duration::from_secs(20));
            self.word(at, id, Word::Refused(after));
            return self.end_machine(at, id, 500 * MS);
        }
        let object = &mut self.objects[at];
        let claimed = object.shore.mark().map_or(0, |mark| mark.epoch);
        let (open, epoch) = (object.disk.open, object.disk.epoch + 1);
        (object.disk.open, object.disk.epoch) = (true, epoch);
        if open {
            return self.break_by(format!("{at}: epoch {epoch} begins within another"));
        }
        if claimed < epoch {
            return self.break_by(format!("{at}: epoch {epoch} begins, claimed is {claimed}"));
        }
        self.tally.activations += 1;
        if let Some(machine) = self.machine(at, id) {
            machine.life = Life::Awake;
        }
        self.word(at, id, Word::Woke);
        let delay = self.delay(1, 200);
        self.after(delay, Event::Machine(at, id, Act::Serve));
    }

    fn serve(&mut self, at: usize, id: u64) {
        if self
            .machine(at, id)
            .is_none_or(|machine| machine.life != Life::Awake)
        {
            return;
        }
        if self.faulty(self.plan.workload_fails) {
            return self.leave(at, id, Leave::WorkloadFailed);
        }
        self.objects[at].failed = None;
        self.word(at, id, Word::Serving);
        self.go_on(at, id);
    }

    /// What an object that is awake does now and then.
    fn go_on(&mut self, at: usize, id: u64) {
        let Some(machine) = self.machine(at, id) else {
            return;
        };
        if machine.life != Life::Awake {
            return;
        }
        if self.has_rival(at) {
            return self.end_machine(at, id, SECOND);
        }
        self.word(at, id, Word::Heartbeat);
        self.write(at, id);
        if self.faulty(self.plan.hangs) {
            self.say(|_| format!("{at}: machine {id} hangs"));
            if let Some(machine) = self.machine(at, id) {
                machine.hung = true;
            }
        } else if self.faulty(self.plan.dies) {
            self.end_machine(at, id, MS);
        } else if self.chance.happens(250) {
            self.drain(at, id);
        } else {
            let delay = self.delay(500, 8_000);
            self.after(delay, Event::Machine(at, id, Act::Live));
        }
    }

    /// A write that is durable, and acknowledged at once.
    pub(crate) fn write(&mut self, at: usize, id: u64) {
        let writes = self.objects[at].disk.writes;
        let Some(machine) = self.machine(at, id) else {
            return;
        };
        let view = machine.view;
        machine.view += 1;
        if view != writes {
            return self.break_by(format!(
                "{at}: write {writes} is lost, machine {id} has seen {view}"
            ));
        }
        self.objects[at].disk.writes += 1;
        self.tally.acknowledged += 1;
    }

    pub(crate) fn drain(&mut self, at: usize, id: u64) {
        if let Some(machine) = self.machine(at, id)
            && machine.life == Life::Awake
        {
            machine.life = Life::Draining;
            self.word(at, id, Word::Draining);
            let delay = self.delay(1, 500);
            self.after(delay, Event::Machine(at, id, Act::Drained));
        }
    }

    fn drained(&mut self, at: usize, id: u64) {
        if self.faulty(self.plan.dies) {
            return self.end_machine(at, id, MS);
        }
        if self.chance.happens(self.plan.suspends) {
            self.objects[at].disk.open = false;
            if let Some(machine) = self.machine(at, id) {
                machine.life = Life::Dormant;
            }
            return self.word(at, id, Word::Suspend);
        }
        self.leave(at, id, Leave::Slept);
    }

    fn leave(&mut self, at: usize, id: u64, leave: Leave) {
        self.objects[at].disk.open = false;
        if leave == Leave::WorkloadFailed {
            self.objects[at].failed = Some(self.now);
        }
        if let Some(machine) = self.machine(at, id) {
            machine.life = Life::Leaving;
        }
        self.word(at, id, Word::Leaving(leave));
        let delay = if self.faulty(self.plan.hangs) {
            60 * SECOND
        } else {
            self.delay(1, 50)
        };
        self.end_machine_late(at, id, delay);
    }

    /// The machine ends by itself, and can be killed before.
    fn end_machine_late(&mut self, at: usize, id: u64, delay: Ns) {
        self.after(delay, Event::Machine(at, id, Act::Exit));
    }

    /// What a machine shows whoever attaches to it.
    pub(crate) fn shows(life: Life) -> Option<Attached> {
        match life {
            Life::Booting => None,
            Life::Waiting => Some(Attached::Waiting),
            Life::Deciding => Some(Attached::Waking),
            Life::Awake => Some(Attached::Serving),
            Life::Draining | Life::Leaving | Life::Dormant => Some(Attached::Draining),
            Life::Suspended => Some(Attached::Suspended),
        }
    }
}
