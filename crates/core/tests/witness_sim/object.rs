//! What the simulated object does: it wakes, serves, writes, sleeps and leaves by what its keeper says. The shells of the
//! runtime follow the same rules.

use suijuris_core::witness::{HolderId, Input, Keeper, Notice, Verdict};

use super::bugs::Bug;
use super::chance::MS;
use super::machine::{Life, Writing};
use super::world::{Event, What, World, object, purpose, waits};

impl World {
    /// The object hears of its keeper.
    pub(crate) fn hear(&mut self, at: usize, notice: Notice) {
        match notice {
            Notice::Verdict(verdict) => self.verdict(at, &verdict),
            Notice::Covered(seq) => self.covered(at, seq),
            Notice::Expired | Notice::Renewed => {}
            Notice::Over => {
                self.tally.over += 1;
                self.write(at, Writing::Sleep { over: true });
            }
            Notice::Lost(_) => {
                self.tally.lost += 1;
                self.kill(at, "has lost the object");
            }
            Notice::Released(_) => self.kill(at, "has given up the object"),
        }
    }

    fn verdict(&mut self, at: usize, verdict: &Verdict) {
        let Some(process) = &mut self.machines[at].process else {
            return;
        };
        let Life::Asking { wake } = process.life else {
            return;
        };
        match verdict {
            Verdict::Agrees(_) | Verdict::Absent if wake => {
                process.life = Life::Beginning;
                self.write(at, Writing::Begin);
            }
            Verdict::Agrees(_) | Verdict::Absent => process.life = Life::Resting,
            Verdict::Missing => {
                self.tally.missing += 1;
                self.kill(at, "has no witness");
            }
            Verdict::Live(_) => {
                self.tally.live += 1;
                self.kill(at, "gives way to a twin");
            }
            Verdict::Newer(_) => {
                self.tally.rolled_back += 1;
                self.quarantine(at);
            }
            Verdict::Diverged(_) => {
                self.tally.diverged += 1;
                self.quarantine(at);
            }
        }
    }

    fn quarantine(&mut self, at: usize) {
        let disks = std::iter::once(&self.machines[at].disk);
        if self.shore.mark().is_some() && self.holds_head(disks) {
            self.break_by(format!("{at} shuts itself away and is the newest"));
        }
        self.machines[at].disk.quarantined = true;
        self.kill(at, "shuts itself away");
    }

    fn covered(&mut self, at: usize, seq: u64) {
        let Some(process) = &mut self.machines[at].process else {
            return;
        };
        if process.life != Life::Leaving && matches!(process.life, Life::Covering(from) if from <= seq) {
            process.life = Life::Awake;
            self.tally.wakes += 1;
        }
        let process = self.machines[at].process.as_mut();
        let written = process.map(|process| std::mem::take(&mut process.unacknowledged));
        let (covered, rest): (Vec<u64>, Vec<u64>) = written
            .unwrap_or_default()
            .into_iter()
            .partition(|written| *written <= seq);
        for written in covered {
            self.acknowledge(at, written);
        }
        if let Some(process) = &mut self.machines[at].process {
            process.unacknowledged = rest;
        }
    }

    /// Puts a record on its way to the disk.
    fn write(&mut self, at: usize, writing: Writing) {
        let nonce = self.chance.next();
        let slow = self.is_faulty() && self.chance.happens(20);
        let most = if slow { self.plan.lease() } else { 10 * MS };
        let delay = self.chance.within(MS / 10, most);
        let Some(process) = &mut self.machines[at].process else {
            return;
        };
        if let Some((waiting, _)) = &mut process.writing {
            // What ends the activation replaces what was still on its way.
            if matches!(writing, Writing::Sleep { .. }) {
                *waiting = writing;
            }
            return;
        }
        process.writing = Some((writing, nonce));
        let run = process.run;
        self.after(delay, Event::To(at, run, What::Durable));
        if self.bug == Some(Bug::NotYetDurable) {
            let newest = self.machines[at]
                .disk
                .clone()
                .append(writing == Writing::Begin, nonce);
            self.tell(at, Input::Note(newest));
        }
    }

