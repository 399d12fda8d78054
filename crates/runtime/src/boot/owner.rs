//! What reaches the runtime from outside its machine's gate: signals, and its supervisor's words.

use std::rc::Rc;

use suijuris_api::Problem;
use suijuris_api::control::Reply;
use suijuris_core::lifecycle::Event;
use suijuris_core::lineage::{Body, Refused};
use suijuris_gate::HandedOver;
use suijuris_link::{RuntimeLink, ToRuntime, ToSupervisor};
use tokio::sync::mpsc;

use crate::ledger::Sign;
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
    hand_over: mpsc::Sender<HandedOver>,
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
            ToRuntime::Sleep { id, by } => {
                let reply = resident.propose_sleep(by).map(Reply::Verdict);
                resident.reports().reply(id, reply.unwrap_or_else(error));
            }
            ToRuntime::Patch { id, by, patch } => {
                let written = resident.patch(by, &patch.0).await;
                let reply = written.map(|patched| Reply::Patched {
                    seq: patched.seq,
                    root: patched.root,
                });
                resident.reports().reply(id, reply.unwrap_or_else(error));
            }
            ToRuntime::Stop { .. } => resident.say(Event::HostStops),
            // It runs already.
            ToRuntime::Launch(_) => {}
        }
    }
}

fn error(problem: Problem) -> Reply {
    Reply::Error {
        code: problem.code,
        message: problem.detail,
    }
}

/// Records what the door refused while the machine was frozen; whether it is durable.
async fn record_refused(resident: &Resident, refused: Refused) -> bool {
    let event = suijuris_api::verdict::refused(&refused);
    let body = Body::Refused(Box::new(refused));
    match resident.ledger().commit(body, resident.now().at, Sign::Now).await {
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
