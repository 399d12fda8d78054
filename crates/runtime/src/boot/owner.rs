//! What reaches the runtime from outside its machine's gate: signals, and its supervisor's words.

use std::rc::Rc;

use suijuris_api::Problem;
use suijuris_api::agent::{Patch, Patched};
use suijuris_api::control::Reply;
use suijuris_core::id::Digest;
use suijuris_core::inputs::Principal;
use suijuris_core::lifecycle::Event;
use suijuris_core::lineage::{Body, Refused};
use suijuris_core::owner_request::{Ask, SignedRequest};
use suijuris_custody::owner::{Asking, content_of, no_content, not_an_owner};
use suijuris_gate::Handoff;
use suijuris_link::{RuntimeLink, ToRuntime, ToSupervisor};
use tokio::sync::mpsc;

use crate::lineage_writer::Sign;
use crate::pid1::{self, Signal, Signals};
use crate::resident::Resident;

use super::broken::let_through;

/// Turns signals into events, and keeps the process table clean.
pub(super) async fn obey(mut signals: Signals, say: mpsc::Sender<Event>, resident: Rc<Resident>) {
    loop {
        match signals.next().await {
            Signal::Stop(_) => {
                let _ = say.send(Event::HostStops).await;
            }
            Signal::Forward(number) => resident.forward_signal(number),
            Signal::Child => {
                pid1::reap(resident.workload_pid());
            }
        }
    }
}

/// Does what the supervisor asks over the link; for ever quiet without one, or once it has ended.
pub(super) async fn hear(
    link: Option<RuntimeLink>,
    hand_over: mpsc::Sender<Handoff>,
    resident: Rc<Resident>,
) {
    let Some(link) = link else {
        return std::future::pending().await;
    };
    loop {
        let message = match link.receive().await {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => {
                // Nobody owns the machine any more: stop as if the host had asked.
                resident.say(Event::HostStops);
                return std::future::pending().await;
            }
        };
        match message {
            ToRuntime::Connection { id, carrier, read } => {
                let came = (id, carrier, read.into_vec());
                let_through(&link, came, &hand_over, resident.intake()).await;
            }
            ToRuntime::Record { id, refused } => {
                if record_refused(&resident, *refused).await {
                    // A supervisor that is gone records nothing either.
                    let _ = link.send(ToSupervisor::Recorded { id }).await;
                }
            }
            ToRuntime::Resumed { generation, cause } => {
                if resident.reports().resumed(generation) {
                    resident.intake().open();
                    resident.started_for(*cause);
                    resident.thawed();
                }
            }
            ToRuntime::Sleep { id, signed } => {
                let slept = principal(&resident, signed.as_deref(), (Ask::Sleep, no_content()))
                    .and_then(|by| resident.propose_sleep(by));
                let reply = slept.map_or_else(error, Reply::Verdict);
                resident.reports().reply(id, reply);
            }
            ToRuntime::Patch { id, signed, patch } => {
                let reply = write(&resident, signed.as_deref(), &patch.0).await;
                resident.reports().reply(id, reply);
            }
            ToRuntime::Stop { .. } => resident.say(Event::HostStops),
            // It runs already; and of a claim that was not announced nobody knows anything any more.
            ToRuntime::Launch(_) | ToRuntime::Granted { .. } => {}
        }
    }
}

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

/// Records what the door refused while the machine was frozen; whether it is durable.
async fn record_refused(resident: &Resident, refused: Refused) -> bool {
    resident.claim().set_aside().await;
    let event = suijuris_api::verdict::refused(&refused);
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
