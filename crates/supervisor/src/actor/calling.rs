//! What callers ask of the object itself while it sleeps: answered from its files, and without waking it.
//!
//! The connection is served by the gate's own code, so that a caller finds the same HTTP as while the object is awake; who
//! asks is verified there, and each question comes back here, where the object's state is.

use std::rc::Rc;
use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_api::access::{Access, Detail};
use suijuris_core::ObjectId;
use suijuris_core::activation::{By, Phase};
use suijuris_core::decide::Rules;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::{Decision, Fired, State};
use suijuris_core::manifest::Protocol as Manifested;
use suijuris_core::time::{Ratchet, Timestamp};
use suijuris_custody::caller_api::{self, Ask, NotRead};
use suijuris_custody::claim::Claim;
use suijuris_custody::clock::Clock;
use suijuris_depot::Depot;
use suijuris_door::{Credentials, PreparedBundle, Shown};
use suijuris_gate::{
    Admission, Answering, Authorizer, Forwarding, Own, OwnAsk, Protocol, Refusal, Reply, RequestHead,
    serve_own,
};
use suijuris_vehicle::Driver;
use tokio::sync::{mpsc, oneshot};

use super::done::Done;
use super::requests::Words;
use super::{ObjectActor, Proposer};
use crate::connection::PendingConnection;
use crate::events::Origin;
use crate::services::Services;

/// Connections that ask a sleeping object at once, at most: each may bring a body.
pub(super) const MAX_CALLERS: usize = 16;

/// Something that a verified caller asks.
#[derive(Debug)]
pub(super) struct Called {
    by: Principal,
    ask: Ask,
    /// The definition whose keys verified the caller.
    prepared: Arc<PreparedBundle>,
    answer: oneshot::Sender<Result<Vec<u8>, Problem>>,
}

/// The gate's authorizer for a sleeping object: nothing is let through.
struct Asleep<D: Driver> {
    services: Rc<Services<D>>,
    prepared: Arc<PreparedBundle>,
    object: ObjectId,
    claim: Arc<Claim>,
    /// Of the last record: time does not go back behind it.
    at: Timestamp,
    answers: mpsc::Sender<Done<D::Machine>>,
    origin: Rc<Origin>,
}

impl<D: Driver> Asleep<D> {
    fn shown(&self, head: &RequestHead<'_>) -> Result<Shown, Problem> {
        if head.is_cross_site() {
            return Err(caller_api::cross_site());
        }
        let clock: &Clock = &self.services.clock;
        let now = Ratchet::new(self.at).observe(clock.reading());
        let shown = Credentials {
            wants: head.object,
            authorization: head.authorization,
        };
        match self.prepared.shown(self.object, now, shown)? {
            Shown::Caller(caller) if !caller.authenticated => {
                Err(caller_api::token_required(&self.object.to_string()))
            }
            shown => Ok(shown),
        }
    }
}

/// The principal of whoever showed a good token.
async fn principal(shown: Shown, depot: Option<Arc<dyn Depot>>) -> Result<Principal, Problem> {
    match shown {
        Shown::Caller(caller) => Ok(Principal::Caller(Box::new(Arc::unwrap_or_clone(caller)))),
        Shown::Object(token) => caller_api::peer(depot, token.object, (token.epoch, token.key)).await,
    }
}

impl<D: Driver> Authorizer for Asleep<D> {
    type Permit = std::convert::Infallible;

    fn logs(&self) -> Option<Detail> {
        self.services.access_log.detail()
    }

    fn logged(&self, access: Access) {
        self.services.access_log.tell(Some(&self.origin), access);
    }

    fn admit(&self, _: &RequestHead<'_>, _: &mut Forwarding) -> Admission<Self::Permit> {
        let problem = caller_api::not_now(&self.object.to_string());
        Admission::Refuse(Box::new(problem.into()))
    }

    fn own(&self, head: &RequestHead<'_>) -> Own {
        let shown = match self.shown(head) {
            Ok(shown) => shown,
            Err(problem) => return Own::Refuse(Box::new(problem.into())),
        };
        let (method, path) = (head.method.to_owned(), head.path.to_string());
        let (prepared, answers) = (self.prepared.clone(), self.answers.clone());
        let (object, depot) = (self.object, self.claim.depot());
        let answer = move |body: bytes::Bytes| -> Answering {
            Box::pin(async move {
                let ask = Ask::of(&method, &path, &body).map_err(refusal)?;
                let by = principal(shown, depot).await.map_err(refusal)?;
                let (answer, answered) = oneshot::channel();
                let called = Called {
                    by,
                    ask,
                    prepared,
                    answer,
                };
                // An actor that ends leaves its object at rest, for whoever runs it next.
                let _ = answers.send(Done::Called(Box::new(called))).await;
                let answered = answered.await;
                let answered = answered.unwrap_or_else(|_| Err(caller_api::not_now(&object.to_string())));
                answered.map(Reply::json).map_err(refusal)
            })
        };
        Own::Ask(OwnAsk {
            max_body: caller_api::MAX_BODY,
            answer: Box::new(answer),
        })
    }

