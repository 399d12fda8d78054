//! What an actor does with the effects of its activation, and what custody and vehicle make of it.

use suijuris_core::activation::{
    Answer, Ask, Attached, Claimed, Effect, Event as Told, Loss, Phase, Recorded, Report, Run, Word,
};
use suijuris_core::witness::Purpose;

use super::bugs::Bug;
use super::chance::{MS, Ns};
use super::machine::{Act, Life, Lock};
use super::plan::SECOND;
use super::world::{Event, World, mark};

impl World {
    pub(crate) fn perform(&mut self, at: usize, effect: Effect) {
        self.say(|_| format!("{at} -> {effect:?}"));
        match effect {
            Effect::Claim(ask, purpose) => self.claim(at, ask, purpose),
            Effect::Start(run, id) => self.start(at, run, id),
            Effect::Attach(run) => {
                // The driver knows it, whether or not it answers.
                if let Some(machine) = self.objects[at].machines.first_mut() {
                    machine.run = Some(run);
                }
                let delay = self.delay(1, 50);
                self.after(delay, Event::Attach(at, self.process, run));
            }
            Effect::HandOver(run) => self.hand_over(at, run),
            Effect::Deliver(run, id) => {
                if let Some(machine) = self.called(at, run).map(|machine| machine.id) {
                    let delay = self.delay(0, 5);
                    self.after(delay, Event::Machine(at, machine, Act::Take(id)));
                }
            }
            Effect::Sleep(run) => self.sleep(at, run),
            Effect::Suspend(run) => self.suspend(at, run),
            Effect::Resume(run, _) => self.resume(at, run),
            Effect::Probe(run) => {
                if let Some(machine) = self.called(at, run).filter(|machine| !machine.hung) {
                    let id = machine.id;
                    self.word(at, id, Word::Heartbeat);
                }
            }
            Effect::Stop(run) => self.stop(at, run),
            Effect::Kill(run) => self.kill_machine(at, run),
            Effect::RecordEnd(ask) => {
                let delay = self.disk();
                self.after(delay, Event::Record(at, self.process, ask));
            }
            Effect::Publish(ask) => {
                if !self.faulty(self.plan.slow) {
                    let delay = self.delay(1, 100);
                    self.after(delay, Event::Tell(at, self.process, Told::Published(ask)));
                }
            }
            Effect::Look => {}
            Effect::Answer(proposal, answer) => self.answered(at, proposal, answer),
            Effect::Report(report) => {
                self.tally.lost += u64::from(matches!(report, Report::Lost(_)));
                if let Report::Abandoned(run) = report {
                    self.break_by(format!("{at}: {run:?} is abandoned, and nothing was in the way"));
                }
            }
        }
    }

    fn disk(&mut self) -> Ns {
        if self.faulty(self.plan.slow) {
            self.delay(1, 45_000)
        } else {
            self.delay(1, 20)
        }
    }

    fn claim(&mut self, at: usize, ask: Ask, purpose: Purpose) {
        let delay = if self.faulty(self.plan.slow) {
            self.delay(1, 90_000)
        } else {
            self.delay(1, 20)
        };
        self.after(delay, Event::Claim(at, self.process, ask, purpose));
    }

    pub(crate) fn claim_arrives(&mut self, at: usize, process: u64, ask: Ask, purpose: Purpose) {
        // Given up with its process, or since its machine has ended, it may be done or not; done late it does no harm.
        let fails = self.faulty(self.plan.claim_fails);
        let done = !fails || self.chance.happens(500);
        let rival = self.has_rival(at);
        if done && !rival {
            let object = &mut self.objects[at];
            let before = object.shore.mark().map_or(0, |mark| mark.epoch);
            let epoch = match purpose {
                Purpose::Wake => object.disk.epoch + 1,
                Purpose::Rest => object.disk.epoch,
            };
            let version = object.shore.read().map(|(_, version)| version);
            let _ = object.shore.swap(&mark(epoch.max(before), [0; 16]), version);
        }
        let claimed = match (rival, fails) {
            (true, _) => Claimed::Refused(Loss::Twin),
            (false, true) if self.bug == Some(Bug::FailedClaimWon) => Claimed::Won,
            (false, true) => Claimed::Failed,
            (false, false) => Claimed::Won,
        };
        if self.is_running(process) {
            self.tell(at, Told::Claimed(ask, claimed));
        }
    }

    fn start(&mut self, at: usize, run: Run, id: suijuris_core::activation::ProposalId) {
        let object = &mut self.objects[at];
        if object.disk.lock == Lock::Process {
            object.disk.lock = Lock::Free;
        }
        let owner = Self::is_owners(id);
        if let Some(failed) = self.objects[at].failed.take()
            && !owner
            && self.now < failed + SECOND
        {
            return self.break_by(format!(
                "{at}: started {} ms after it failed",
                (self.now - failed) / MS
            ));
        }
        if self.faulty(self.plan.start_fails) {
            return self.told_soon(at, Told::StartFailed(run));
        }
        self.make_machine(at, run);
    }

