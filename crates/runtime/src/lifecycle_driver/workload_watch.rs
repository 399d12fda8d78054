//! Waits beside a workload: until it is ready, while it serves, until it ends; and what its end means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Event as Report;
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Principal, WorkloadEnd};
use suijuris_core::lifecycle::Event;
use suijuris_gate::{Control, Phase as GatePhase};

use super::CODE_WORKLOAD_FAILED;
use crate::pid1;
use crate::resident::Resident;
use crate::workload::{self, How, NotReady, Running};

/// The volume is larger than it should be.
const CODE_DISK_LIMIT: &str = "disk_limit";

/// Between two looks at how full the volume is.
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// A message ended its readers so often that it waits for an owner.
const CODE_SET_ASIDE: &str = "message_set_aside";
/// The workload was ready and does not answer any more.
const CODE_WORKLOAD_STUCK: &str = "workload_stuck";

/// Looks how full the volume is, and says once that it is too full. Ends then.
pub(super) async fn measure(resident: Rc<Resident>, volume: PathBuf, limit: u64) {
    loop {
        let root = volume.clone();
        let measured = tokio::task::spawn_blocking(move || workload::volume_bytes(&root)).await;
        if let Some(bytes) = measured.ok().filter(|bytes| *bytes > limit) {
            resident.reports().event(Report::Error {
                code: CODE_DISK_LIMIT.to_owned(),
                message: format!(
                    "the volume holds {bytes} bytes and workload.limits.disk is {limit}; nothing here keeps it from growing: \
                     remove what is not needed, or raise the limit"
                ),
            });
            return;
        }
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

/// What becomes of messages that the workload had not acknowledged when it ended.
fn messages_in_hand(resident: &Resident, end: WorkloadEnd) {
    if end == WorkloadEnd::Gone {
        // They are counted once too often then.
        let _counted = resident.inbox().reader_ended_well();
        return;
    }
    let aside = resident.inbox().reader_crashed();
    if aside > 0 {
        resident.reports().event(Report::Error {
            code: CODE_SET_ASIDE.to_owned(),
            message: format!(
                "messages set aside: {aside}, each delivered {} times to a workload that ended without acknowledging it; see `suijuris messages ls`, then `messages retry` or `messages drop`",
                suijuris_custody::deliveries::MOST
            ),
        });
    }
}

/// Waits until a workload that was ready ends, or does not answer any more and is ended.
async fn serving(resident: &Resident, running: &Running, gate: &Control, at: SocketAddr) -> WorkloadEnd {
    let manifest = resident.bundle().manifest.workload.clone();
    tokio::select! {
        _ended = running.ended() => WorkloadEnd::Gone,
        stuck = running.stuck(manifest.live.as_ref(), at) => {
            // One that is asked to stop need not answer.
            if gate.phase() >= GatePhase::Draining {
                return WorkloadEnd::Gone;
            }
            resident.reports().error(CODE_WORKLOAD_STUCK, &stuck);
            running.stop(manifest.stop_signal, manifest.stop_within).await;
            WorkloadEnd::Crashed
        }
    }
}

/// What the end of a workload means that was `end` while it was waited for. One that ends well by itself has failed too
/// where nothing came of it: it would be started again as often as somebody asks.
fn own_end(resident: &Resident, end: WorkloadEnd, how: How, on_its_own: bool) -> WorkloadEnd {
    let end = match end {
        WorkloadEnd::Gone if on_its_own && how != How::Exited(0) => WorkloadEnd::Crashed,
        end => end,
    };
    if end.is_crash() || (on_its_own && !resident.has_been_of_use()) {
        resident.workload_failed();
    }
    end
}

/// Waits until the workload is ready, then until it ends, and says both.
pub(super) async fn watch(resident: Rc<Resident>, running: Rc<Running>, gate: Control) {
    let manifest = resident.bundle().manifest.workload.clone();
    let report = |state: &str, how: String, took: Duration| {
        let (state, pid) = (state.to_owned(), u32::try_from(running.pid()).ok());
        let took_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        resident.reports().event(Report::Workload {
            state,
            pid,
            how,
            took_ms,
        });
    };
    let began = std::time::Instant::now();
    let ready = running
        .ready(&manifest.ready, manifest.ready_within, resident.workload_ready())
        .await;
    let end = match ready {
        Ok(listening) => {
            gate.found_workload(listening.upstream);
            report("ready", String::new(), began.elapsed());
            resident.say(Event::Ready);
            serving(&resident, &running, &gate, listening.upstream).await
        }
        Err(not_ready) => {
            resident.reports().error(CODE_WORKLOAD_FAILED, &not_ready);
            if !matches!(not_ready, NotReady::Ended(_)) {
                running.stop(manifest.stop_signal, manifest.stop_within).await;
            }
            WorkloadEnd::Failed
        }
    };
    let ended = running.ended().await;
    let on_its_own = gate.phase() < GatePhase::Draining;
    let end = own_end(&resident, end, ended.how, on_its_own);
    messages_in_hand(&resident, end);
    let how = ended.to_string();
    pid1::reap(None);
    report("exited", how.clone(), began.elapsed());
    let mut inputs = resident.busy_inputs(Principal::Workload);
    inputs.conditions.workload = Some(end);
    resident.say(Event::WorkloadEnded(
        how,
        Box::new(resident.evaluate(Action::Remain, inputs)),
    ));
}
