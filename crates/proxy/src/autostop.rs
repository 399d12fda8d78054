//! Which machines rest for want of traffic: a pure rule, and the loop that follows it.
//!
//! Fly's rule: each pass, in each region, at most one machine. With several that run, one is too many where
//! `n − (over soft + 1) ≥ 1`; the last one goes only without any load. `min_machines_running` counts in the primary region.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::fleet::{App, Fleet, Machine, Rest, State};
use crate::metrics::Metrics;

/// A machine that is about to rest gets no new requests, and finishes the others for this long.
const LEAVES_WITHIN: Duration = Duration::from_secs(10);
/// Machines that are put to rest at one time, at most.
const AT_ONCE: usize = 32;
/// Between two looks at whether they are finished.
const LOOK: Duration = Duration::from_millis(20);

/// A machine that runs, in one region, and may rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) load: usize,
    pub(crate) over_soft: bool,
}

/// Which of the machines that run in one region rests now; those with the least load first. `keep`: how many stay.
pub(crate) fn too_many(running: &[Running], keep: usize) -> Option<usize> {
    let n = running.len();
    if n <= keep {
        return None;
    }
    let least = running.iter().enumerate().min_by_key(|(_, machine)| machine.load);
    let (at, machine) = least?;
    if n == 1 {
        return (machine.load == 0).then_some(at);
    }
    let busy = running.iter().filter(|machine| machine.over_soft).count();
    // excess = n − (busy + 1), at least 1
    (n > busy + 1).then_some(at)
}

/// A machine that runs and may rest, and how.
type Stoppable<'a> = (&'a Arc<Machine>, Rest, Running);

/// What of an app rests now, and whether it is the last one of its region: one machine a region, at most.
fn resting(app: &App) -> Vec<(Arc<Machine>, Rest, bool)> {
    let mut regions: BTreeMap<&str, Vec<Stoppable<'_>>> = BTreeMap::new();
    for machine in &app.machines {
        let runs = machine.state == State::Started;
        if let (true, Some((rest, running))) = (runs, stoppable(machine)) {
            regions
                .entry(&machine.region)
                .or_default()
                .push((machine, rest, running));
        }
    }
    let chosen = |(region, machines): (&str, Vec<Stoppable<'_>>)| {
        let services = machines.iter().flat_map(|(machine, ..)| &machine.services);
        let primary = machines
            .first()
            .is_some_and(|(machine, ..)| &*machine.primary_region == region);
        let keep = services
            .map(|service| service.min_running)
            .max()
            .unwrap_or_default();
        let running: Vec<Running> = machines.iter().map(|(.., running)| *running).collect();
        let at = too_many(&running, if primary { keep } else { 0 })?;
        machines
            .get(at)
            .map(|(machine, rest, _)| (Arc::clone(machine), *rest, running.len() == 1))
    };
    regions.into_iter().filter_map(chosen).collect()
}

/// How a machine rests and what it does now; none where one of its services keeps it.
fn stoppable(machine: &Machine) -> Option<(Rest, Running)> {
    let all: Option<Vec<Rest>> = machine.services.iter().map(|service| service.autostop).collect();
    let all = all.filter(|all| !all.is_empty())?;
    let rest = match all.contains(&Rest::Stop) {
        true => Rest::Stop,
        false => Rest::Suspend,
    };
    let services = &machine.services;
    Some((
        rest,
        Running {
            load: services.iter().map(|service| service.load.now()).sum(),
            over_soft: services.iter().any(|service| service.load.now() > service.soft),
        },
    ))
}

/// One pass over all apps. What is put to rest finishes what it was given, within reason.
pub(crate) async fn pass(fleet: &Arc<dyn Fleet>, metrics: &Arc<Metrics>) {
    let now = fleet.now();
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut leaving = JoinSet::new();
    for app in now.apps.values() {
        for (machine, rest, is_last) in resting(app) {
            let (fleet, metrics, at_once) = (Arc::clone(fleet), Arc::clone(metrics), Arc::clone(&at_once));
            let name = Arc::clone(&app.name);
            leaving.spawn(async move {
                // Nobody closes it.
                let _turn = at_once.acquire().await;
                // It stays where it is asked for again meanwhile, or cannot rest; the next pass looks again.
                if leave(&machine, is_last).await && fleet.rest(&machine.id, rest).await.is_ok() {
                    metrics.rested(&name);
                }
                set_leaving(&machine, false);
            });
        }
    }
    while leaving.join_next().await.is_some() {}
}

fn set_leaving(machine: &Machine, leaving: bool) {
    for service in &machine.services {
        service.load.set_leaving(leaving);
    }
}

/// Waits until a machine has finished what it has. False: it stays, since it is the last one and has more to do.
async fn leave(machine: &Machine, is_last: bool) -> bool {
    set_leaving(machine, true);
    let load = || -> usize { machine.services.iter().map(|service| service.load.now()).sum() };
    let limit = Instant::now() + LEAVES_WITHIN;
    while load() > 0 && Instant::now() < limit {
        if is_last {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let idle = Running {
            load: 0,
            over_soft: false,
        };
        let some = Running {
            load: 3,
            over_soft: false,
        };
        let busy = Running {
            load: 9,
            over_soft: true,
        };
        for (running, keep, rests) in [
            (vec![], 0, None),
            (vec![idle], 0, Some(0)),
            (vec![idle], 1, None),
            (vec![some], 0, None),
            (vec![idle, idle], 0, Some(0)),
            (vec![some, idle], 0, Some(1)),
            (vec![some, some], 0, Some(0)),
            (vec![busy, idle], 0, None),
            (vec![busy, idle, some], 0, Some(1)),
            (vec![busy, busy, idle], 0, None),
            (vec![busy, busy, idle, idle], 0, Some(2)),
            (vec![busy, busy], 0, None),
            (vec![idle, idle], 2, None),
            (vec![idle, idle, idle], 2, Some(0)),
        ] {
            assert_eq!(too_many(&running, keep), rests, "{running:?} {keep}");
        }
    }
}
