//! An object that cannot be used: whoever waits is told, and the machine ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use suijuris_api::{Problem, verdict};
use suijuris_gate::{Claim, Control, Gate, Handoff, Limits, Phase as GatePhase, Protocol, Upstream};
use suijuris_link::message::Carrier;
use suijuris_link::{RuntimeLink, ToRuntime, ToSupervisor};
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
        config,
        link,
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
        let _ = tokio::join!(gate.serve(config.listener, handed_over), let_in(link, hand_over));
    };
    let _ = tokio::time::timeout(REFUSE_WITHIN, answered).await;
}

/// Takes connections of the supervisor and hears nothing else; nobody is there to answer.
pub(super) async fn let_in(link: Option<RuntimeLink>, hand_over: mpsc::Sender<Handoff>) {
    let Some(link) = link else { return };
    let intake = Intake::default();
    while let Ok(Some(message)) = link.receive().await {
        if let ToRuntime::Connection { id, carrier, read } = message {
            let_through(&link, (id, carrier, read.into_vec()), &hand_over, &intake).await;
        }
    }
}

/// Hands a connection of the supervisor to the gate. The supervisor keeps it until the gate claims it, so that a runtime
/// that leaves before takes nobody with it.
pub(super) async fn let_through(
    link: &RuntimeLink,
    (id, carrier, prefix): (u64, Carrier<OwnedFd>, Vec<u8>),
    hand_over: &mpsc::Sender<Handoff>,
    intake: &Intake,
) {
    // No vehicle of today needs the other.
    let Carrier::Descriptor(descriptor) = carrier else {
        return;
    };
    let Some(ticket) = intake.ticket() else { return };
    let link = link.clone();
    // A supervisor that cannot be told now would serve the connection again: it is left to the supervisor.
    let claim = Claim::new(move || ticket.holds() && link.send_now(ToSupervisor::Taken { id }).is_ok());
    let handoff = Handoff {
        stream: std::net::TcpStream::from(descriptor),
        prefix,
        claim,
    };
    // A gate that has ended takes nobody.
    let _ = hand_over.send(handoff).await;
}
