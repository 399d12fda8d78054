//! Connections that the supervisor hands over, on their way to the gate.

use std::os::fd::OwnedFd;

use suijuris_gate::{Claim, Handoff};
use suijuris_link::ToSupervisor;
use suijuris_link::message::Carrier;
use suijuris_link::mux::QueueError;
use tokio::sync::mpsc;

use crate::intake::Intake;
use crate::supervision::Supervision;

/// Hands a connection of the supervisor to the gate. The supervisor keeps it until the gate claims it, so that a runtime
/// that leaves before takes nobody with it.
pub(super) async fn let_through(
    supervision: &Supervision,
    (id, carrier, prefix): (u64, Carrier<OwnedFd>, Vec<u8>),
    hand_over: &mpsc::Sender<Handoff>,
    intake: &Intake,
) {
    // No vehicle of today needs the other.
    let Carrier::Descriptor(descriptor) = carrier else {
        return;
    };
    let Some(ticket) = intake.ticket() else { return };
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
        stream: std::net::TcpStream::from(descriptor),
        prefix,
        claim,
    };
    // A gate that has ended takes nobody.
    let _ = hand_over.send(handoff).await;
}