    pub(crate) fn attach(&mut self, at: usize, run: Run) {
        let ends = |machine: &super::machine::Machine| machine.run == Some(run) && machine.ends;
        if self.objects[at].machines.iter().any(ends) {
            // Its end is told soon.
            return;
        }
        let Some(machine) = self.called(at, run) else {
            return self.tell(at, Told::Attached(run, Attached::Nothing));
        };
        if machine.hung {
            return;
        }
        let life = machine.life;
        let id = machine.id;
        if self.faulty(self.plan.attach_fails) {
            let failed = match self.bug {
                Some(Bug::UnattachedIsNone) => Attached::Nothing,
                _ => Attached::Failed,
            };
            return self.tell(at, Told::Attached(run, failed));
        }
        let Some(attached) = Self::shows(life) else {
            return self.after(50 * MS, Event::Attach(at, self.process, run));
        };
        self.tally.attached += 1;
        self.tell(at, Told::Attached(run, attached));
        // What it said into the void it says again.
        if life == Life::Dormant {
            self.word(at, id, Word::Suspend);
        }
    }

    fn sleep(&mut self, at: usize, run: Run) {
        let Some(machine) = self.called(at, run).filter(|machine| !machine.hung) else {
            return;
        };
        let id = machine.id;
        if self.chance.happens(100) {
            self.word(at, id, Word::SleepRefused);
        } else {
            self.drain(at, id);
        }
    }

    fn suspend(&mut self, at: usize, run: Run) {
        if self.faulty(self.plan.suspend_fails) {
            return self.told_soon(at, Told::SuspendFailed(run));
        }
        let hangs = self.faulty(self.plan.hangs);
        if let Some(machine) = self
            .called(at, run)
            .filter(|machine| machine.life == Life::Dormant)
        {
            machine.life = Life::Suspended;
            if !hangs {
                self.tally.suspended += 1;
                self.told_soon(at, Told::Suspended(run));
            }
        }
    }

    fn resume(&mut self, at: usize, run: Run) {
        if self.faulty(self.plan.suspend_fails) {
            return self.told_soon(at, Told::ResumeFailed(run));
        }
        let hangs = self.faulty(self.plan.hangs);
        if let Some(machine) = self
            .called(at, run)
            .filter(|machine| machine.life == Life::Suspended)
        {
            machine.life = Life::Waiting;
            machine.hung |= hangs;
            self.told_soon(at, Told::Started(run));
        }
    }

    /// Asked to end, a runtime that hears it seals and leaves.
    fn stop(&mut self, at: usize, run: Run) {
        if let Some(machine) = self.called(at, run).filter(|machine| !machine.hung) {
            let id = machine.id;
            let delay = self.delay(1, 200);
            self.early(at, run);
            self.end_machine(at, id, delay);
        }
    }

    fn kill_machine(&mut self, at: usize, run: Run) {
        if self.phase(at) == Some(Phase::Lost) && self.bug == Some(Bug::LostLives) {
            return;
        }
        let Some(machine) = self.called(at, run) else {
            return;
        };
        let id = machine.id;
        self.tally.hung += u64::from(machine.hung);
        let delay = if self.faulty(self.plan.slow) {
            self.delay(1, 8_000)
        } else {
            self.delay(1, 20)
        };
        self.early(at, run);
        self.end_machine(at, id, delay);
    }

    /// The bug that takes the order for the deed.
    fn early(&mut self, at: usize, run: Run) {
        if self.bug == Some(Bug::EarlyExit) {
            self.told_soon(at, Told::Exited(run));
        }
    }

    /// The object is taken back, and what it finds is recorded.
    pub(crate) fn record(&mut self, at: usize, process: u64, ask: Ask) {
        let runs = self.is_running(process);
        if !runs && self.chance.happens(500) {
            return;
        }
        if !runs && !self.objects[at].machines.is_empty() {
            // The process that wanted it is gone, and the lock is another's.
            return;
        }
        if runs && self.phase(at) == Some(Phase::Lost) {
            return;
        }
        if let Some(machine) = self.objects[at].machines.first() {
            let id = machine.id;
            return self.break_by(format!("{at}: recorded while machine {id} runs"));
        }
        let recorded = match (self.has_rival(at), self.faulty(self.plan.record_fails)) {
            (true, _) => Recorded::Refused(Loss::Twin),
            (false, true) => Recorded::Failed,
            (false, false) => self.take_back(at, runs),
        };
        if runs {
            self.tell(at, Told::Recorded(ask, recorded));
        }
    }

    fn take_back(&mut self, at: usize, runs: bool) -> Recorded {
        let unrecorded = self.bug == Some(Bug::Unrecorded);
        let disk = &mut self.objects[at].disk;
        if runs {
            disk.lock = Lock::Process;
        }
        if !disk.open {
            return Recorded::Clean;
        }
        disk.open = unrecorded;
        self.tally.crashes += 1;
        Recorded::Crashed
    }

    fn answered(&mut self, at: usize, proposal: suijuris_core::activation::Proposal, answer: Answer) {
        match answer {
            Answer::Again => {
                self.tally.again += 1;
                if self.bug != Some(Bug::Forgotten) {
                    self.after(0, Event::Return(at, self.process, proposal));
                }
            }
            Answer::Woke | Answer::Refused(_) => {
                self.tally.refused += u64::from(answer != Answer::Woke);
                self.objects[at].clients.remove(&proposal.id);
            }
        }
    }
}
