//! Connections: decided about at the door, handed to the gate, kept until it has taken them, or answered. Nobody is lost
//! between two processes.

use std::os::fd::AsFd as _;

use suijuris_api::Problem;
use suijuris_api::control::Reply;
use suijuris_api::event::Verdict as VerdictWords;
use suijuris_core::activation::{Answer, By, Event, Failure, Proposal as Numbered, ProposalId, Refusal};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::lineage::{Decision, Fired};
use suijuris_core::manifest::{Manifest, Protocol};
use suijuris_custody::at_rest::Recording;
use suijuris_door::{Passed, Proposal, problems};
use suijuris_gate::RequestHead;
use suijuris_link::frame::StreamKind;
use suijuris_link::launch::Address;
use suijuris_link::message::Carrier;
use suijuris_link::mux::{OpenError, QueueError};
use suijuris_link::{SupervisorLink, ToRuntime};
use suijuris_store::StageError;
use suijuris_vehicle::Driver;

use super::done::Done;
use super::{ObjectActor, Proposed, Proposer};
use crate::capability::{self, CODE_INCAPABLE, CODE_NOT_RECEIVED};
use crate::connection::{ClientStream, PendingConnection, relay};
use crate::control::Check;

/// What the door made of a proposal.
pub(super) enum Decided {
    /// Permitted, and proposed to the activation under this number.
    Proposed,
    /// Refused.
    Refused(VerdictWords),
    /// The door does not decide now.
    Elsewhere(Proposer),
}

impl<D: Driver> ObjectActor<D> {
    /// Somebody came, or came back from `tries` machines that ended first.
    pub(super) fn connection(&mut self, mut connection: PendingConnection, tries: u8) {
        connection.log_to(&self.services.access_log, Some(self.reporter.origin()));
        connection.readable_by(&self.prepared.bundle().manifest.gate.cors);
        if connection.look(|head: &RequestHead<'_>| head.is_reserved()) == Some(true) {
            return self.own(connection, tries);
        }
        if let Some(problem) = not_whole(&connection, self.prepared.bundle()) {
            return self.refuse(connection, problem);
        }
        let ask = match connection.ask(self.prepared.bundle()) {
            Ok(ask) => ask,
            Err(refusal) => return self.refuse(connection, refusal.problem),
        };
        let reading = self.services.clock.reading();
        let decides = self.activation.door_decides();
        let Some(at_door) = self.at_door.as_mut().filter(|_| decides) else {
            let by = Proposer::Connection(Box::new(connection));
            self.propose_elsewhere(by, By::Request, tries);
            return;
        };
        let request = ask.request.clone();
        match at_door
            .door()
            .authenticate(ask.credentials(), |_| Ok(request), reading)
        {
            Ok(proposal) => {
                let detail = ask.summary();
                let by = Proposer::Connection(Box::new(connection));
                let _ = self.propose(proposal, &detail, by, tries);
            }
            Err(problem) => self.refuse(connection, problem),
        }
    }

    /// Proposes to the activation what the door does not decide now.
    pub(super) fn propose_elsewhere(&mut self, by: Proposer, how: By, tries: u8) {
        self.keep(by, how, None, tries);
    }

    fn keep(&mut self, by: Proposer, how: By, permitted: Option<Proposal>, tries: u8) {
        let id = ProposalId(self.number());
        self.proposals.insert(id, Proposed { by, permitted });
        self.events
            .push_back(Event::Proposed(Numbered { id, by: how, tries }));
    }

    /// Whether no machine here can run the workload, or none may: it has an image, and there is no place for one; the vehicle carries none
    /// of its kind; it came from another host, and is not let.
    pub(super) fn is_incapable(&self) -> bool {
        let manifest = &self.prepared.bundle().manifest;
        let about = self.services.driver.describe();
        let has_no_image =
            manifest.workload.image.is_some() && !(self.services.images.is_some() && about.images);
        has_no_image || self.may_be(manifest).is_err()
    }

    /// Whether an object of this definition can be carried here, and may be.
    ///
    /// # Errors
    /// A code, and what is in the way in words.
    pub(super) fn may_be(&self, manifest: &Manifest) -> Result<(), (&'static str, String)> {
        let about = self.services.driver.describe();
        capability::fits(about, manifest).map_err(|why| (CODE_INCAPABLE, why))?;
        let foreign = self.foreign.as_ref();
        let may_run = foreign.map_or(Ok(()), |receive| receive.may_run(about, manifest));
        may_run.map_err(|why| (CODE_NOT_RECEIVED, why))
    }

