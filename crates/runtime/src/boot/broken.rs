//! An object that cannot be used: whoever waits is told, and the machine ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use suijuris_api::channel::{Channel, Packet};
use suijuris_api::control::{FromRuntime, ToRuntime};
use suijuris_api::{Problem, verdict};
use suijuris_gate::{Claim, Control, Gate, Handoff, Limits, Phase as GatePhase, Protocol, Upstream};
use tokio::sync::mpsc;

use crate::intake::Intake;
use crate::lifecycle_driver::ExitReason;
use crate::lineage_writer::BootError;

use super::HANDED_OVER;
use super::context::BootContext;

/// The object on disk cannot be used.
pub(super) const CODE_BROKEN_OBJECT: &str = "broken_object";

/// Time to answer whoever waits for an object that cannot be used.
pub(super) const REFUSE_WITHIN: Duration = Duration::from_millis(500);

/// Answers whoever waits, at the listener or handed over, that nothing runs here, then ends; why is for the owner.
pub(super) async fn refuse_all(context: BootContext, error: &BootError) -> ExitReason {
    context.reports.error(CODE_BROKEN_OBJECT, error);
    let problem = Problem::new(503, CODE_BROKEN_OBJECT, "The object cannot be used");
    let problem = problem.with_detail(verdict::OWNER_KNOWS);
    answer_all(context, problem).await;
    ExitReason::Broken
}

/// Gives everybody who waits, at the listener or handed over, this answer.
pub(super) async fn answer_all(context: BootContext, problem: Problem) {
    let BootContext {
        listener,
        channel,
        authorizer,
        ..
    } = context;
    authorizer.refuse(problem);
    let nowhere = Upstream::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let gate = Gate::new(
        authorizer,
        nowhere,
        Protocol::Http,
        Limits::default(),
        Control::new(GatePhase::Open),
    );
    let (hand_over, handed_over) = mpsc::channel(HANDED_OVER);
    let answered = async {
        let _ = tokio::join!(gate.serve(listener, handed_over), let_in(channel, hand_over));
    };
    let _ = tokio::time::timeout(REFUSE_WITHIN, answered).await;
}

/// Takes connections of the owner and hears nothing else; nobody is there to answer.
pub(super) async fn let_in(channel: Option<Arc<Channel>>, hand_over: mpsc::Sender<Handoff>) {
    let Some(channel) = channel else { return };
    let intake = Intake::default();
    while let Ok(Some(packet)) = channel.receive::<ToRuntime>().await {
        let_through(&channel, packet, &hand_over, &intake).await;
    }
}

/// Hands a connection of the owner to the gate; other packets have none. The owner keeps it until the gate claims it,
/// so that a runtime that leaves before takes nobody with it.
pub(super) async fn let_through(
    channel: &Arc<Channel>,
    packet: Packet<ToRuntime>,
    hand_over: &mpsc::Sender<Handoff>,
    intake: &Intake,
) {
    let (ToRuntime::Connection { id }, Some(descriptor)) = (packet.message, packet.descriptor) else {
        return;
    };
    let Some(ticket) = intake.ticket() else { return };
    let channel = channel.clone();
    // An owner that cannot be told would serve the connection again: it is left to the owner.
    let claim = Claim::new(move || ticket.holds() && channel.try_send(&FromRuntime::Taken { id }).is_ok());
    let handoff = Handoff {
        stream: std::net::TcpStream::from(descriptor),
        prefix: packet.raw,
        claim,
    };
    // A gate that has ended takes nobody.
    let _ = hand_over.send(handoff).await;
}
