//! What owners and hosts ask: judged by the pure queue, verified when it is done, answered once.

use std::sync::Arc;
use suijuris_api::Problem;
use suijuris_api::agent::{Patch, Patched};
use suijuris_api::control::Reply;
use suijuris_core::activation::requests::{Due, Kind, Meanwhile, RequestId, Verdict as Judged, Way};
use suijuris_core::activation::{Answer, By, Event, Phase};
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::Fired;
use suijuris_custody::amend::{self, Amendment};
use suijuris_custody::owner::{Asking, not_an_owner};
use suijuris_custody::write::{self, Durable, Staged, WriteError, Written, unwitnessed};
use suijuris_custody::{caller_api, chain};
use suijuris_door::{PreparedBundle, Proposal};
use suijuris_link::ToRuntime;
use suijuris_link::message::Json;
use suijuris_link::mux::QueueError;
use suijuris_store::Sign;
use suijuris_vehicle::Driver;
use tokio::sync::oneshot;

use super::connections::Decided;
use super::done::Done;
use super::own::OwnEnd;
use super::{ObjectActor, Proposer};
use crate::control::{Asked, CODE_BAD_REQUEST, PendingRequest, Proposed, What, error};

/// What was proposed is in force.
const CODE_IN_FORCE: &str = "in_force";

/// Too few owners approved.
pub(super) const CODE_APPROVALS: &str = "approvals_missing";

/// It cannot be done in this state.
pub(super) const CODE_NOT_NOW: &str = "not_now";

/// Who reads why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// Its owner, or the host: rules and causes.
    Owner,
    /// A caller.
    Caller,
}

impl<D: Driver> ObjectActor<D> {
    pub(super) fn request(&mut self, request: PendingRequest) {
        let id = self.number();
        let kind = request.asked.kind();
        let (now, terms) = (self.now(), self.services.request_terms);
        let judged = self
            .queue
            .offer(RequestId(id), kind, &self.activation, now, &terms);
        self.requests.insert(id, request);
        self.resolve(id, judged);
    }

    /// What of the queue can be done or answered now.
    pub(super) fn requests_that_are_due(&mut self) {
        let (now, terms) = (self.now(), self.services.request_terms);
        while let Some(due) = self.queue.next(&self.activation, now, &terms) {
            match due {
                Due::Answer(id, _, judged) => self.resolve(id.0, judged),
                Due::Meanwhile(Meanwhile::Unlock) => self.unlock(),
                Due::Meanwhile(Meanwhile::GiveUp) => self.events.push_back(Event::GiveUp),
                Due::Meanwhile(Meanwhile::Nothing) => {}
            }
        }
    }

    fn resolve(&mut self, id: u64, judged: Judged) {
        match judged {
            Judged::Queue(_) => {}
            Judged::Accept(Way::Runtime(_)) => self.ask_runtime(id),
            Judged::Accept(Way::Propose) => {
                if let Some(request) = self.requests.remove(&id) {
                    self.owner_wakes(request);
                }
            }
            Judged::Accept(Way::AtRest) => {
                if let Some(request) = self.requests.remove(&id) {
                    self.at_rest(request);
                }
            }
            Judged::Accept(Way::Answer | Way::Stop) | Judged::Ignore => {
                let status = self.status();
                self.reply(id, status);
            }
            Judged::Deny(denial) => self.reply(id, error(CODE_NOT_NOW, denial.to_string())),
        }
    }

    fn reply(&mut self, id: u64, reply: Reply) {
        if let Some(request) = self.requests.remove(&id) {
            let _ = request.answer.send(reply);
        }
    }

    /// How it is.
    fn status(&self) -> Reply {
        let phase = match self.activation.phase() {
            Phase::Resting | Phase::BackingOff | Phase::Settling | Phase::Lost => "dormant",
            Phase::Suspending | Phase::Suspended => "suspended",
            Phase::Starting | Phase::Resuming => "waking",
            Phase::Running => "active",
            Phase::Draining | Phase::Stopping => "draining",
        };
        Reply::Status {
            phase: phase.to_owned(),
            pid: std::process::id(),
            url: self.url.clone(),
            server: self.services.server.to_string(),
            paused: super::paused(&self.pause),
            holds: self.holds.left(),
        }
    }

