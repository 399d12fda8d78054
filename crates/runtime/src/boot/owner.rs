//! What reaches the runtime from outside its machine's gate: signals, and its owner's words.

use std::rc::Rc;
use std::sync::Arc;

use suijuris_api::channel::Channel;
use suijuris_api::channel::MAX_BYTES;
use suijuris_api::control::{FromRuntime, Reply, ToRuntime};
use suijuris_core::codec;
use suijuris_core::inputs::Principal;
use suijuris_core::lifecycle::Event;
use suijuris_core::lineage::{Body, Refused};
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
            ToRuntime::Sleep { id, by } => {
                let by = if by == "host" {
                    Principal::Host
                } else {
                    owner(&resident)
                };
                let reply = match resident.propose_sleep(by) {
                    Ok(verdict) => Reply::Verdict(verdict),
                    Err(problem) => Reply::Error {
                        code: problem.code,
                        message: problem.detail,
                    },
                };
                resident.reports().reply(id, reply);
            }
            ToRuntime::Patch { id, patch } => {
                let reply = match resident.patch(owner(&resident), &patch).await {
                    Ok(patched) => Reply::Patched {
                        seq: patched.seq,
                        root: patched.root,
                    },
                    Err(problem) => Reply::Error {
                        code: problem.code,
                        message: problem.detail,
                    },
                };
                resident.reports().reply(id, reply);
            }
        }
    }
}

pub(super) fn owner(resident: &Resident) -> Principal {
    Principal::Controller(
        resident
            .lineage()
            .published(|state| state.head().controllers.clone()),
    )
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
