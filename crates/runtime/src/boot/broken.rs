//! An object that cannot be used: whoever waits is told, and the machine ends.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_api::channel::{Channel, Packet};
use suijuris_api::control::ToRuntime;
use suijuris_gate::{Control, Gate, HandedOver, Limits, Phase as GatePhase, Protocol, Upstream};
use tokio::sync::mpsc;

use crate::judge::GateJudge;
use crate::ledger::BootError;
use crate::report::{Reports, chain};
use crate::shell::Left;

use super::HANDED_OVER;

/// The object on disk cannot be used.
pub(super) const CODE_BROKEN_OBJECT: &str = "broken_object";

/// Time to answer whoever waits for an object that cannot be used.
pub(super) const REFUSE_WITHIN: Duration = Duration::from_millis(500);

/// Answers whoever waits, at the listener or handed over, that nothing runs here, and why, then ends.
pub(super) async fn refuse_all(
    listener: TcpListener,
    channel: Option<Rc<Channel>>,
    reports: &Reports,
    error: &BootError,
) -> Left {
    reports.error(CODE_BROKEN_OBJECT, error);
    let judge = Rc::new(GateJudge::default());
    judge
        .refuse(Problem::new(503, CODE_BROKEN_OBJECT, "The object cannot be used").with_detail(chain(error)));
    let nowhere = Upstream::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let gate = Gate::new(
        judge,
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
    Left::Broken
}

/// Takes connections of the owner and hears nothing else; nobody is there to answer.
pub(super) async fn let_in(channel: Option<Rc<Channel>>, hand_over: mpsc::Sender<HandedOver>) {
    let Some(channel) = channel else { return };
    while let Ok(Some(packet)) = channel.receive::<ToRuntime>().await {
        let_through(packet, &hand_over).await;
    }
}

/// Hands a connection of the owner to the gate; other packets have none.
pub(super) async fn let_through(packet: Packet<ToRuntime>, hand_over: &mpsc::Sender<HandedOver>) {
    if let Some(descriptor) = packet.descriptor {
        let stream = std::net::TcpStream::from(descriptor);
        let prefix = packet.raw;
        // A gate that has ended takes nobody: the connection ends with it.
        let _ = hand_over.send(HandedOver { stream, prefix }).await;
    }
}