    /// Whoever asks: the owners who signed, or the host. By the object's last record, which is here.
    fn principal(&self, asked: &Asked) -> Result<Principal, Problem> {
        let (ask, content) = asked.content(self.claim.object());
        let asking = Asking {
            ask,
            content,
            signed: asked.signed.as_deref(),
            server: self.services.server,
            now: self.services.clock.reading().wall,
        };
        let head = self.at_door.as_ref().map(super::AtDoor::head);
        let head = head.ok_or_else(|| Problem::new(503, CODE_NOT_NOW, "The object is moving"))?;
        asking.principal(&head).map_err(|error| not_an_owner(&error))
    }

    /// What was signed is good for one use.
    fn spend(&mut self, asked: &Asked) -> Result<(), Problem> {
        let now = self.services.clock.reading().wall;
        let Some(signed) = &asked.signed else {
            return Ok(());
        };
        let spent = self.services.spent.spend(&signed.request, now);
        spent.map_err(|error| not_an_owner(&error))
    }

    fn verified(&mut self, asked: &Asked) -> Result<Principal, Problem> {
        let by = self.principal(asked)?;
        self.spend(asked)?;
        Ok(by)
    }

    // Awake.

    fn ask_runtime(&mut self, id: u64) {
        let Some(asked) = self.requests.get(&id).map(|request| request.asked.clone()) else {
            return;
        };
        // It verifies itself, and knows nothing of what was spent.
        if let Err(problem) = self.spend(&asked) {
            self.queue.answered(RequestId(id));
            return self.reply(id, refused(&problem));
        }
        let signed = asked.signed;
        let message = match asked.what {
            What::Write(patch) => {
                let patch = Json(patch);
                ToRuntime::Patch { id, signed, patch }
            }
            What::Terminate(approvals) => ToRuntime::Terminate { id, approvals },
            What::Sleep | What::Wake | What::Status | What::Amend(_) | What::Depart(_) | What::Fork(_) => {
                ToRuntime::Sleep { id, signed }
            }
        };
        let Some(machine) = &self.machine else { return };
        if let Err(wrong) = machine.running.link.queue(message) {
            let code = match wrong {
                QueueError::TooLarge { .. } => CODE_BAD_REQUEST,
                _ => "machine_failed",
            };
            self.queue.answered(RequestId(id));
            self.reply(id, error(code, wrong.to_string()));
        }
    }

    // Waking.

    fn owner_wakes(&mut self, request: PendingRequest) {
        if !self.activation.door_decides() || self.at_door.is_none() {
            return self.propose_elsewhere(Proposer::Owner(Box::new(request)), By::Owner, 0);
        }
        let by = match self.verified(&request.asked) {
            Ok(by) => by,
            Err(problem) => {
                let _ = request.answer.send(refused(&problem));
                return;
            }
        };
        let proposal = Proposal::manual(by);
        if let Decided::Elsewhere(by) = self.propose(proposal, "", Proposer::Owner(Box::new(request)), 0) {
            self.propose_elsewhere(by, By::Owner, 0);
        }
    }

    pub(super) fn owner_answered(&mut self, request: PendingRequest, answer: Answer) {
        let reply = match answer {
            Answer::Again => return self.owner_wakes(request),
            Answer::Woke => self.woken(),
            Answer::Refused(suijuris_core::activation::Refusal::Inside(_)) => self.woken(),
            Answer::Refused(refusal) => error("machine_failed", format!("{refusal}: try again")),
        };
        let _ = request.answer.send(reply);
    }

    /// The runtime's verdict on the wake, or how the object is.
    fn woken(&self) -> Reply {
        let verdict = self.wake_verdict.clone();
        verdict.map_or_else(|| self.status(), Reply::Verdict)
    }

