//! A running machine and what is awaited of it.

use std::collections::BTreeMap;

use suijuris_api::Event;
use suijuris_api::control::{FromRuntime, Reply};
use suijuris_api::event::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::lineage::Head;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::machine::Running;
use super::say::Say;

/// A running machine.
pub(super) struct Awake {
    pub(super) running: Running,
    /// The machine is frozen, since this head.
    pub(super) frozen: Option<Box<Head>>,
    pub(super) replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    pub(super) next_id: u64,
    pub(super) left: Option<String>,
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
            frozen: None,
            replies: BTreeMap::new(),
            next_id: 0,
            left: None,
            output,
            waking: Vec::new(),
            verdict: None,
        }
    }

    /// Takes in a word of the runtime.
    pub(super) fn note(&mut self, message: FromRuntime, say: &Say) {
        match message {
            FromRuntime::Event(stamped) => {
                say.stamped(&stamped);
                self.answer_waking(stamped.event);
            }
            FromRuntime::Reply { id, reply } => {
                if let Some(answer) = self.replies.remove(&id) {
                    let _ = answer.send(reply);
                }
            }
            FromRuntime::Leaving { how } => self.left = Some(how),
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
        self.next_id += 1;
        self.replies.insert(self.next_id, answer);
        self.next_id
    }
}
