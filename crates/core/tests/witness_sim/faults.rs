//! Faults of machines and disks; those of the network are where letters are posted.

use super::chance::{Fault, MS};
use super::machine::{Disk, Life, Pause};
use super::world::{Event, What, World};

/// Disks put aside at most.
const SHELF: usize = 8;

impl World {
    pub(crate) fn fault(&mut self) {
        if !self.is_faulty() || self.plan.faults.is_empty() {
            return;
        }
        let every = self.plan.fault_every;
        let delay = self.chance.within(every / 4, every * 2);
        self.after(delay, Event::Fault);
        let fault = self.plan.faults[self.chance.below(self.plan.faults.len())];
        let at = self.chance.below(self.machines.len());
        let other = self.other(at);
        self.say(|_| format!("fault at {at}: {fault:?}"));
        match fault {
            Fault::Crash => self.kill(at, "crashes"),
            Fault::ShortPause => {
                let length = self.chance.within(1, 1_500) * MS;
                self.pause(at, false, length);
            }
            Fault::LongPause => self.pause_long(at),
            Fault::Partition => {
                let length = self.chance.within(100 * MS, self.plan.lease() * 2);
                self.machines[at].cut_until = self.now + length;
            }
            Fault::Deaf => {
                let length = self.chance.within(100 * MS, self.plan.lease() * 2);
                self.machines[at].deaf_until = self.now + length;
            }
            Fault::WallStep => {
                let step = self.chance.within(0, 120_000).cast_signed() - 60_000;
                self.machines[at].step_wall(step);
                self.wake_up(at);
            }
            Fault::Snapshot => {
                let disk = self.machines[at].disk.clone();
                self.put_aside(disk);
            }
            Fault::Rollback => self.roll_back(at),
            Fault::DiskCopy => self.copy_disk(at),
            Fault::Twin => self.start_twin(at),
            Fault::DoubleThaw => {
                let length = self.chance.within(1_500 * MS, self.plan.lease() * 3 + 1_500 * MS);
                self.pause(at, true, length);
                self.copy_memory(at, other, false);
            }
            Fault::LiveClone => self.copy_memory(at, other, true),
            Fault::SleepingClone => self.copy_asleep(at, other),
        }
    }

    fn other(&mut self, at: usize) -> usize {
        let count = self.machines.len();
        (at + 1 + self.chance.below(count - 1)) % count
    }

    /// A copy of some other disk, in use or not, takes the place of this one.
    pub(crate) fn copy_disk(&mut self, at: usize) {
        let serves =
            (0..self.machines.len()).find(|other| *other != at && self.machines[*other].may_serve(self.now));
        let any = self.other(at);
        let other = serves.filter(|_| self.chance.happens(700)).unwrap_or(any);
        let disk = self.machines[other].disk.clone();
        self.say(|_| format!("{at} gets a copy of the disk of {other}"));
        self.kill(at, "is replaced");
        let old = std::mem::replace(&mut self.machines[at].disk, disk);
        self.put_aside(old);
    }

    /// A copy of a disk in use is started at `at`, about when its owner gets into trouble.
    fn start_twin(&mut self, at: usize) {
        let serves = |other: &usize| *other != at && self.machines[*other].may_serve(self.now);
        let Some(owner) = (0..self.machines.len()).find(serves) else {
            return;
        };
        let disk = self.machines[owner].disk.clone();
        self.kill(at, "is replaced");
        let old = std::mem::replace(&mut self.machines[at].disk, disk);
        self.put_aside(old);
        let length = self.chance.within(self.plan.lease() / 2, self.plan.lease() * 2);
        match self.chance.below(3) {
            0 => self.pause_long(owner),
            1 => self.machines[owner].cut_until = self.now + length,
            _ => self.machines[owner].deaf_until = self.now + length,
        }
        self.start(at);
    }

    fn put_aside(&mut self, disk: Disk) {
        if !disk.quarantined {
            self.shelf.push(disk);
        }
        if self.shelf.len() > SHELF {
            let which = self.chance.below(SHELF);
            self.shelf.remove(which);
        }
    }

    fn roll_back(&mut self, at: usize) {
        if self.shelf.is_empty() {
            return;
        }
        self.kill(at, "is rolled back");
        let which = self.chance.below(self.shelf.len());
        std::mem::swap(&mut self.machines[at].disk, &mut self.shelf[which]);
    }

