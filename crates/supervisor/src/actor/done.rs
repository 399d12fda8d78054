//! Answers of tasks, and what each means to the activation.

use std::time::Duration;

use suijuris_core::activation::{Ask, Attached, Claimed, Event, Recorded, Run, Word};
use suijuris_core::inputs::Principal;
use suijuris_core::witness::Verdict;
use suijuris_custody::at_rest::Open;
use suijuris_custody::chain;
use suijuris_custody::claim::{Answer, Handoff, RefusedCopy};
use suijuris_link::ToSupervisor;
use suijuris_link::message::Present;
use suijuris_store::{Reader, StageError, Stamps};
use suijuris_vehicle::{AttachError, Driver, Exit, ResumeError, SuspendError};

use super::calling::Called;
use super::{ObjectActor, loss_of};
use crate::at_door::AtDoor;
use crate::machine::{NoMachine, Running};

/// The answer of a task.
pub(super) enum Done<M> {
    /// The object was claimed for a machine that starts, and a key made for it.
    Claimed(Ask, Handoff),
    /// A machine was started, or not.
    Started(Run, Result<Box<Running<M>>, NoMachine>),
    /// The machine of an earlier process was taken over, or not; how its object is, where its runtime can say.
    Attached(Run, Result<Box<TakenOver<M>>, NoMachine>),
    /// It is about to be resumed, and may claim the object by itself.
    Resuming(Ask, Run),
    /// It was resumed, or not.
    Resumed(Run, Result<(), ResumeError>),
    /// It was suspended, or not.
    Suspended(Run, Result<(), SuspendError>),
    /// The object was claimed for resting in a suspended machine.
    Rests(Ask, Result<(Box<Reader>, Answer), String>),
    /// The runtime said something.
    Said(Run, Box<ToSupervisor>),
    /// Its link ended, for this reason if it did not just end.
    LinkEnded(Run, Option<String>),
    /// It is there.
    Alive(Run),
    /// Nothing of a machine is left.
    Exited(Run, Exit),
    /// The object is back.
    Back(Ask, Back),
    /// It was published, or why not.
    Published(Ask, Result<(), String>),
    /// A witness answers that had not.
    Witnessed(Box<Verdict>),
    /// The copy that it refused, if it did.
    Refused(Option<Box<RefusedCopy>>),
    /// A write is acknowledged that wakes by this field.
    Wakes(Principal, String),
    /// A caller asks the sleeping object itself.
    Called(Box<Called>),
    /// Timers that were refused or skipped are recorded as dealt with.
    TimersNoted,
    /// Its history was verified whole while it rests, or why it is not sound.
    Verified(Result<Option<Stamps>, String>),
    /// The object has ended for good.
    Ended,
    /// The object has left for another place.
    Departed,
    /// The disk failed.
    Broken(StageError),
}

/// A machine of an earlier process.
pub(super) struct TakenOver<M> {
    pub(super) running: Running<M>,
    /// How its object is, where its runtime can say.
    pub(super) present: Option<Present>,
}

/// How an object came back from its machine.
pub(super) enum Back {
    /// It is ours; whether its last activation had been cut off.
    Ours(Box<Open>, bool),
    /// Another copy is the object.
    Lost(Box<RefusedCopy>),
    /// It cannot be opened, or not be written to.
    Failed(String),
}

/// How the runtime ends that does not know what it is asked.
const NOT_UNDERSTOOD: i32 = 2;

/// Machines.
pub(super) const CODE_MACHINE: &str = "machine_failed";
/// The depot.
pub(super) const CODE_DEPOT: &str = "depot_failed";
/// The object's history.
pub(super) const CODE_BROKEN_OBJECT: &str = "broken_object";
/// The object's disk.
pub(super) const CODE_NOT_DURABLE: &str = "not_durable";