    /// A suspended machine has the store that an owner writes to. Where the door lets them wake the object, it is resumed
    /// and writes itself; otherwise the machine is given up, which is all that its runtime would do.
    fn unlock(&mut self) {
        let write = |request: &&PendingRequest| request.asked.kind() == Kind::Write;
        let waiting = self
            .requests
            .values()
            .find(write)
            .map(|request| request.asked.clone());
        let by = waiting.map(|asked| self.principal(&asked));
        let incapable = self.is_incapable();
        if let (Some(Ok(by)), Some(at_door)) = (by, &mut self.at_door) {
            let proposal = Proposal::manual(by);
            let reading = self.services.clock.reading();
            if let Verdict::Permit(..) = at_door.decide(&proposal, reading, incapable) {
                let _ = self.propose(proposal, "", Proposer::Memory, 0);
                return;
            }
        }
        self.events.push_back(Event::GiveUp);
    }

    // At rest.

    fn at_rest(&mut self, request: PendingRequest) {
        let PendingRequest { asked, answer } = request;
        let patch = match asked.what.clone() {
            What::Write(patch) => patch,
            What::Amend(proposed) => return self.amend(*proposed, answer),
            What::Terminate(approvals) => return self.terminate(approvals, answer),
            What::Fork(forking) => return self.fork(forking, answer),
            What::Depart(leaving) => {
                return match self.verified(&asked) {
                    Ok(by) => self.depart(by, leaving.to, answer),
                    Err(problem) => drop(answer.send(refused(&problem))),
                };
            }
            What::Wake | What::Sleep | What::Status => return,
        };
        let staged = self.verified(&asked).and_then(|by| {
            let staged = self.stage(by.clone(), &patch, Words::Owner)?;
            Ok((by, staged))
        });
        let (by, staged) = match staged {
            Ok(staged) => staged,
            Err(problem) => return drop(answer.send(refused(&problem))),
        };
        self.written(staged, by, &patch, |patched| {
            let reply = match patched {
                Ok(Patched { seq, root }) => Reply::Patched { seq, root },
                Err(problem) => refused(&problem),
            };
            drop(answer.send(reply));
        });
    }

    /// Answers a staged write once it may be told, and lets a field propose a wake whose definition says so.
    pub(super) fn written(
        &mut self,
        staged: Staged,
        by: Principal,
        patch: &Patch,
        answer: impl FnOnce(Result<Patched, Problem>) + 'static,
    ) {
        let wakes = self.wakes(patch);
        let (claim, reporter) = (self.claim.clone(), self.reporter.clone());
        let object = self.claim.object().to_string();
        let answers = self.answers.clone();
        self.tasks.spawn_local(async move {
            let written = async {
                let durable: Durable = staged.durable().await.map_err(|error| error.problem(&object))?;
                reporter.event(durable.event());
                claim.acknowledge_write(durable).await.map_err(unwitnessed)
            };
            match written.await {
                Ok(Written { seq, root, .. }) => {
                    answer(Ok(Patched { seq, root }));
                    if let Some(field) = wakes {
                        let _ = answers.send(Done::Wakes(by, field)).await;
                    }
                }
                Err(problem) => answer(Err(problem)),
            }
        });
    }