    /// Decides a proposal to wake at the door: begins an activation, or refuses.
    pub(super) fn propose(&mut self, proposal: Proposal, detail: &str, by: Proposer, tries: u8) -> Decided {
        let reading = self.services.clock.reading();
        let decides = self.activation.door_decides();
        let incapable = self.is_incapable();
        let Some(at_door) = self.at_door.as_mut().filter(|_| decides) else {
            return Decided::Elsewhere(by);
        };
        let verdict = at_door.decide(&proposal, reading, incapable);
        let trigger = proposal.trigger.kind.as_str();
        self.reporter
            .proposal(Action::Wake, proposal.principal.as_str(), Some(trigger), detail);
        let words = self.reporter.verdict(verdict.decision());
        match verdict {
            Verdict::Permit(..) => {
                let how = by.how();
                self.keep(by, how, Some(proposal), tries);
                Decided::Proposed
            }
            Verdict::Refuse(decision) => {
                self.refuse_at_door(&decision, proposal.fired, by, &words);
                Decided::Refused(words)
            }
        }
    }

    /// A proxy asks whether a request may pass: decided and counted as for a connection, and nothing starts.
    pub(super) fn check(&mut self, check: Check) {
        let Check { asked, answer } = check;
        let reading = self.services.clock.reading();
        let decides = self.activation.door_decides();
        let incapable = self.is_incapable();
        let Some(at_door) = self.at_door.as_mut().filter(|_| decides) else {
            return drop(answer.send(Ok(Passed::Awake)));
        };
        let proposal = match asked.proposal(at_door.door(), reading) {
            Ok(proposal) => proposal,
            Err(problem) => return drop(answer.send(Err(problem))),
        };
        let decision = match at_door.decide(&proposal, reading, incapable) {
            Verdict::Permit(..) => return drop(answer.send(Ok(Passed::Permitted))),
            Verdict::Refuse(decision) => decision,
        };
        let problem = at_door.door().problem(&decision);
        let due = at_door.refused(&decision, proposal.fired, reading);
        let recording = at_door.record(due, reading);
        self.counted = true;
        self.tell(recording, async move { drop(answer.send(Err(problem))) });
    }

    /// A refusal is recorded, or kept while the machine is suspended, and only then told.
    fn refuse_at_door(&mut self, decision: &Decision, fired: Fired, by: Proposer, words: &VerdictWords) {
        let reading = self.services.clock.reading();
        let Some(at_door) = &mut self.at_door else { return };
        let problem = at_door.door().problem(decision);
        let due = at_door.refused(decision, fired, reading);
        let recording = at_door.record(due, reading);
        self.counted = true;
        let (words, answers) = (words.clone(), self.answers.clone());
        self.tell(recording, async move {
            match by {
                Proposer::Connection(connection) => connection.refuse(problem).await,
                Proposer::Owner(request) => drop(request.answer.send(Reply::Verdict(words))),
                Proposer::Timer => drop(answers.send(Done::TimersNoted).await),
                Proposer::Message | Proposer::Memory => {}
            }
        });
    }

    /// Does this once what is being recorded is durable.
    pub(super) fn tell(
        &mut self,
        recording: Result<Recording, StageError>,
        then: impl Future<Output = ()> + 'static,
    ) {
        let recording = match recording {
            Ok(recording) => recording,
            Err(error) => {
                self.broken = Some(error.into());
                return;
            }
        };
        let (reporter, answers) = (self.reporter.clone(), self.answers.clone());
        self.tasks.spawn_local(async move {
            match recording.durable().await {
                Ok(recorded) => {
                    reporter.refused(&recorded);
                    then.await;
                }
                Err(error) => {
                    let _ = answers.send(Done::Broken(error)).await;
                }
            }
        });
    }

    /// Answers a connection that it goes no further, without keeping others waiting.
    pub(super) fn refuse(&mut self, connection: PendingConnection, problem: Problem) {
        self.tasks.spawn_local(connection.refuse(problem));
    }

    /// Hands a connection to the runtime, and keeps it until its gate has taken it.
    pub(super) fn deliver(&mut self, id: ProposalId) {
        let Some(Proposed {
            by: Proposer::Connection(connection),
            ..
        }) = self.proposals.get_mut(&id)
        else {
            return;
        };
        let Some(machine) = &self.machine else { return };
        let queued = offer(&machine.running.link, id.0, connection);
        let problem = match queued {
            Err(QueueError::TooLarge { .. }) => {
                Problem::new(431, "head_too_large", "The request head is too large")
                    .with_detail("send fewer or shorter header fields")
            }
            Err(QueueError::Full) => {
                Problem::new(503, "held_full", "Too many requests are waiting for the object")
                    .with_detail("try again in a moment")
            }
            // A runtime that has just left has not taken it either: the end of its machine follows.
            Ok(()) | Err(_) => return,
        };
        self.events.push_back(Event::Gone(id));
        if let Some(Proposed {
            by: Proposer::Connection(connection),
            ..
        }) = self.proposals.remove(&id)
        {
            self.refuse(*connection, problem);
        }
    }

    /// The runtime has taken a connection: what of it can only go as bytes is carried from now on.
    pub(super) fn taken(&mut self, id: ProposalId) {
        if let Some(Proposed {
            by: Proposer::Connection(connection),
            ..
        }) = self.proposals.remove(&id)
            && let Some((client, runtime)) = connection.taken()
        {
            self.tasks.spawn_local(relay(client, runtime));
        }
    }

