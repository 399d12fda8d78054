//! Which processes belong to a workload.
//!
//! All in its session; and, where orphans come to us (PID 1 or subreaper), everything below us, for a program can
//! leave its session but not its ancestors. Read from `/proc`; without one only the process group is known.

use std::collections::BTreeMap;

use nix::sys::prctl;
use suijuris_sys::kill;
use suijuris_sys::processes::{Stat, table};

/// Whether orphaned descendants become our children.
pub(crate) fn adopts_orphans() -> bool {
    std::process::id() == 1 || prctl::get_child_subreaper().unwrap_or(false)
}

/// Live processes of the workload whose first process is `leader`, that one excluded.
pub(crate) fn others(leader: i32) -> Vec<i32> {
    chosen(leader, |_| true)
}

/// Those of [`others`] that a signal to the process group of `leader` does not reach.
pub(crate) fn outside_group(leader: i32) -> Vec<i32> {
    chosen(leader, |process| process.group != leader.cast_unsigned())
}

fn chosen(leader: i32, wanted: impl Fn(&Stat) -> bool) -> Vec<i32> {
    let table = table();
    let leader = leader.cast_unsigned();
    let us = adopts_orphans().then(std::process::id);
    let belongs = |pid: u32, process: &Stat| {
        process.session == leader || us.is_some_and(|us| pid != us && descends(&table, pid, us))
    };
    table
        .iter()
        .filter(|(pid, process)| {
            **pid != leader && process.is_alive() && wanted(process) && belongs(**pid, process)
        })
        .map(|(pid, _)| pid.cast_signed())
        .collect()
}

/// Live processes below us.
pub(crate) fn below_us() -> Vec<i32> {
    let table = table();
    let us = std::process::id();
    table
        .iter()
        .filter(|(pid, process)| **pid != us && process.is_alive() && descends(&table, **pid, us))
        .map(|(pid, _)| pid.cast_signed())
        .collect()
}

/// Sends `signal` to each; one that is gone is no error.
pub(crate) fn signal_each(pids: &[i32], signal: i32) {
    for pid in pids {
        let _ = kill(*pid, signal);
    }
}

/// Whether `ancestor` is above `pid`. The table was read line by line and may be torn, so the climb is bounded.
fn descends(table: &BTreeMap<u32, Stat>, pid: u32, ancestor: u32) -> bool {
    let parent = |pid: &u32| table.get(pid).map(|process| process.parent);
    std::iter::successors(parent(&pid), |pid| parent(pid))
        .take(table.len())
        .any(|pid| pid == ancestor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_table_ends_the_climb() {
        let process = |parent| Stat {
            state: 'S',
            parent,
            group: 0,
            session: 0,
            started: 0,
        };
        let table = BTreeMap::from([(5, process(6)), (6, process(5)), (7, process(6))]);
        assert!(!descends(&table, 7, 1));
        assert!(descends(&table, 7, 5));
    }
}
