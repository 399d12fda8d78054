//! A running machine and what is awaited of it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use suijuris_api::control::Reply;
use suijuris_api::event::Verdict;
use suijuris_api::{Event, Problem};
use suijuris_core::governance::Action;
use suijuris_core::lineage::Refused;
use suijuris_core::time::Reading;
use suijuris_custody::at_rest::Unrecorded;
use suijuris_link::mux::QueueError;
use suijuris_link::{ToRuntime, ToSupervisor};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::door::Visitor;
use super::dormant::Frozen;
use super::machine::Running;
use crate::event_printer::EventPrinter;

/// A running machine.
pub(super) struct Awake {
    pub(super) running: Running,
    /// How often the machine was resumed.
    pub(super) generation: u64,
    /// The object in the machine that is frozen.
    pub(super) frozen: Option<Box<Frozen>>,
    /// Refusals that the runtime was told to record and has not yet.
    pub(super) told: BTreeMap<u64, Refused>,
    pub(super) replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    pub(super) next_id: u64,
    /// What its gate answered everybody at the end, where it refused everybody.
    pub(super) problem: Option<Box<Problem>>,
    /// Visitors that the gate has not taken yet.
    pub(super) handed: BTreeMap<u64, Visitor>,
    pub(super) output: JoinSet<()>,
    /// Who asked for the wake that has not been recorded yet.
    pub(super) waking: Vec<oneshot::Sender<Reply>>,
    /// The runtime's verdict on that wake.
    pub(super) verdict: Option<Verdict>,
}

impl Awake {
    /// A machine that has just started.
    pub(super) fn new(running: Running, output: JoinSet<()>) -> Self {
        Self {
            running,
            generation: 0,
            frozen: None,
            told: BTreeMap::new(),
            replies: BTreeMap::new(),
            next_id: 0,
            problem: None,
            handed: BTreeMap::new(),
            output,
            waking: Vec::new(),
            verdict: None,
        }
    }

    /// Takes in a word of the runtime.
    pub(super) fn note(&mut self, message: ToSupervisor, say: &EventPrinter) {
        match message {
            ToSupervisor::Event(stamped) => {
                say.stamped(&stamped.0);
                self.answer_waking(stamped.0.event);
            }
            ToSupervisor::Reply { id, reply } => {
                if let Some(answer) = self.replies.remove(&id) {
                    let _ = answer.send(reply.0);
                }
            }
            ToSupervisor::Recorded { id } => drop(self.told.remove(&id)),
            ToSupervisor::Taken { id } => drop(self.handed.remove(&id)),
            ToSupervisor::Leaving { problem, .. } => {
                self.problem = problem.map(|problem| Box::new(problem.0));
            }
            // Nobody attaches here.
            ToSupervisor::Present(_) => {}
        }
    }

    /// Answers those who asked for a wake, once it is refused or durable.
    fn answer_waking(&mut self, event: Event) {
        let done = match event {
            Event::Verdict(verdict) if verdict.action == Action::Wake.as_str() => {
                let refused = verdict.outcome == "refuse";
                self.verdict = Some(verdict);
                refused
            }
            Event::Woke { .. } | Event::Resumed { .. } => true,
            _ => false,
        };
        let Some(verdict) = self.verdict.clone().filter(|_| done) else {
            return;
        };
        for answer in self.waking.drain(..) {
            let _ = answer.send(Reply::Verdict(verdict.clone()));
        }
    }

    /// Notes that an answer is awaited; the request's number.
    pub(super) fn expect(&mut self, answer: oneshot::Sender<Reply>) -> u64 {
        let id = self.number();
        self.replies.insert(id, answer);
        id
    }

    /// Sends a request whose answer is expected; if it cannot be sent, the asker gets an error.
    pub(super) fn ask(&mut self, id: u64, request: ToRuntime<OwnedFd>) {
        if let Err(error) = self.running.link.queue(request)
            && let Some(answer) = self.replies.remove(&id)
        {
            let code = match error {
                QueueError::TooLarge { .. } => "bad_request",
                _ => "machine_failed",
            };
            let (code, message) = (code.to_owned(), error.to_string());
            let _ = answer.send(Reply::Error { code, message });
        }
    }

    /// A number for the next message.
    pub(super) const fn number(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// What the machine leaves unrecorded when it ends.
    pub(super) fn unrecorded(&mut self, reading: Reading) -> Unrecorded {
        let frozen = self.frozen.take();
        let mut unrecorded = frozen.map_or_else(Unrecorded::default, |frozen| frozen.unrecorded(reading));
        let told = std::mem::take(&mut self.told);
        unrecorded.refused.splice(..0, told.into_values());
        unrecorded
    }
}
