//! What the runtime says, and what it means to the activation.

use std::time::Duration;

use suijuris_api::Event as ApiEvent;
use suijuris_api::control::Reply;
use suijuris_api::event::Stamped;
use suijuris_core::activation::requests::RequestId;
use suijuris_core::activation::{Event, Leave, ProposalId, Run, Word};
use suijuris_core::governance::Action;
use suijuris_link::ToSupervisor;
use suijuris_link::message::How;
use suijuris_vehicle::Driver;

use super::ObjectActor;

/// The step of a boot at which the gate is open.
const SERVES: &str = "serve";

impl<D: Driver> ObjectActor<D> {
    pub(super) fn said(&mut self, run: Run, message: ToSupervisor) {
        match message {
            ToSupervisor::Event(stamped) => self.happened(run, stamped.0),
            ToSupervisor::Reply { id, reply } => self.replied(run, id, reply.0),
            ToSupervisor::Recorded { id } => {
                if let Some(machine) = &mut self.machine {
                    machine.running.told.remove(&id);
                }
            }
            ToSupervisor::Taken { id } => {
                let id = ProposalId(id);
                self.taken(id);
                self.hear(run, Word::Taken(id));
            }
            ToSupervisor::Leaving {
                how,
                generation,
                problem,
            } => {
                self.problem = problem.map(|problem| problem.0);
                self.leaves(run, how, generation);
            }
            // Nobody attaches here.
            ToSupervisor::Present(_) => {}
        }
    }

    fn hear(&mut self, run: Run, word: Word) {
        self.events.push_back(Event::Heard(run, word));
    }

    /// An event of the runtime: told on, and what it means.
    fn happened(&mut self, run: Run, stamped: Stamped) {
        let word = match &stamped.event {
            ApiEvent::Woke { .. } | ApiEvent::Resumed { .. } => Some(Word::Woke),
            ApiEvent::Boot { step } if step == SERVES => Some(Word::Serving),
            ApiEvent::Verdict(verdict) if verdict.action == Action::Wake.as_str() => {
                self.wake_verdict = Some(verdict.clone());
                None
            }
            // From now on its gate takes nothing new.
            ApiEvent::Verdict(verdict) => {
                falls_asleep(&verdict.action, &verdict.outcome).then_some(Word::Draining)
            }
            _ => None,
        };
        self.reporter.stamped(stamped);
        if let Some(word) = word {
            self.hear(run, word);
        }
    }

    fn leaves(&mut self, run: Run, how: How, generation: u64) {
        let word = match how {
            How::Suspend => {
                let now = self.machine.as_ref().map(|machine| machine.running.generation);
                if now != Some(generation) {
                    // Said before the machine was resumed the last time: that is over.
                    return;
                }
                Word::Suspend
            }
            How::Stop => Word::Leaving(Leave::Slept),
            How::Refused => Word::Refused(self.retry_after()),
            How::HostStop => Word::Leaving(Leave::Stopped),
            How::Failed => Word::Leaving(Leave::WorkloadFailed),
        };
        self.hear(run, word);
    }

    /// When the rules say to ask again.
    fn retry_after(&self) -> Option<Duration> {
        self.wake_verdict.as_ref()?.retry_after.map(Duration::from_secs)
    }

    fn replied(&mut self, run: Run, id: u64, reply: Reply) {
        if self.stopping == Some(id) {
            self.stopping = None;
            if matches!(reply, Reply::Error { .. }) {
                self.hear(run, Word::SleepRefused);
            }
            return;
        }
        self.queue.answered(RequestId(id));
        if let Some(request) = self.requests.remove(&id) {
            let _ = request.answer.send(reply);
        }
    }
}

fn falls_asleep(action: &str, outcome: &str) -> bool {
    (action == Action::Remain.as_str() && outcome == "refuse")
        || (action == Action::Sleep.as_str() && outcome == "permit")
}
