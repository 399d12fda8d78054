//! The end of the resident object: proposed by its owners, or by itself where a rule that names it permits. Either way it
//! drains as for a sleep, and what is recorded then is its end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use suijuris_api::control::Reply;
use suijuris_api::{Event, Problem, event};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{View, own_proposal};
use suijuris_core::governance::Action;
use suijuris_core::inputs::Principal;
use suijuris_core::lifecycle;
use suijuris_core::lineage::Approval;
use suijuris_custody::terminate::{self, Judged};
use suijuris_words::verdict;

use super::Resident;

/// Too few owners approved.
const CODE_APPROVALS: &str = "approvals_missing";

/// What is known of an end to come.
#[derive(Debug)]
pub(super) struct Ending {
    /// Whether rules let the object propose its own end, and whether they look at what changes with the time alone.
    proposes: bool,
    by_time: bool,
    /// What was looked at last: record, messages, holds. Nothing else changes an answer.
    looked_at: RefCell<Option<(u64, u64, BTreeSet<String>)>>,
    /// What owners signed, and the requests that wait for the record.
    approvals: RefCell<Vec<Approval>>,
    waiting: RefCell<Vec<(u64, event::Verdict)>>,
    begun: Cell<bool>,
}

impl Ending {
    pub(super) fn of(bundle: &Bundle) -> Self {
        let program = &bundle.rules.program;
        let watches = program.watches(Action::Terminate);
        Self {
            proposes: !program.naming_self(Action::Terminate).is_empty(),
            by_time: watches.now || !watches.fresh.is_empty(),
            looked_at: RefCell::default(),
            approvals: RefCell::default(),
            waiting: RefCell::default(),
            begun: Cell::new(false),
        }
    }
}

impl Resident {
    /// Decides a proposal of owners to end; the answer, where it is not one that waits for the record.
    #[must_use]
    pub fn propose_end(&self, id: u64, approvals: Vec<Approval>) -> Option<Reply> {
        self.say_proposal(if approvals.is_empty() {
            "host"
        } else {
            "controller"
        });
        let judged = self
            .lineage
            .staged(|state| terminate::judge(state, &self.bundle, &approvals, |by| self.inputs(by)));
        match judged {
            Judged::Permitted(permit, decision) => {
                let words = verdict::verdict(&decision, "runtime");
                self.reports.event(Event::Verdict(words.clone()));
                self.ending.approvals.replace(approvals);
                self.ending.waiting.borrow_mut().push((id, words));
                self.say(lifecycle::Event::Permitted(permit, decision));
                None
            }
            Judged::TooFew(_, found, needed) => Some(error(
                &Problem::new(403, CODE_APPROVALS, "Too few owners approved").with_detail(format!(
                    "{found} of the {needed} owners needed approved the end: have the others run `suijuris approve --terminate`"
                )),
            )),
            Judged::Refused(decision) => {
                let words = verdict::verdict(&decision, "runtime");
                self.reports.event(Event::Verdict(words.clone()));
                self.refused(&decision);
                Some(Reply::Verdict(words))
            }
        }
    }

    /// Ends the object where it proposes that itself; whether it does. It is asked when something changed that rules of its
    /// end can see, or where they look at the time.
    #[must_use]
    pub fn ends_itself(&self) -> bool {
        let ending = &self.ending;
        if !ending.proposes || ending.begun.get() {
            return ending.begun.get();
        }
        let inputs = self.inputs(Principal::Own);
        let seq = self.lineage.staged(|state| state.head().seq);
        let facts = Some((seq, inputs.pending, inputs.holds.clone()));
        if !ending.by_time && *ending.looked_at.borrow() == facts {
            return false;
        }
        let proposed = self
            .lineage
            .staged(|state| own_proposal(View::new(state, &self.bundle.rules), Action::Terminate, inputs));
        ending.looked_at.replace(facts);
        let Some((permit, decision)) = proposed else {
            return false;
        };
        self.say_proposal("self");
        self.reports
            .event(Event::Verdict(verdict::verdict(&decision, "runtime")));
        self.say(lifecycle::Event::Permitted(permit, decision));
        ending.begun.set(true);
        true
    }

    /// What owners signed of the end that is to be recorded.
    #[must_use]
    pub fn take_approvals(&self) -> Vec<Approval> {
        self.ending.approvals.take()
    }

    /// The end is recorded: whoever asked for it is told.
    pub fn ended(&self) {
        for (id, words) in self.ending.waiting.take() {
            self.reports.reply(id, Reply::Verdict(words));
        }
    }

    fn say_proposal(&self, by: &str) {
        self.reports.event(Event::Proposal {
            action: Action::Terminate.to_string(),
            by: by.to_owned(),
            trigger: None,
            detail: String::new(),
        });
    }
}

fn error(problem: &Problem) -> Reply {
    Reply::Error {
        code: problem.code.clone(),
        message: problem.detail.clone(),
    }
}
