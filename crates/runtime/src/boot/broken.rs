//! An object that cannot be used: whoever waits is told, and the machine ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_gate::{Control, Gate, Handoff, Limits, Phase as GatePhase, Protocol, Upstream};
use suijuris_link::ToRuntime;
use suijuris_words::verdict;
use tokio::sync::mpsc;

use crate::intake::Intake;
use crate::lifecycle_driver::ExitReason;
use crate::lineage_writer::BootError;
use crate::supervision::Supervision;

use super::HANDED_OVER;
use super::context::BootContext;
use super::handoff::{Came, let_through};
use super::start::Own;

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
pub(super) async fn answer_all(context: BootContext, mut problem: Problem) {
    let stays = context.config.own.as_ref().map(Own::stays);
    if let Some(stays) = stays {
        problem.retry_after = problem.retry_after.or(Some(stays.as_secs().max(1)));
    }
    let within = stays.unwrap_or_default().max(REFUSE_WITHIN);
    let BootContext {
        config,
        supervision,
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
        let _ = tokio::join!(
            gate.serve(config.listener, handed_over),
            let_in(supervision, hand_over)
        );
    };
    let _ = tokio::time::timeout(within, answered).await;
}

/// Takes connections of the supervisor and hears nothing else; nobody is there to answer.
async fn let_in(supervision: Option<Supervision>, hand_over: mpsc::Sender<Handoff>) {
    let Some(supervision) = supervision else { return };
    let intake = Intake::default();
    while let Ok(Some(message)) = supervision.link().receive().await {
        if let ToRuntime::Connection {
            id,
            carrier,
            read,
            client,
        } = message
        {
            let read = read.into_vec();
            let came = Came {
                id,
                carrier,
                read,
                client,
            };
            let_through(&supervision, came, &hand_over, &intake).await;
        }
    }
}
