//! What reaches the runtime from outside its machine's gate: signals, and its supervisor's words.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_api::agent::{Patch, Patched};
use suijuris_api::control::Reply;
use suijuris_core::id::Digest;
use suijuris_core::inputs::Principal;
use suijuris_core::lifecycle::{Event, Phase};
use suijuris_core::lineage::{Body, Refused};
use suijuris_core::owner_request::{Ask, SignedRequest};
use suijuris_custody::owner::{Asking, content_of, no_content, not_an_owner};
use suijuris_gate::Handoff;
use suijuris_link::message::Present;
use suijuris_link::{ToRuntime, ToSupervisor};
use tokio::sync::mpsc;

use crate::lineage_writer::Sign;
use crate::pid1::{self, Signal, Signals};
use crate::resident::Resident;
use crate::supervision::Supervision;

use super::copied::Copy;
use super::depot_route::Relay;
use super::handoff::{Came, let_through};
use super::witnessing::CODE_DEPOT;

/// How long a machine whose object is dormant, and which nobody has suspended, waits for the next supervisor: one that
/// was suspended while the last one ended finds out when the next one lets it run.
const ATTACH_WITHIN: Duration = Duration::from_secs(10);

/// How often a machine without a supervisor looks at whether its object is dormant.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Turns signals into events, and keeps the process table clean. Where nobody else sees to the object (`told` is there), the
/// first word to go is a proposal of the host to sleep: permitted, the object goes in order.
pub(super) async fn obey(
    mut signals: Signals,
    say: mpsc::Sender<Event>,
    resident: Rc<Resident>,
    told: Option<&Cell<bool>>,
) {
    loop {
        match signals.next().await {
            Signal::Stop(_) => {
                let first = told.is_some_and(|told| !told.replace(true));
                if first
                    && resident.phase() == Phase::Active
                    && resident.propose_sleep(Principal::Host).is_ok()
                {
                    continue;
                }
                let _ = say.send(Event::HostStops).await;
            }
            Signal::Forward(number) => resident.forward_signal(number),
            Signal::Child => {
                pid1::reap(resident.workload_pid());
            }
        }
    }
}

/// Does what supervisors ask over the link, one after the other; for ever quiet without one, or once the last is gone. Ends where one
/// says that this machine is a copy of the one that was suspended.
pub(super) async fn hear(
    supervision: Option<Supervision>,
    hand_over: mpsc::Sender<Handoff>,
    relay: Relay,
    resident: Rc<Resident>,
) -> Copy {
    let Some(mut supervision) = supervision else {
        return std::future::pending().await;
    };
    let ears = Ears {
        hand_over,
        relay,
        resident: &resident,
    };
    loop {
        while let Some(message) = supervision.receive(|| resident.reports().detach()).await {
            let message = match message {
                ToRuntime::Launch(launch) if Copy::is_meant(&launch, &resident) => {
                    return Copy::new(*launch, supervision);
                }
                message => message,
            };
            tokio::select! {
                biased;
                () = supervision.pressed() => break,
                () = ears.take(&supervision, message) => {}
            }
        }
        resident.reports().detach();
        if !welcome(&mut supervision, &resident).await {
            // Nobody owns the machine any more: stop as if the host had asked.
            resident.say(Event::HostStops);
            return std::future::pending().await;
        }
    }
}

/// Waits for the next supervisor and tells it how the object is; false where none comes, or none in time.
async fn welcome(supervision: &mut Supervision, resident: &Resident) -> bool {
    let successor = loop {
        let asleep = resident.phase() == Phase::Suspended;
        let patience = if asleep { ATTACH_WITHIN } else { LOOK_AGAIN };
        match tokio::time::timeout(patience, supervision.successor()).await {
            Ok(Some(successor)) => break successor,
            Ok(None) => return false,
            Err(_late) if asleep && resident.phase() == Phase::Suspended => return false,
            Err(_late) => {}
        }
    };
    let status = resident.status();
    let present = Present {
        object: resident.lineage().published(|state| state.head().object),
        phase: status.phase,
        epoch: status.epoch,
        seq: status.seq,
        generation: resident.reports().generation(),
        taken: resident.intake().renew(),
    };
    // One that is gone already is found out when it is listened to.
    let _ = successor.link.queue(ToSupervisor::Present(Box::new(present)));
    resident.reports().attach(successor);
    resident.reports().holds(status.holds);
    true
}

