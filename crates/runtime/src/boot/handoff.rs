//! Connections that the supervisor hands over, on their way to the gate.

use std::os::fd::OwnedFd;
use std::time::Duration;

use suijuris_gate::{Accepted, Claim, Client, Handoff};
use suijuris_link::ToSupervisor;
use suijuris_link::frame::StreamKind;
use suijuris_link::message::{self, Carrier};
use suijuris_link::mux::QueueError;
use tokio::sync::mpsc;

use crate::intake::Intake;
use crate::supervision::Supervision;

/// How often a gate that has no room is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A connection, as the supervisor says it.
pub(super) struct Came {
    pub(super) id: u64,
    pub(super) carrier: Carrier<OwnedFd>,
    pub(super) read: Vec<u8>,
    pub(super) client: Option<Box<message::Client>>,
}

fn known(client: message::Client) -> Client {
    Client {
        address: client.address.0,
        tls: client.tls,
        session: client.session,
        prefix: client.prefix,
        once: client.once,
    }
}

/// Hands a connection of the supervisor to the gate. The supervisor keeps it until the gate claims it, so that a runtime
/// that leaves before takes nobody with it.
pub(super) async fn let_through(
    supervision: &Supervision,
    came: Came,
    hand_over: &mpsc::Sender<Handoff>,
    intake: &Intake,
) {
    let Came {
        id,
        carrier,
        read,
        client,
    } = came;
    let stream = match carrier {
        Carrier::Descriptor(descriptor) => Accepted::Socket(descriptor.into()),
        Carrier::Stream { number, peer } => match supervision.link().accept_this(number) {
            Some(stream) if stream.kind() == StreamKind::Connection => {
                Accepted::Bytes(Box::new(stream), peer.0)
            }
            // Over already; or not the supervisor's word.
            Some(_) | None => return,
        },
    };
    let Some(ticket) = intake.ticket() else { return };
    let holds = ticket.clone();
    let (link, is_outlived) = (supervision.link().clone(), supervision.is_outlived());
    let claim = Claim::new(move || {
        if !ticket.holds() {
            return false;
        }
        match link.send_now(ToSupervisor::Taken { id }) {
            Ok(()) => {}
            // Nobody is there to serve it elsewhere, and whoever comes next learns that it was taken.
            Err(QueueError::Ended) if is_outlived => {}
            // A supervisor that cannot be told now would serve the connection again: it is left to the supervisor.
            Err(_) => return false,
        }
        ticket.took(id);
        true
    });
    let handoff = Handoff {
        stream,
        prefix: read,
        claim,
        client: client.map(|client| Box::new(known(*client))),
    };
    loop {
        match tokio::time::timeout(LOOK_AGAIN, hand_over.reserve()).await {
            Ok(Ok(room)) => return room.send(handoff),
            // A gate that drains and is full takes nobody, and must not keep other words from being heard.
            Err(_full) if holds.holds() && !supervision.has_successor() => {}
            // It has ended, or will not take this one any more: the supervisor has it still.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
