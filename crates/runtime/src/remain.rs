//! Whether the object stays awake, and whether it ends itself: decided again on every commit, hold and freshness deadline, when
//! a comparison of its rules with a clock turns, when the last request or connection ends, and at least each second.
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
use suijuris_core::time::Span;
use suijuris_core::trigger::Timers;
use suijuris_gate::{Control, Phase as GatePhase};
use suijuris_words::verdict;

use crate::lineage_writer::{self, Sign};
use crate::resident::Resident;

/// `remain` is decided at least this often while active.
const TICK: Duration = Duration::from_secs(1);

/// Time between two looks that clocks or traffic cause, at least: rules that compare with a millisecond, or that look at
/// requests in flight, keep nobody busy.
const PAUSE: Duration = Duration::from_millis(10);

/// How long until the next look, at the latest.
struct Wait {
    /// Whatever happens.
    most: Duration,
    /// Until a comparison with a clock turns.
    steady: Option<Duration>,
}

impl From<Duration> for Wait {
    fn from(most: Duration) -> Self {
        Self { most, steady: None }
    }
}

/// Runs while the object is active; ends when the disk failed. `raw` is the gate, where its protocol knows no requests.
pub async fn run(resident: Rc<Resident>, timers: Timers, raw: Option<Control>) -> lineage_writer::Error {
    let watches_traffic = resident.bundle().rules.program.watches(Action::Remain).activity;
    let mut asked = Instant::now();
    let mut ask = true;
    loop {
        let step = match resident.phase() {
            Phase::Active => {
                let step = step(&resident, &timers).await;
                let open = raw.as_ref().filter(|raw| raw.phase() == GatePhase::Open);
                if let Some(raw) = open.filter(|_| ask || asked.elapsed() >= TICK) {
                    asked = Instant::now();
                    raw.ask_again();
                }
                step
            }
            Phase::Suspended => {
                // A host that says nothing when it resumes the machine is found out by the clocks.
                let _said_to_the_lifecycle = resident.jumped();
                Ok(TICK.into())
            }
            _ => Ok(TICK.into()),
        };
        match step {
            // Connections are judged again for what changed, and not because the rules of `remain` look at a clock.
            Ok(wait) => ask = passes(&resident, wait, watches_traffic).await,
            Err(error) => return error,
        }
    }
}

/// Waits for the next look; whether it is for more than what `remain` alone looks at.
async fn passes(resident: &Resident, wait: Wait, watches_traffic: bool) -> bool {
    let steady = wait.steady.unwrap_or(wait.most).max(PAUSE);
    tokio::select! {
        () = resident.stirred() => true,
        () = tokio::time::sleep(wait.most) => true,
        () = tokio::time::sleep(steady) => false,
        () = ended(resident), if watches_traffic => false,
    }
}

/// Resolves when nothing is in flight any more, or no connection is open, where that was otherwise; not at once.
async fn ended(resident: &Resident) {
    let traffic = resident.traffic();
    let (in_flight, connections) = (traffic.in_flight() > 0, traffic.connections() > 0);
    tokio::time::sleep(PAUSE).await;
    tokio::select! {
        () = traffic.quiet(), if in_flight => {}
        () = traffic.empty(), if connections => {}
        else => std::future::pending().await,
    }
}

/// One look; how long until the next at the latest.
async fn step(resident: &Resident, timers: &Timers) -> Result<Wait, lineage_writer::Error> {
    if resident.jumped() {
        return Ok(TICK.into());
    }
    let next_timer = fire(resident, timers).await?;
    record_refusals(resident).await?;
    let next_seal = seal(resident).await?;
    if resident.ends_itself() || resident.sleeps_to_move() {
        return Ok(TICK.into());
    }
    let inputs = resident.busy_inputs(Principal::Workload);
    let steady = resident.steady_for(Action::Remain, &inputs);
    if let Verdict::Refuse(decision) = resident.decide(Action::Remain, inputs) {
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
    Ok(Wait {
        most: waits.into_iter().flatten().fold(TICK, Duration::min),
        steady: steady.map(|Span(ms)| Duration::from_millis(u64::try_from(ms).unwrap_or(0))),
    })
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
        resident.record_refused(refused).await?;
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