    /// Proposes a new definition to the object, which decides by the rules in force; not one that cannot or may not run here.
    fn amend(&mut self, proposed: Proposed, answer: oneshot::Sender<Reply>) {
        if let Ok(bundle) = proposed.files.open()
            && let Err((code, why)) = self.may_be(&bundle.manifest)
        {
            return drop(answer.send(error(code, why)));
        }
        let reading = self.services.clock.reading();
        let host = self.services.host.clone();
        let Some(at_door) = self.at_door.as_mut() else {
            return drop(answer.send(error(CODE_NOT_NOW, "the object is moving".to_owned())));
        };
        let now = at_door.door().now(reading);
        let Some(writer) = at_door.writer() else {
            return drop(answer.send(error(CODE_NOT_NOW, "the object is moving".to_owned())));
        };
        let Proposed { files, approvals } = proposed;
        self.reporter.proposal(Action::Amend, "controller", None, "");
        let (decision, ticket, bundle) = match amend::propose(writer, &files, approvals, now, host) {
            Ok(Amendment::InForce) => {
                let message = "this definition is in force already".to_owned();
                return drop(answer.send(error(CODE_IN_FORCE, message)));
            }
            Ok(Amendment::TooFew(_, found, needed)) => {
                let message = format!("{found} of the {needed} owners needed approved this definition");
                return drop(answer.send(error(CODE_APPROVALS, message)));
            }
            Ok(Amendment::Amended(decision, ticket, bundle)) => (decision, ticket, Some(bundle)),
            Ok(Amendment::Refused(decision, ticket)) => (decision, ticket, None),
            Err(wrong) => return drop(answer.send(error(CODE_BAD_REQUEST, chain(&wrong)))),
        };
        let words = self.reporter.verdict(&decision);
        if let Some(bundle) = bundle {
            match PreparedBundle::new(bundle) {
                Ok(prepared) => self.take_bundle(Arc::new(prepared)),
                Err(wrong) => return drop(answer.send(error(CODE_BAD_REQUEST, chain(&wrong)))),
            }
        }
        let (claim, answers) = (self.claim.clone(), self.answers.clone());
        let seq = ticket.seq();
        self.tasks.spawn_local(async move {
            if let Err(wrong) = ticket.await {
                let _ = answers.send(Done::Broken(wrong.into())).await;
                return;
            }
            let reply = match claim.acknowledge(seq).await {
                Ok(_) => Reply::Verdict(words),
                Err(why) => refused(&unwitnessed(why)),
            };
            let _ = answer.send(reply);
        });
    }

    /// The object has another bundle from now on.
    fn take_bundle(&mut self, prepared: Arc<PreparedBundle>) {
        self.own_end = OwnEnd::of(&prepared, Action::Terminate);
        self.own_move = OwnEnd::of(&prepared, Action::Migrate);
        self.prepared = prepared.clone();
        self.looked_after.set(self.is_to_be_looked_after());
        if let Some(at_door) = &mut self.at_door {
            let (host, witnessed) = (self.services.host.clone(), self.claim.witnessed());
            at_door.amended(prepared, host, witnessed);
        }
    }

    /// Decides a write and stages it for the disk; a refusal is counted, and put in words for whoever reads them.
    pub(super) fn stage(&mut self, by: Principal, patch: &Patch, words: Words) -> Result<Staged, Problem> {
        let reading = self.services.clock.reading();
        let object = self.claim.object().to_string();
        let at_door = self.at_door.as_mut();
        let Some(at_door) = at_door.filter(|at_door| at_door.writer().is_some()) else {
            return Err(caller_api::not_now(&object));
        };
        let door = at_door.door();
        let (now, bundle, host) = (door.now(reading), door.bundle().clone(), door.place().clone());
        let Some(writer) = at_door.writer() else {
            return Err(caller_api::not_now(&object));
        };
        let inputs = Inputs::new(now, by, host);
        let staged = write::stage(&self.claim, writer, &bundle, inputs, patch, (now.at, Sign::Now));
        let error = match staged {
            Ok(staged) => return Ok(staged),
            Err(error) => error,
        };
        let mut problem = match words {
            Words::Owner => error.problem(&object),
            Words::Caller => error.public_problem(&object),
        };
        if let WriteError::Refused(decision) = &error {
            if words == Words::Caller {
                problem = at_door.door().problem(decision);
            }
            let due = at_door.refused(decision, Fired::new(), reading);
            let recording = at_door.record(due, reading);
            self.counted = true;
            self.tell(recording, std::future::ready(()));
        }
        Err(problem)
    }

    /// The first field of the patch whose changes propose a wake.
    fn wakes(&self, patch: &Patch) -> Option<String> {
        let schema = &self.prepared.bundle().manifest.memory;
        patch
            .fields()
            .filter(|name| schema.field(name).is_some_and(|field| field.wakes))
            .min()
            .cloned()
    }

    /// A write was acknowledged that proposes a wake.
    pub(super) fn memory_wakes(&mut self, by: Principal, field: &str) {
        let proposal = Proposal::memory(by, field.to_owned());
        // Awake or about to be: the runtime sees the field.
        let _ = self.propose(proposal, field, Proposer::Memory, 0);
    }
}

pub(super) fn refused(problem: &Problem) -> Reply {
    error(&problem.code, problem.detail.clone())
}
