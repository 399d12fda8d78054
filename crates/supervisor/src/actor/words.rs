//! What the runtime says, and what it means to the activation.

use std::time::Duration;

use suijuris_api::Event as ApiEvent;
use suijuris_api::control::Reply;
use suijuris_api::event::Stamped;
use suijuris_core::activation::requests::RequestId;
use suijuris_core::activation::{Event, Leave, ProposalId, Run, Word};
use suijuris_core::governance::Action;
use suijuris_link::message::How;
use suijuris_link::{Secret, ToRuntime, ToSupervisor};
use suijuris_vehicle::Driver;

use super::ObjectActor;

/// The step of a boot at which the gate is open.
const SERVES: &str = "serve";

/// Codes of errors by which a runtime says what is wrong with the workload, before it ends.
const CODES_OF_WORKLOADS: [&str; 2] = ["workload_failed", "workload_stuck"];

/// The state of a workload that has ended.
const WORKLOAD_EXITED: &str = "exited";

/// An object that falls asleep already, or sleeps, is not put to sleep: that is no refusal.
const CODE_WRONG_PHASE: &str = "wrong_phase";

/// What the runtime said of the end of its workload.
#[derive(Debug, Default)]
pub(super) struct WorkloadEnd {
    /// What was wrong with it.
    error: Option<String>,
    /// `exited 1`, `killed by signal 9`.
    how: Option<String>,
}

impl WorkloadEnd {
    fn heard(&mut self, event: &ApiEvent) {
        match event {
            ApiEvent::Error { code, message } if CODES_OF_WORKLOADS.contains(&code.as_str()) => {
                self.error = Some(message.clone());
            }
            ApiEvent::Workload { state, how, .. } if state == WORKLOAD_EXITED => self.how = Some(how.clone()),
            _ => {}
        }
    }

    /// The end in words, as an owner reads it before `, next try in 4 s`.
    pub(super) fn words(&self) -> Option<String> {
        if self.error.is_some() {
            return self.error.clone();
        }
        let how = self.how.as_deref()?;
        Some(match how.strip_prefix("exited ") {
            Some("0") => "ended before it had done anything (exit 0)".to_owned(),
            Some(code) => format!("crashed (exit {code})"),
            None => format!("crashed ({how})"),
        })
    }
}

impl<D: Driver> ObjectActor<D> {
    pub(super) fn said(&mut self, run: Run, message: ToSupervisor) {
        match message {
            ToSupervisor::Event(stamped) => self.happened(run, stamped.0),
            ToSupervisor::Holds { left } => self.holds.told(left),
            ToSupervisor::Request(access) => {
                let origin = self.reporter.origin();
                self.services.access_log.tell(Some(origin), access.0);
            }
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
            ToSupervisor::Key { seed } => self.keep_key(seed),
            // Nobody attaches here, and who begins as a copy has said so before.
            ToSupervisor::Present(_) | ToSupervisor::FilesWritten => {}
        }
    }

    /// Keeps the object's waiting key while its machine is suspended; the machine is told once that is durable.
    fn keep_key(&mut self, seed: Secret) {
        let Some(machine) = &self.machine else { return };
        let (link, dir) = (machine.running.link.clone(), self.object_dir.clone());
        self.tasks.spawn_local(async move {
            let kept = tokio::task::spawn_blocking(move || dir.keep_key(seed.as_bytes())).await;
            // A machine that is not told keeps it itself.
            if let Ok(Ok(())) = kept {
                let _ = link.queue(ToRuntime::KeyKept);
            }
        });
    }

    fn hear(&mut self, run: Run, word: Word) {
        self.events.push_back(Event::Heard(run, word));
    }

    /// An event of the runtime: told on, and what it means.
    fn happened(&mut self, run: Run, stamped: Stamped) {
        if let ApiEvent::Woke { epoch, .. } | ApiEvent::Resumed { epoch, .. } = &stamped.event {
            self.epoch.set(*epoch);
            // It is past the key that was kept for it.
            self.object_dir.forget_kept_key();
        }
        let word = match &stamped.event {
            ApiEvent::Woke { .. } | ApiEvent::Resumed { .. } => Some(Word::Woke),
            ApiEvent::Boot { step } if step == SERVES => Some(Word::Serving),
            ApiEvent::Verdict(verdict) if verdict.action == Action::Wake.as_str() => {
                self.wake_verdict = Some(verdict.clone());
                None
            }
            // The object falls asleep over it, if it does not already.
            ApiEvent::Workload { state, .. } if state == WORKLOAD_EXITED => Some(Word::Draining),
            // From now on its gate takes nothing new.
            ApiEvent::Verdict(verdict) => {
                falls_asleep(&verdict.action, &verdict.outcome).then_some(Word::Draining)
            }
            _ => None,
        };
        self.workload_end.heard(&stamped.event);
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
            if matches!(&reply, Reply::Error { code, .. } if code != CODE_WRONG_PHASE) {
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
