//! The witness at boot and after: the claim before anything is decided, the answer to a copy that is not the object, and
//! what becomes of the machine when its lease does not hold.

use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use suijuris_api::{Event as Report, Problem};
use suijuris_core::bundle::Bundle;
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Principal, Witnessed};
use suijuris_core::lifecycle::{Event, Phase};
use suijuris_core::lineage::{Body, Quarantined};
use suijuris_core::witness::{Evidence, Verdict};
use suijuris_depot::Depot;
use suijuris_depot::relay::Client;
use suijuris_gate::{Control, Phase as GatePhase};
use suijuris_link::launch::DepotRoute;

use crate::holding::{self, Holding, Means};
use crate::ledger::{Ledger, Sign};
use crate::report::{Reports, chain};
use crate::resident::Resident;
use crate::shell::Left;
use crate::witness::{Claimed, News};

use super::broken::answer_all;
use super::house::House;

/// The depot cannot be used.
const CODE_DEPOT: &str = "depot_failed";

/// The depot that the machine was given, where it was.
///
/// # Errors
/// In words: it cannot be used.
pub(super) async fn depot(house: &mut House) -> Result<Option<Arc<dyn Depot>>, String> {
    let opened = match std::mem::replace(&mut house.config.depot, DepotRoute::None) {
        // Launches that want the last are refused at the start.
        DepotRoute::None | DepotRoute::Link => return Ok(None),
        DepotRoute::Descriptor(socket) => {
            let client = Client::new(UnixStream::from(socket)).map_err(|error| chain(&error))?;
            return Ok(Some(Arc::new(client)));
        }
        DepotRoute::Url(url) => {
            let variable = |name: &str| std::env::var(name).ok();
            suijuris_depot::open(&url, &variable).await
        }
    };
    opened.map(Some).map_err(|error| chain(&error))
}

/// How the object stands with its witness, nothing asked yet.
pub(super) fn holding(
    house: &House,
    depot: Option<Arc<dyn Depot>>,
    ledger: &Ledger,
    bundle: &Bundle,
) -> Result<Holding, String> {
    let manifest = &bundle.manifest;
    let Some(depot) = depot else {
        return Ok(Holding::alone(manifest));
    };
    let id = house
        .config
        .holder
        .map_or_else(holding::fresh_id, Ok)
        .map_err(|error| chain(&error))?;
    let host = &house.config.cause.host.id;
    let means = Means {
        depot,
        id,
        who: who(host),
    };
    Holding::with(means, manifest, &house.object_dir, ledger.writer()).map_err(|error| chain(&error))
}

/// Who holds the object, for people; in a machine of its own the runtime is process 1, which says nothing.
fn who(host: &str) -> String {
    match std::process::id() {
        1 => format!("host {host}, its machine"),
        id => format!("host {host}, process {id}"),
    }
}

/// Tells of a depot that was not there.
pub(super) fn say_absent(reports: &Reports, claimed: &Claimed) {
    if let Verdict::Absent | Verdict::Missing = claimed.verdict {
        let why = claimed.trouble.as_deref().unwrap_or("it does not answer");
        reports.event(Report::Error {
            code: CODE_DEPOT.to_owned(),
            message: format!("the witness cannot be asked: {why}"),
        });
    }
}

/// Another copy has taken the object.
const CODE_TWIN: &str = "twin";
/// This copy lacks what was witnessed.
const CODE_ROLLED_BACK: &str = "rolled_back";

/// The event of a copy that is not the object.
fn refused(code: &str, evidence: &Evidence) -> Report {
    Report::Refused {
        action: Action::Wake.as_str().to_owned(),
        reason: code.to_owned(),
        rules: Vec::new(),
        reasons: vec![holding::in_words(evidence)],
        times: 1,
        evidence: Some(Box::new(evidence.into())),
    }
}

/// This copy is not the object: whoever waits is told why, nothing runs. A copy whose history lacks what was witnessed
/// shuts itself away, so that it stays refused where no witness can be asked; one that met another only leaves.
pub(super) async fn refuse_copy(
    house: House,
    ledger: &Ledger,
    depot: Option<&dyn Depot>,
    verdict: &Verdict,
    evidence: &Evidence,
) -> Left {
    let code = holding::code_of(depot, verdict).await;
    house.reports.event(refused(code, evidence));
    if verdict.is_final() {
        shut_away(&house, ledger, code, evidence).await;
    }
    answer_all(house, not_the_object(code, evidence)).await;
    Left::Refused
}

fn not_the_object(code: &str, evidence: &Evidence) -> Problem {
    let words = holding::in_words(evidence);
    if code == CODE_TWIN {
        return Problem::new(503, CODE_TWIN, "Another copy is the object").with_detail(words);
    }
    Problem::new(503, CODE_ROLLED_BACK, "This copy is older than the object").with_detail(words)
}

async fn shut_away(house: &House, ledger: &Ledger, code: &str, evidence: &Evidence) {
    let at = ledger.now(house.clock.reading()).at;
    let body = Body::Quarantined(Quarantined {
        reason: format!("{code}: {}", holding::in_words(evidence)),
    });
    let recorded = async {
        ledger.settle_crash(at).await?;
        ledger.commit(body, at, Sign::Now).await
    };
    if let Err(error) = recorded.await {
        // It is refused all the same, now and whenever the witness is asked.
        house.reports.error(error.code(), &error);
    }
}

/// Follows the lease: holds the gate while it does not hold, and ends the machine when another copy has the object or
/// serving has been over for too long.
pub(super) async fn follow_lease(resident: Rc<Resident>, gate: Control) -> Left {
    let mut last = News::Quiet;
    loop {
        last = resident.holding().news(&last).await;
        let active = resident.phase() == Phase::Active;
        match &last {
            News::Quiet => {}
            News::Expired if active => {
                gate.set(GatePhase::Holding);
                resident.reports().event(Report::Error {
                    code: CODE_DEPOT.to_owned(),
                    message:
                        "the witness does not answer and the lease is over: nothing is served until it does"
                            .to_owned(),
                });
            }
            News::Renewed if active => gate.set(GatePhase::Open),
            News::Expired | News::Renewed => {}
            News::Over if active => leave(&resident),
            News::Over => return Left::Refused,
            News::Lost(evidence) => {
                gate.set(GatePhase::Closed);
                resident.reports().event(refused(CODE_TWIN, evidence));
                return Left::Refused;
            }
        }
    }
}

/// The lease is over and nobody renews it: the object goes to sleep on what it knows itself.
fn leave(resident: &Resident) {
    let mut inputs = resident.busy_inputs(Principal::Host);
    inputs.standing.witness = Witnessed::Missing;
    let decision = resident.consider(Action::Remain, inputs);
    resident.say(Event::RemainRefused(Box::new(decision)));
}
