//! Whether the object stays awake, and whether it ends itself: decided again on every commit, hold, freshness deadline and at least each second.
//!
//! The same loop seals mutations in time, records counted refusals, fires timers that come due while awake, and has raw
//! connections judged again, which were admitted once and may live for days.

use std::rc::Rc;
use std::time::{Duration, Instant};

use suijuris_api::Event as Report;
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::inputs::Principal;
use suijuris_core::lifecycle::{Event, Phase};
use suijuris_core::lineage::{Body, Fired, Seal};
use suijuris_core::trigger::Timers;
use suijuris_gate::{Control, Phase as GatePhase};
use suijuris_words::verdict;

use crate::lineage_writer::{self, Sign};
use crate::resident::Resident;

/// `remain` is decided at least this often while active.
const TICK: Duration = Duration::from_secs(1);

/// Runs while the object is active; ends when the disk failed. `raw` is the gate, where its protocol knows no requests.
pub async fn run(resident: Rc<Resident>, timers: Timers, raw: Option<Control>) -> lineage_writer::Error {
    loop {
        let step = match resident.phase() {
            Phase::Active => {
                let step = step(&resident, &timers).await;
                if let Some(raw) = raw.as_ref().filter(|raw| raw.phase() == GatePhase::Open) {
                    raw.ask_again();
                }
                step
            }
            Phase::Suspended => {
                // A host that says nothing when it resumes the machine is found out by the clocks.
                let _said_to_the_lifecycle = resident.jumped();
                Ok(TICK)
            }
            _ => Ok(TICK),
        };
        match step {
            Ok(wait) => {
                let _ = tokio::time::timeout(wait, resident.stirred()).await;
            }
            Err(error) => return error,
        }
    }
}

/// One look; how long until the next at the latest.
async fn step(resident: &Resident, timers: &Timers) -> Result<Duration, lineage_writer::Error> {
    if resident.jumped() {
        return Ok(TICK);
    }
    let next_timer = fire(resident, timers).await?;
    record_refusals(resident).await?;
    let next_seal = seal(resident).await?;
    if resident.ends_itself() {
        return Ok(TICK);
    }
    if let Verdict::Refuse(decision) =
        resident.decide(Action::Remain, resident.busy_inputs(Principal::Workload))
    {
        resident
            .reports()
            .event(Report::Verdict(verdict::verdict(&decision, "runtime")));
        resident.say(Event::RemainRefused(decision));
    }
    let hold = resident
        .next_hold_end()
        .map(|end| end.saturating_duration_since(Instant::now()));
    let fresh = resident
        .lineage()
        .published(|state| state.memory().next_deadline(resident.now()));
    let until = |at: suijuris_core::time::Timestamp| {
        Duration::from_millis(u64::try_from(at.since(resident.now().at).0).unwrap_or(0))
    };
    let waits = [hold, next_seal, fresh.map(until), next_timer.map(until)];
    Ok(waits.into_iter().flatten().fold(TICK, Duration::min))
}

/// Tells the workload of timers that came due, once it is recorded that they did.
async fn fire(
    resident: &Resident,
    timers: &Timers,
) -> Result<Option<suijuris_core::time::Timestamp>, lineage_writer::Error> {
    let now = resident.now().at;
    let pending = resident
        .lineage()
        .published(|state| timers.pending(&state.head().fired, state.head().born, now));
    if !pending.due.is_empty() {
        let fired: Fired = pending
            .due
            .iter()
            .map(|(name, due)| (name.clone(), due.up_to))
            .collect();
        let body = Body::Seal(Seal {
            fired,
            admitted: resident.take_admitted(),
        });
        resident.lineage().commit(body, now, Sign::Now).await?;
    }
    for (name, due) in pending.due {
        for at in due.fire {
            resident.notice_feed().send(
                "timer",
                &serde_json::json!({"name": name, "due": at.to_string(), "missed": due.missed}),
            );
        }
    }
    Ok(pending.next)
}

async fn record_refusals(resident: &Resident) -> Result<(), lineage_writer::Error> {
    for refused in resident.take_refusals(false) {
        resident.reports().event(verdict::refused(&refused));
        let at = resident.now().at;
        resident
            .lineage()
            .commit(Body::Refused(Box::new(refused)), at, Sign::Now)
            .await?;
    }
    Ok(())
}

/// Signs what no signature covers yet, once it is old enough; how long until that is.
async fn seal(resident: &Resident) -> Result<Option<Duration>, lineage_writer::Error> {
    let Some(age) = resident.lineage().uncovered_for() else {
        return Ok(None);
    };
    let within = Duration::from_millis(u64::try_from(resident.bundle().manifest.seal_within.0).unwrap_or(0));
    if age < within {
        return Ok(Some(within.saturating_sub(age)));
    }
    let body = Body::Seal(Seal {
        fired: Fired::new(),
        admitted: resident.take_admitted(),
    });
    resident
        .lineage()
        .commit(body, resident.now().at, Sign::Now)
        .await?;
    Ok(None)
}