impl<D: Driver> ObjectActor<D> {
    pub(super) fn done(&mut self, done: Done<D::Machine>) {
        match done {
            Done::Claimed(ask, handed) => {
                self.handed = handed;
                // Where the claim came to nothing the machine asks for itself, and finds out why.
                self.events.push_back(Event::Claimed(ask, Claimed::Won));
            }
            Done::Started(run, Ok(running)) => self.started(run, *running),
            Done::Started(run, Err(error)) => {
                self.give_up = None;
                if !matches!(error, NoMachine::GivenUp) {
                    self.reporter.error(CODE_MACHINE, chain(&error));
                }
                self.events.push_back(Event::StartFailed(run));
            }
            Done::Attached(run, Ok(attached)) => {
                let TakenOver { running, present } = *attached;
                self.attached(run, running, present.as_ref());
            }
            Done::Attached(run, Err(error)) => {
                let ended = matches!(error, NoMachine::Ended | NoMachine::Lost(AttachError::Unknown(_)));
                if !ended {
                    self.reporter.error(CODE_MACHINE, chain(&error));
                }
                self.forget_machine();
                // Whatever was there was killed, or is gone: its end is recorded.
                self.events.push_back(Event::Attached(run, Attached::Nothing));
            }
            Done::Resuming(ask, run) => {
                self.events.push_back(Event::Claimed(ask, Claimed::Won));
                self.events.push_back(Event::Started(run));
            }
            Done::Resumed(_, Ok(())) => self.reporter.machine("resumed", self.described()),
            Done::Resumed(run, Err(error)) => {
                self.reporter.error(CODE_MACHINE, chain(&error));
                self.events.push_back(Event::ResumeFailed(run));
            }
            Done::Suspended(run, Ok(())) => self.events.push_back(Event::Suspended(run)),
            Done::Suspended(run, Err(error)) => {
                let why = format!(
                    "the machine cannot be suspended, so it is stopped: {}",
                    chain(&error)
                );
                self.reporter.error(CODE_MACHINE, why);
                self.events.push_back(Event::SuspendFailed(run));
            }
            Done::Rests(ask, rests) => self.rests(ask, rests),
            Done::Said(run, message) => self.said(run, *message),
            Done::LinkEnded(run, why) => {
                if let Some(why) = why {
                    self.reporter.error(CODE_MACHINE, why);
                }
                self.events.push_back(Event::Heard(run, Word::Closed));
            }
            Done::Alive(run) => self.events.push_back(Event::Heard(run, Word::Heartbeat)),
            Done::Exited(run, exit) => self.exited(run, exit),
            Done::Back(ask, back) => self.back(ask, back),
            Done::Published(ask, published) => {
                if let Err(why) = published {
                    self.reporter.error(CODE_DEPOT, why);
                }
                self.events.push_back(Event::Published(ask));
            }
            Done::Witnessed(verdict) => self.witnessed(*verdict),
            Done::Refused(Some(copy)) => self.lose(*copy),
            Done::Refused(None) => {
                let witnessed = self.claim.witnessed();
                if let Some(at_door) = &mut self.at_door {
                    at_door.door().witnessed(witnessed);
                }
                self.events.push_back(Event::Witnessed);
            }
            Done::Wakes(by, field) => self.memory_wakes(by, &field),
            Done::Called(called) => self.called(*called),
            Done::Verified(Ok(stamps)) => self.verified = stamps,
            // Whoever wakes it reads it again, and shuts it away.
            Done::Verified(Err(why)) => self.reporter.error(CODE_BROKEN_OBJECT, why),
            Done::TimersNoted => self.timers_proposed = false,
            // So that doors that share the depot know.
            Done::Ended => self.publish_at_rest(),
            Done::Departed => self.departed(),
            Done::Broken(error) => self.broken = Some(error.into()),
        }
    }

    /// The object rests in its suspended machine.
    fn rests(&mut self, ask: Ask, rests: Result<(Box<Reader>, Answer), String>) {
        let claimed = match rests {
            Ok((_, Answer::Refused(copy))) => {
                self.reporter.event(copy.event());
                let loss = loss_of(&copy);
                self.lost = Some(*copy);
                Claimed::Refused(loss)
            }
            Ok((reader, answer)) => {
                let (prepared, host) = (self.prepared.clone(), self.services.host.clone());
                let witnessed = self.claim.witnessed();
                self.at_door = Some(AtDoor::suspended(*reader, prepared, host, witnessed));
                self.reporter.machine("suspended", self.described());
                self.ask_again();
                if let Answer::Unasked(why) = answer {
                    self.reporter
                        .error(CODE_DEPOT, format!("the witness cannot be asked: {why}"));
                    Claimed::Failed
                } else {
                    Claimed::Won
                }
            }
            Err(why) => {
                self.reporter.error(CODE_DEPOT, why);
                Claimed::Failed
            }
        };
        self.events.push_back(Event::Claimed(ask, claimed));
    }

    fn forget_machine(&self) {
        if let Some(notes) = &self.services.machines {
            notes.forget(self.claim.object());
        }
    }

    /// Nothing of the machine is left.
    fn exited(&mut self, run: Run, exit: Exit) {
        self.forget_machine();
        self.holds.told(Default::default());
        if let Some(mut ended) = self.machine.take() {
            let told = std::mem::take(&mut ended.running.told);
            let reading = self.services.clock.reading();
            // Its door held what was refused while it was suspended.
            let at_door = self.at_door.take();
            let mut unrecorded = at_door
                .map(|at_door| at_door.into_unrecorded(reading))
                .unwrap_or_default();
            unrecorded.refused.splice(..0, told.into_values());
            self.unrecorded.add(unrecorded);
        }
        self.reporter.machine("stopped", exit.to_string());
        if exit == Exit::Code(NOT_UNDERSTOOD) {
            let program = self.services.runtime.exe.display();
            let why = format!(
                "the runtime `{program}` is of another version than this program: build or install both together, or remove it"
            );
            self.reporter.error(CODE_MACHINE, why);
        }
        self.events.push_back(Event::Exited(run));
    }

    fn back(&mut self, ask: Ask, back: Back) {
        let recorded = match back {
            Back::Ours(open, crashed) => {
                let (prepared, host) = (self.prepared.clone(), self.services.host.clone());
                let witnessed = self.claim.witnessed();
                self.at_door = Some(AtDoor::open(*open, prepared, host, witnessed));
                self.prewarm();
                self.ask_again();
                self.verify_at_rest(Duration::ZERO);
                if crashed {
                    Recorded::Crashed
                } else {
                    Recorded::Clean
                }
            }
            Back::Lost(copy) => {
                self.reporter.event(copy.event());
                let loss = loss_of(&copy);
                self.lost = Some(*copy);
                Recorded::Refused(loss)
            }
            Back::Failed(why) => {
                self.reporter.error(CODE_NOT_DURABLE, why);
                Recorded::Failed
            }
        };
        self.events.push_back(Event::Recorded(ask, recorded));
    }
}
