//! The end of an object at rest: by its owners' word, or by its own. Awake, its runtime does the same.

use suijuris_api::control::Reply;
use suijuris_api::{Event, Problem};
use suijuris_core::activation::{Event as Happens, Phase};
use suijuris_core::decide::{View, own_proposal};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::Approval;
use suijuris_custody::chain;
use suijuris_custody::terminate::{self, Termination};
use suijuris_custody::write::unwitnessed;
use suijuris_store::Ticket;
use suijuris_vehicle::Driver;
use tokio::sync::oneshot;

use super::ObjectActor;
use super::done::Done;
use super::own::told;
use super::requests::{CODE_APPROVALS, CODE_NOT_NOW};
use crate::control::{CODE_BAD_REQUEST, error};

impl<D: Driver> ObjectActor<D> {
    /// Proposes to the object that it ends, which decides by its rules.
    pub(super) fn terminate(&mut self, approvals: Vec<Approval>, answer: oneshot::Sender<Reply>) {
        let reading = self.services.clock.reading();
        let host = self.services.host.clone();
        let moving = || error(CODE_NOT_NOW, "the object is moving: try again".to_owned());
        let Some(at_door) = self.at_door.as_mut() else {
            return drop(answer.send(moving()));
        };
        let now = at_door.door().now(reading);
        let Some(writer) = at_door.writer() else {
            return drop(answer.send(moving()));
        };
        self.reporter.proposal(Action::Terminate, "controller", None, "");
        let (decision, ticket, ended) = match terminate::propose(writer, approvals, now, host) {
            Ok(Termination::Over) => return drop(answer.send(over())),
            Ok(Termination::TooFew(_, found, needed)) => {
                let message = format!(
                    "{found} of the {needed} owners needed approved the end: have the others run `suijuris approve --terminate`"
                );
                return drop(answer.send(error(CODE_APPROVALS, message)));
            }
            Ok(Termination::Ended(decision, ticket)) => (decision, ticket, true),
            Ok(Termination::Refused(decision, Some(ticket))) => (decision, ticket, false),
            Ok(Termination::Refused(decision, None)) => {
                let words = self.reporter.verdict(&decision);
                return drop(answer.send(Reply::Verdict(words)));
            }
            Err(wrong) => return drop(answer.send(error(CODE_BAD_REQUEST, chain(&wrong)))),
        };
        let words = self.reporter.verdict(&decision);
        let last = ended.then(|| self.terminated(&ticket));
        self.record_last(ticket, last, told(words, answer));
    }

    /// Ends the object where it proposes that itself. It is asked when its record is another than when it was asked last, or
    /// where rules of its end look at the time.
    pub(super) fn end_of_itself(&mut self) {
        if !self.own_end.proposes || !matches!(self.activation.phase(), Phase::Resting | Phase::Suspended) {
            return;
        }
        let Some(at_door) = self.at_door.as_mut() else {
            return;
        };
        let seq = at_door.look(|state| state.head().seq);
        if !self.own_end.is_asked_at(seq) {
            return;
        }
        let now = at_door.door().now(self.services.clock.reading());
        let inputs = Inputs::new(now, Principal::Own, self.services.host.clone());
        let bundle = self.prepared.bundle().clone();
        let Some(writer) = at_door.writer() else {
            let proposes = at_door.look(|state| {
                own_proposal(View::new(state, &bundle.rules), Action::Terminate, inputs).is_some()
            });
            if proposes {
                // Its suspended machine holds the store, and is not needed any more; it is asked again once that is ours.
                self.own_end.looked_at = None;
                self.events.push_back(Happens::GiveUp);
            }
            return;
        };
        let (decision, ticket) = match terminate::of_itself(writer, &bundle, inputs) {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(wrong) => {
                self.broken = Some(wrong.into());
                return;
            }
        };
        self.reporter.proposal(Action::Terminate, "self", None, "");
        let _told = self.reporter.verdict(&decision);
        let last = Some(self.terminated(&ticket));
        self.record_last(ticket, last, |_| {});
    }

    fn terminated(&self, ticket: &Ticket) -> (Event, Done<D::Machine>) {
        let _ = self;
        (Event::Terminated { seq: ticket.seq() }, Done::Ended)
    }

    /// Whether rules of its own end look at the time, so that it is to be asked as that passes.
    pub(super) fn ends_by_time(&self) -> bool {
        self.own_end.goes_by_time(self.at_door.as_ref())
    }

    /// Tells once the record is durable, and witnessed as it should be; `last` where the object is over here with it: what is
    /// said of it, and what follows.
    pub(super) fn record_last(
        &mut self,
        ticket: Ticket,
        last: Option<(Event, Done<D::Machine>)>,
        tell: impl FnOnce(Result<(), Problem>) + 'static,
    ) {
        let (claim, answers, reporter) = (self.claim.clone(), self.answers.clone(), self.reporter.clone());
        let seq = ticket.seq();
        self.tasks.spawn_local(async move {
            if let Err(wrong) = ticket.await {
                let _ = answers.send(Done::Broken(wrong.into())).await;
                return;
            }
            let acknowledged = claim.acknowledge(seq).await;
            let (event, done) = last.unzip();
            event.into_iter().for_each(|event| drop(reporter.event(event)));
            tell(acknowledged.map(drop).map_err(unwitnessed));
            if let Some(done) = done {
                let _ = answers.send(done).await;
            }
        });
    }
}

/// It has ended before.
fn over() -> Reply {
    error(
        "terminated",
        "the object has been terminated before: nothing is left to end".to_owned(),
    )
}