    /// What becomes of a proposal.
    pub(super) fn answer(&mut self, proposal: Numbered, answer: Answer) {
        let Some(Proposed { by, .. }) = self.proposals.remove(&proposal.id) else {
            return;
        };
        match by {
            Proposer::Connection(connection) => match answer {
                Answer::Again => self.connection(*connection, proposal.tries),
                Answer::Refused(refusal) => {
                    let problem = self.problem_of(refusal, proposal.tries);
                    self.refuse(*connection, problem);
                }
                // A connection is delivered, and taken.
                Answer::Woke => {}
            },
            Proposer::Timer => self.timers_proposed = false,
            Proposer::Message => self.messages_answered(answer),
            Proposer::Memory => {}
            Proposer::Owner(request) => self.owner_answered(*request, answer),
        }
    }

    /// What whoever waited is told.
    fn problem_of(&self, refusal: Refusal, tries: u8) -> Problem {
        let machine = tries > 0 && !matches!(refusal, Refusal::NotTheObject(_) | Refusal::Stopping);
        if let Some(problem) = self.problem.as_ref().filter(|_| machine) {
            // What everybody in the machine was told that it was tried with.
            return problem.clone();
        }
        if let (Refusal::Paused(left), 0) = (refusal, tries) {
            return problems::backing_off(self.claim.object(), left);
        }
        if refusal == Refusal::Stopping {
            let mut problem = suijuris_gate::Refusal::draining().problem;
            problem.object = self.claim.object().to_string();
            return problem;
        }
        let failed = |title| Problem::new(503, "machine_failed", title);
        let (problem, detail) = match refusal {
            Refusal::Inside(_) => (
                Problem::new(503, "refused", "The object refused to wake"),
                "its rules refused inside its machine",
            ),
            Refusal::NotTheObject(_) => (
                Problem::new(503, "twin", "Another copy holds the object"),
                "this copy does not serve: send the request where the object runs",
            ),
            Refusal::Full => (
                Problem::new(503, "held_full", "Too many requests are waiting for the object"),
                "try again in a moment",
            ),
            Refusal::NotRecorded(_) => (
                failed("The object cannot be woken now"),
                "the end of its last machine is not recorded yet: try again",
            ),
            Refusal::Failed(Failure::Start) => (
                failed("The machine cannot be started"),
                "the owner can see the cause in the events of the process that runs it",
            ),
            Refusal::Failed(_) | Refusal::Paused(_) | Refusal::Stopping => (
                failed("The machine ended"),
                "the machine ended before it took the request: try again",
            ),
        };
        let mut problem = problem.with_detail(detail);
        problem.object = self.claim.object().to_string();
        let after = refusal.retry_after();
        problem.retry_after = after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0));
        problem
    }
}

/// The answer to a connection that an object cannot have which takes connections whole: one that is good for one request of
/// many, or whose bytes alone can be passed on.
fn not_whole(connection: &PendingConnection, bundle: &Bundle) -> Option<Problem> {
    let protocol = bundle.manifest.gate.protocol;
    let once = connection.client.as_ref().is_some_and(|client| client.once);
    let detail = match (protocol, &connection.stream) {
        (Protocol::Tcp | Protocol::FdPassing, _) if once => {
            "it takes whole connections: reach it by its host and not by path, and through a proxy by the PROXY protocol or a port of its own"
        }
        (Protocol::FdPassing, ClientStream::Tls(_)) => {
            "it takes connections themselves, and TLS ends before it: reach it without TLS"
        }
        _ => return None,
    };
    let problem = Problem::new(501, "not_implemented", "The object cannot be reached this way");
    Some(problem.with_detail(detail))
}

/// Says to a runtime that a connection is there for it: as a descriptor, or as a stream where TLS ends here or no
/// descriptor reaches the machine.
fn offer(link: &SupervisorLink, id: u64, connection: &mut PendingConnection) -> Result<(), QueueError> {
    let carrier = match &connection.stream {
        // Out of descriptors: it is answered, since it cannot be handed on.
        ClientStream::Plain(socket) if link.passes_descriptors() => match socket.as_fd().try_clone_to_owned()
        {
            Ok(socket) => Carrier::Descriptor(socket),
            Err(_) => return Err(QueueError::Full),
        },
        ClientStream::Plain(_) | ClientStream::Tls(_) => {
            let stream = link.open(StreamKind::Connection).map_err(|error| match error {
                OpenError::Ended => QueueError::Ended,
                _ => QueueError::Full,
            })?;
            let number = stream.id().number();
            connection.offered = Some(stream);
            let peer = Address(connection.peer());
            Carrier::Stream { number, peer }
        }
    };
    link.queue(ToRuntime::Connection {
        id,
        carrier,
        read: connection.bytes().into(),
        client: connection.client.clone(),
    })
}

impl Proposer {
    const fn how(&self) -> By {
        match self {
            Self::Connection(..) => By::Request,
            Self::Timer => By::Timer,
            Self::Message => By::Message,
            Self::Memory => By::Memory,
            Self::Owner(_) => By::Owner,
        }
    }
}