    /// A pause that may be longer than the lease.
    pub(crate) fn pause_long(&mut self, at: usize) {
        let length = self.chance.within(self.plan.lease() / 2, self.plan.lease() * 3);
        let noticed = !self.chance.happens(self.plan.unnoticed_pauses);
        self.pause(at, noticed, length);
    }

    fn pause(&mut self, at: usize, noticed: bool, length: u64) {
        let Some(process) = &mut self.machines[at].process else {
            return;
        };
        if process.pause.is_some() {
            return;
        }
        let announced = noticed && self.chance.happens(self.plan.announced_pauses);
        process.pause = Some(Pause { noticed, announced });
        let run = process.run;
        self.say(|_| format!("{at} is paused, noticed: {noticed}, announced: {announced}"));
        self.after(length, Event::Resume(at, run));
    }

    /// Copies disk and memory to another machine, where they go on some time later.
    fn copy_memory(&mut self, at: usize, other: usize, running: bool) {
        let Some(process) = &self.machines[at].process else {
            return;
        };
        let paused_unnoticed = process.pause.is_some_and(|pause| !pause.noticed);
        if running != process.pause.is_none() || paused_unnoticed {
            return;
        }
        // Where nobody says that all copies stand still, one may run.
        let announced = process.pause.is_some_and(|pause| pause.announced);
        let mut copy = process.clone();
        let disk = self.machines[at].disk.clone();
        self.kill(other, "is replaced");
        let run = self.next_run();
        copy.run = run;
        copy.deferred.clear();
        copy.pause = Some(Pause {
            noticed: true,
            announced,
        });
        let old = std::mem::replace(&mut self.machines[other].disk, disk);
        self.put_aside(old);
        self.take_clocks(at, other);
        self.machines[other].process = Some(copy);
        let delay = self.chance.within(MS, self.plan.lease() * 2);
        self.say(|_| format!("{other} is a copy of {at}"));
        self.after(delay, Event::Resume(other, run));
        self.after(self.plan.lease() / 5, Event::To(other, run, What::Act));
    }

    /// Copies a whole machine whose object sleeps, with the process that holds it. Both go on under one name.
    fn copy_asleep(&mut self, at: usize, other: usize) {
        let sleeping = [Life::Resting, Life::Asking { wake: false }];
        let asleep = |at: usize| {
            let process = self.machines[at].process.as_ref();
            process.is_some_and(|process| process.pause.is_none() && sleeping.contains(&process.life))
        };
        let Some(at) = [at, other].into_iter().find(|at| asleep(*at)) else {
            return;
        };
        let other = self.other(at);
        let Some(process) = &self.machines[at].process else {
            return;
        };
        let (old_run, mut copy) = (process.run, process.clone());
        let disk = self.machines[at].disk.clone();
        self.kill(other, "is replaced");
        let run = self.next_run();
        copy.run = run;
        copy.deluded = true;
        copy.pause = Some(Pause {
            noticed: false,
            announced: false,
        });
        let old = std::mem::replace(&mut self.machines[other].disk, disk);
        self.put_aside(old);
        self.take_clocks(at, other);
        self.machines[other].process = Some(copy);
        let length = self.chance.within(MS, self.plan.lease() * 2);
        self.say(|_| format!("{other} is a copy of {at}, asleep"));
        // What each of them waits for: its own alarms, and answers that had come already.
        self.repeat(old_run, other, run, length);
        if self.chance.happens(700) {
            self.machines[other].stop_clocks(length);
        }
        self.after(length, Event::Resume(other, run));
    }

    fn take_clocks(&mut self, of: usize, at: usize) {
        if let Ok([of, at]) = self.machines.get_disjoint_mut([of, at]) {
            at.take_clocks(of);
        }
    }

    /// A stepped clock lets alarms go off by it.
    fn wake_up(&mut self, at: usize) {
        let runs = self.machines[at]
            .process
            .as_ref()
            .filter(|process| process.pause.is_none());
        if runs.is_some() && self.machines[at].by_wall {
            self.tell(at, suijuris_core::witness::Input::Tick);
        }
    }
}