    /// A record is durable.
    pub(crate) fn durable(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else {
            return;
        };
        let Some((writing, nonce)) = process.writing.take() else {
            return;
        };
        let newest = machine.disk.append(writing == Writing::Begin, nonce);
        let run = process.run;
        let begun = writing == Writing::Begin && process.life == Life::Beginning;
        if begun && waits(&self.plan) {
            process.life = Life::Covering(newest.seq);
        } else if begun {
            process.life = Life::Awake;
            self.tally.wakes += 1;
        }
        if writing == Writing::Change && waits(&self.plan) {
            process.unacknowledged.push(newest.seq);
        }
        let hasty = writing == Writing::Change && self.bug == Some(Bug::HastyAcknowledgement);
        self.say(|_| format!("{at}: {writing:?} is durable at {}", newest.seq));
        self.tell(at, Input::Note(newest));
        if self.machines[at].run(run).is_none() {
            return;
        }
        if hasty {
            self.acknowledge(at, newest.seq);
        }
        match writing {
            Writing::Sleep { over: true } => self.kill(at, "leaves without its lease"),
            Writing::Sleep { over: false } => self.leave(at),
            Writing::Begin | Writing::Change => {}
        }
    }

    fn leave(&mut self, at: usize) {
        if let Some(process) = &mut self.machines[at].process {
            process.life = Life::Leaving;
            self.tell(at, Input::Release(std::time::Duration::from_secs(3)));
        }
    }

    /// Something that an object does by itself now and then.
    pub(crate) fn act(&mut self, at: usize, run: u64) {
        let lease = self.plan.lease();
        let delay = self.chance.within(lease / 20, lease / 3);
        self.after(delay, Event::To(at, run, What::Act));
        let may_serve = self.machines[at].may_serve(self.now);
        let faulty = self.is_faulty();
        let Some(process) = &mut self.machines[at].process else {
            return;
        };
        match process.life {
            Life::Resting if !faulty || self.chance.happens(300) => {
                if self.chance.happens(500) {
                    process.life = Life::Asking { wake: true };
                    self.tell(at, Input::Claim(purpose(true)));
                } else {
                    self.hand_over(at, true);
                }
            }
            Life::Resting if self.chance.happens(100) => self.leave(at),
            Life::Awake if may_serve && faulty && self.chance.happens(self.plan.sleeps) => {
                if self.chance.happens(500) {
                    self.write(at, Writing::Sleep { over: false });
                } else {
                    self.hand_over(at, false);
                }
            }
            Life::Awake if may_serve && self.chance.happens(self.plan.writes) => {
                self.write(at, Writing::Change);
            }
            Life::Awake if may_serve => self.serve(at),
            _ => {}
        }
    }

    fn serve(&mut self, at: usize) {
        self.tally.served += 1;
        if self.machines[at].serves_witnessed(self.now) {
            self.is_newest(at, "serves");
        }
    }

    /// The object wakes or goes to sleep; the process beside it goes on with its name, as a machine and `up` do.
    fn hand_over(&mut self, at: usize, wake: bool) {
        let name: HolderId = match &self.machines[at].process {
            Some(process) if process.writing.is_none() => process.keeper.id(),
            _ => return,
        };
        self.tell(at, Input::HandOver);
        // Answers to the old keeper must not be taken for answers to the new one.
        let run = self.next_run();
        let machine = &mut self.machines[at];
        let newest = machine.disk.newest();
        let Some(process) = &mut machine.process else {
            return;
        };
        process.keeper = Keeper::new(object(), name, "beside a machine", self.plan.terms(), newest);
        process.life = Life::Asking { wake };
        process.unacknowledged.clear();
        process.hearing += 1;
        process.believed_until = process.believed_until.filter(|until| *until == u64::MAX);
        process.run = run;
        self.after(self.plan.lease() / 5, Event::To(at, run, What::Act));
        self.say(|_| format!("{at} hands over"));
        self.tell(at, Input::Claim(purpose(wake)));
    }
}