/// What the supervisor's words reach.
struct Ears<'r> {
    hand_over: mpsc::Sender<Handoff>,
    relay: Relay,
    resident: &'r Rc<Resident>,
}

impl Ears<'_> {
    async fn take(&self, supervision: &Supervision, message: ToRuntime<OwnedFd>) {
        let resident = self.resident;
        match message {
            ToRuntime::Connection {
                id,
                carrier,
                read,
                client,
            } => {
                let read = read.into_vec();
                let came = Came {
                    id,
                    carrier,
                    read,
                    client,
                };
                let_through(supervision, came, &self.hand_over, resident.intake()).await;
            }
            ToRuntime::Depot { route } => {
                if let Err(error) = self.relay.replace(route, supervision.link()) {
                    resident.reports().error(CODE_DEPOT, &error);
                }
            }
            ToRuntime::Server { key } => resident.serve_for(key),
            ToRuntime::Requests { detail } => resident.reports().tell_requests(detail),
            ToRuntime::Record { id, refused } => {
                if record_refused(resident, *refused).await {
                    // A supervisor that is gone records nothing either.
                    let _ = supervision.link().send(ToSupervisor::Recorded { id }).await;
                }
            }
            ToRuntime::Resumed { generation, cause } => {
                if resident.reports().resumed(generation) {
                    resident.hears_of_resumption();
                    resident.intake().open();
                    resident.started_for(*cause);
                    resident.machine_resumed();
                }
            }
            ToRuntime::KeyKept => resident.key_is_kept(),
            ToRuntime::Key { seed } => {
                if let Err(error) = resident.lineage().writer().take_key(seed.as_bytes()) {
                    resident.reports().error(CODE_KEY, &error);
                }
            }
            ToRuntime::Sleep { id, signed } => {
                let slept = principal(resident, signed.as_deref(), (Ask::Sleep, no_content()))
                    .and_then(|by| resident.propose_sleep(by));
                let reply = slept.map_or_else(error, Reply::Verdict);
                resident.reports().reply(id, reply);
            }
            ToRuntime::Patch { id, signed, patch } => {
                let reply = write(resident, signed.as_deref(), &patch.0).await;
                resident.reports().reply(id, reply);
            }
            ToRuntime::Terminate { id, approvals } => {
                // One that is permitted is answered once it is recorded.
                if let Some(reply) = resident.propose_end(id, approvals) {
                    resident.reports().reply(id, reply);
                }
            }
            ToRuntime::Stop { .. } => resident.say(Event::HostStops),
            // It runs already; and of a claim that was not announced nobody knows anything any more.
            ToRuntime::Launch(_) | ToRuntime::Granted { .. } | ToRuntime::File { .. } => {}
        }
    }
}

/// The waiting key that was kept cannot be taken back.
const CODE_KEY: &str = "key_failed";

async fn write(resident: &Resident, signed: Option<&SignedRequest>, patch: &Patch) -> Reply {
    let written = match principal(resident, signed, (Ask::Write, content_of(patch))) {
        Ok(by) => resident.patch(by, patch).await,
        Err(problem) => Err(problem),
    };
    written.map_or_else(error, |Patched { seq, root }| Reply::Patched { seq, root })
}

fn error(problem: Problem) -> Reply {
    Reply::Error {
        code: problem.code,
        message: problem.detail,
    }
}

/// Whoever asks: the owners who signed, or the host.
fn principal(
    resident: &Resident,
    signed: Option<&SignedRequest>,
    (ask, content): (Ask, Digest),
) -> Result<Principal, Problem> {
    let asking = Asking {
        ask,
        content,
        signed,
        server: resident.server(),
        now: resident.reading().wall,
    };
    let found = resident
        .lineage()
        .published(|state| asking.principal(state.head()));
    found.map_err(|error| not_an_owner(&error))
}

/// Records what the door refused while the machine was suspended; whether it is durable.
async fn record_refused(resident: &Resident, refused: Refused) -> bool {
    resident.claim().set_aside().await;
    let event = suijuris_words::verdict::refused(&refused);
    let body = Body::Refused(Box::new(refused));
    match resident
        .lineage()
        .commit(body, resident.now().at, Sign::Now)
        .await
    {
        Ok(_committed) => {
            resident.reports().event(event);
            true
        }
        Err(error) => {
            resident.reports().error(error.code(), &error);
            false
        }
    }
}
