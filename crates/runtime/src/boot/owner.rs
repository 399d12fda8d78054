//! What reaches the runtime from outside its machine's gate: signals, and its owner's words.

use std::rc::Rc;
use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_api::agent::Patched;
use suijuris_api::channel::Channel;
use suijuris_api::channel::MAX_BYTES;
use suijuris_api::control::{FromRuntime, Reply, ToRuntime};
use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::inputs::Principal;
use suijuris_core::lifecycle::Event;
use suijuris_core::lineage::{Body, Refused};
use suijuris_core::owner_request::{Ask, SignedRequest};
use suijuris_custody::owner::{Asking, content_of, no_content, not_an_owner};
use suijuris_gate::Handoff;
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

/// Does what the owner asks over the channel; for ever quiet without one, or once the owner is gone.
pub(super) async fn hear(
    channel: Option<Arc<Channel>>,
    hand_over: mpsc::Sender<Handoff>,
    resident: Rc<Resident>,
) {
    let Some(channel) = channel else {
        return std::future::pending().await;
    };
    loop {
        let packet = match channel.receive::<ToRuntime>().await {
            Ok(Some(packet)) => packet,
            Ok(None) | Err(_) => {
                // Nobody owns the machine any more: stop as if the host had asked.
                resident.say(Event::HostStops);
                return std::future::pending().await;
            }
        };
        match packet.message {
            ToRuntime::Connection { .. } => {
                let_through(&channel, packet, &hand_over, resident.intake()).await;
            }
            // One that was not announced: nobody waits for it any more.
            ToRuntime::Granted => {}
            ToRuntime::Refused { id } => {
                if record_refused(&resident, &packet.raw).await {
                    // An owner that is gone records nothing either.
                    let _ = channel.send(&FromRuntime::Recorded { id }, &[], None).await;
                }
            }
            ToRuntime::Thawed(launch) => {
                resident.intake().open();
                resident.relaunch(*launch);
                resident.thawed();
            }
            ToRuntime::Sleep { id, signed } => {
                let slept = principal(&resident, signed.as_deref(), (Ask::Sleep, no_content()))
                    .and_then(|by| resident.propose_sleep(by));
                resident
                    .reports()
                    .reply(id, slept.map_or_else(error, Reply::Verdict));
            }
            ToRuntime::Patch { id, patch, signed } => {
                let patched = match principal(&resident, signed.as_deref(), (Ask::Write, content_of(&patch)))
                {
                    Ok(by) => resident.patch(by, &patch).await,
                    Err(problem) => Err(problem),
                };
                let reply = patched.map_or_else(error, |Patched { seq, root }| Reply::Patched { seq, root });
                resident.reports().reply(id, reply);
            }
        }
    }
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
async fn record_refused(resident: &Resident, bytes: &[u8]) -> bool {
    let Ok(refused) = codec::decode::<Refused>(bytes, MAX_BYTES) else {
        return false;
    };
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