    fn connect(&self, _: suijuris_gate::Peer<'_>) -> Admission<Self::Permit> {
        Admission::Refuse(Box::new(caller_api::not_now(&self.object.to_string()).into()))
    }
}

fn refusal(problem: Problem) -> Box<Refusal> {
    Box::new(problem.into())
}

impl<D: Driver> ObjectActor<D> {
    /// Somebody asks the object itself. Nothing is proposed for it: a sleeping object sleeps on.
    pub(super) fn own(&mut self, connection: PendingConnection, tries: u8) {
        let manifest = &self.prepared.bundle().manifest;
        let protocol = match manifest.gate.protocol {
            Manifested::Http => Protocol::Http,
            Manifested::H2c => Protocol::H2c,
            Manifested::Tcp | Manifested::FdPassing => {
                return self.refuse(connection, Refusal::reserved().problem);
            }
        };
        if !manifest.gate.api {
            return self.refuse(connection, Refusal::reserved().problem);
        }
        let awake = matches!(
            self.activation.phase(),
            Phase::Starting | Phase::Running | Phase::Resuming
        );
        if awake && tries == 0 {
            // Its runtime answers; one that ends first leaves the connection to the door again.
            return self.propose_elsewhere(Proposer::Connection(Box::new(connection)), By::Request, tries);
        }
        let (Some(at_door), Ok(permit)) = (&self.at_door, self.callers.clone().try_acquire_owned()) else {
            let problem = caller_api::not_now(&self.claim.object().to_string());
            return self.refuse(connection, problem);
        };
        let authorizer = Asleep {
            services: self.services.clone(),
            prepared: self.prepared.clone(),
            object: self.claim.object(),
            claim: self.claim.clone(),
            at: at_door.look(|state| state.head().at),
            answers: self.answers.clone(),
            origin: self.reporter.origin().clone(),
        };
        // One that is gone meanwhile is nobody's loss.
        let Ok(handoff) = connection.into_handoff() else {
            return;
        };
        self.tasks.spawn_local(async move {
            serve_own(authorizer, protocol, handoff).await;
            drop(permit);
        });
    }

    /// Answers a caller, if the object still rests here.
    pub(super) fn called(&mut self, called: Called) {
        let Called {
            by,
            ask,
            prepared,
            answer,
        } = called;
        if !Arc::ptr_eq(&prepared, &self.prepared) || !self.activation.door_decides() {
            let problem = caller_api::not_now(&self.claim.object().to_string());
            return drop(answer.send(Err(problem)));
        }
        let object = self.claim.object().to_string();
        let Ask::Write(patch) = ask else {
            let read = self.look_for(by, |state, inputs| {
                let phase = state.0.head().phase.as_str();
                caller_api::read(state, inputs, &ask, phase, Default::default())
            });
            return match read {
                Some(Ok(answered)) => drop(answer.send(Ok(answered))),
                Some(Err(NotRead::NoField(problem))) => drop(answer.send(Err(*problem))),
                Some(Err(NotRead::Refused(decision))) => self.refuse_caller(&decision, answer),
                None => drop(answer.send(Err(caller_api::not_now(&object)))),
            };
        };
        let may = self.look_for(by.clone(), |state, inputs| {
            caller_api::may_write(state, inputs, &patch)?;
            Ok(caller_api::reads_all(state, inputs))
        });
        let all = match may {
            Some(Ok(all)) => all,
            Some(Err(NotRead::Refused(decision))) => return self.refuse_caller(&decision, answer),
            Some(Err(NotRead::NoField(problem))) => return drop(answer.send(Err(*problem))),
            None => return drop(answer.send(Err(caller_api::not_now(&object)))),
        };
        match self.stage(by.clone(), &patch, Words::Caller) {
            Ok(staged) => self.written(staged, by, &patch, move |patched| {
                drop(answer.send(patched.map(|patched| caller_api::patched(&patched, all))));
            }),
            Err(problem) => drop(answer.send(Err(problem))),
        }
    }

    /// Looks at the object for whoever asks.
    fn look_for<R>(&mut self, by: Principal, look: impl FnOnce((&State, &Rules), &Inputs) -> R) -> Option<R> {
        let reading = self.services.clock.reading();
        let at_door = self.at_door.as_mut()?;
        let door = at_door.door();
        let (now, bundle, host) = (door.now(reading), door.bundle().clone(), door.place().clone());
        let inputs = Inputs::new(now, by, host);
        Some(at_door.look(|state| look((state, &bundle.rules), &inputs)))
    }

    /// A refusal is recorded, or kept while the machine is suspended, and only then told.
    fn refuse_caller(&mut self, decision: &Decision, answer: oneshot::Sender<Result<Vec<u8>, Problem>>) {
        let reading = self.services.clock.reading();
        let Some(at_door) = &mut self.at_door else { return };
        let problem = at_door.door().problem(decision);
        let due = at_door.refused(decision, Fired::new(), reading);
        let recording = at_door.record(due, reading);
        self.counted = true;
        self.tell(recording, async move { drop(answer.send(Err(problem))) });
    }
}
