//! The witness at boot and after: the claim before anything is decided, the answer to a copy that is not the object, and
//! what becomes of the machine when its lease does not hold.

use std::rc::Rc;
use std::sync::Arc;

use suijuris_api::Event as Report;
use suijuris_core::bundle::Bundle;
use suijuris_core::codec;
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Principal, Witnessed};
use suijuris_core::lifecycle::{Event, Phase};
use suijuris_core::time::Reading;
use suijuris_custody::chain;
use suijuris_custody::claim::{Claim, Handoff, Means, RefusedCopy, fresh_id};
use suijuris_custody::record::quarantine;
use suijuris_custody::witness::{LeaseEvent, Service};
use suijuris_depot::Depot;
use suijuris_gate::{Control, Phase as GatePhase};
use suijuris_link::ToRuntime;
use suijuris_words::verdict;

use crate::lifecycle_driver::ExitReason;
use crate::lineage_writer::{self, LineageWriter};
use crate::report::Reports;
use crate::resident::Resident;

use super::broken::answer_all;
use super::context::BootContext;

/// The depot cannot be used.
pub(super) const CODE_DEPOT: &str = "depot_failed";

/// Size of what a machine is granted at most, bytes.
const MAX_GRANT: usize = 16 << 10;

/// This copy's right to the object. Where somebody claimed it for this machine, also the clocks before that: nothing has to
/// be asked again. Else nothing is asked yet.
pub(super) async fn claim(
    context: &BootContext,
    depot: Option<Arc<dyn Depot>>,
    lineage: &LineageWriter,
    bundle: &Bundle,
) -> Result<(Claim, Option<Reading>), String> {
    let config = &context.config;
    let means = |depot| {
        let id = config.holder.map_or_else(fresh_id, Ok);
        Ok::<_, String>(Means {
            // What the supervisor holds costs the machine no thread.
            service: if context.relay.is_used() {
                Service::here()
            } else {
                Service::start().map_err(|error| chain(&error))?
            },
            depot,
            id: id.map_err(|error| chain(&error))?,
            who: who(&config.cause.host.id),
        })
    };
    let means = depot.map(means).transpose()?;
    let Handoff {
        claim: granted,
        spare,
    } = handed(context).await.unwrap_or_default();
    lineage.offer_spare(spare);
    let (claim, goes_on) = match (means, &granted) {
        (Some(means), Some(granted)) => Claim::from_grant(means, &bundle.manifest, lineage.writer(), granted),
        (means, _) => (Claim::open(means, &bundle.manifest, lineage.writer()), false),
    };
    claim.follow(lineage.writer());
    let since = granted.filter(|_| goes_on).map(|granted| granted.reading());
    Ok((claim, since))
}

/// What whoever started the machine did for it beside its start: nothing where they did not, or where it cannot be read.
async fn handed(context: &BootContext) -> Option<Handoff> {
    let link = context
        .supervision
        .as_ref()
        .filter(|_| context.config.granted)?
        .link();
    match link.receive().await.ok()?? {
        ToRuntime::Granted { grant } => codec::decode(&grant?, MAX_GRANT).ok(),
        _ => None,
    }
}

/// Who holds the object, for people; in a machine of its own the runtime is process 1, which says nothing.
fn who(host: &str) -> String {
    match std::process::id() {
        1 => format!("host {host}, its machine"),
        id => format!("host {host}, process {id}"),
    }
}

/// Tells of a witness that was not asked.
pub(super) fn say_unasked(reports: &Reports, why: &str) {
    reports.event(Report::Error {
        code: CODE_DEPOT.to_owned(),
        message: format!("the witness cannot be asked: {why}"),
    });
}

/// This copy is not the object: whoever waits is told that it cannot serve, the owner why; nothing runs. A copy whose history lacks what was witnessed
/// shuts itself away, so that it stays refused where no witness can be asked; one that met another only leaves.
pub(super) async fn refuse_copy(
    context: BootContext,
    lineage: &LineageWriter,
    copy: &RefusedCopy,
) -> ExitReason {
    context.reports.event(copy.event());
    if copy.is_final {
        let at = lineage.now(context.clock.reading()).at;
        if let Err(error) = quarantine(lineage.writer(), copy.code, &copy.evidence, at) {
            // It is refused all the same, now and whenever the witness is asked.
            let error = lineage_writer::Error::from(error);
            context.reports.error(error.code(), &error);
        }
    }
    answer_all(context, verdict::unavailable()).await;
    ExitReason::Refused
}

/// Follows the lease: holds the gate while it does not hold, and ends the machine when another copy has the object or
/// serving has been over for too long.
pub(super) async fn follow_lease(resident: Rc<Resident>, gate: Control) -> ExitReason {
    let mut last = LeaseEvent::Quiet;
    loop {
        last = resident.claim().lease_event(&last).await;
        let active = resident.phase() == Phase::Active;
        match &last {
            LeaseEvent::Quiet => {}
            LeaseEvent::Expired if active => {
                gate.set(GatePhase::Holding);
                resident.reports().event(Report::Error {
                    code: CODE_DEPOT.to_owned(),
                    message:
                        "the witness does not answer and the lease has expired: nothing is served until it answers"
                            .to_owned(),
                });
            }
            LeaseEvent::Renewed if active => gate.set(GatePhase::Open),
            LeaseEvent::Expired | LeaseEvent::Renewed => {}
            LeaseEvent::Over if active => leave(&resident),
            LeaseEvent::Over => return ExitReason::Refused,
            LeaseEvent::Lost(evidence) => {
                gate.set(GatePhase::Closed);
                resident.reports().event(RefusedCopy::twin(evidence).event());
                return ExitReason::Refused;
            }
        }
    }
}

/// The lease is over and nobody renews it: the object goes to sleep on what it knows itself.
fn leave(resident: &Resident) {
    let mut inputs = resident.busy_inputs(Principal::Host);
    inputs.conditions.witness = Witnessed::Missing;
    let decision = resident.evaluate(Action::Remain, inputs);
    resident.say(Event::RemainRefused(Box::new(decision)));
}
