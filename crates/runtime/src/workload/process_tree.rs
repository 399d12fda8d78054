//! Which processes belong to a workload.
//!
//! All in its session; and, where orphans come to us (PID 1 or subreaper), everything below us, for a program can
//! leave its session but not its ancestors. Read from `/proc`; without one only the process group is known.

use std::collections::BTreeMap;

use nix::sys::prctl;

use crate::sys;

/// One line of the process table.
#[derive(Debug, Clone, Copy)]
struct Process {
    parent: i32,
    group: i32,
    session: i32,
    alive: bool,
}

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
    chosen(leader, |process| process.group != leader)
}

fn chosen(leader: i32, wanted: impl Fn(&Process) -> bool) -> Vec<i32> {
    let table = processes();
    let us = adopts_orphans().then(own_pid).flatten();
    let belongs = |pid: i32, process: &Process| {
        process.session == leader || us.is_some_and(|us| pid != us && descends(&table, pid, us))
    };
    table
        .iter()
        .filter(|(pid, process)| {
            **pid != leader && process.alive && wanted(process) && belongs(**pid, process)
        })
        .map(|(pid, _)| *pid)
        .collect()
}

/// Live processes below us.
pub(crate) fn below_us() -> Vec<i32> {
    let table = processes();
    let Some(us) = own_pid() else { return Vec::new() };
    table
        .iter()
        .filter(|(pid, process)| **pid != us && process.alive && descends(&table, **pid, us))
        .map(|(pid, _)| *pid)
        .collect()
}

/// Sends `signal` to each; one that is gone is no error.
pub(crate) fn signal_each(pids: &[i32], signal: i32) {
    for pid in pids {
        let _ = sys::kill(*pid, signal);
    }
}

fn own_pid() -> Option<i32> {
    i32::try_from(std::process::id()).ok()
}

/// Whether `ancestor` is above `pid`. The table was read line by line and may be torn, so the climb is bounded.
fn descends(table: &BTreeMap<i32, Process>, pid: i32, ancestor: i32) -> bool {
    let parent = |pid: &i32| table.get(pid).map(|process| process.parent);
    std::iter::successors(parent(&pid), |pid| parent(pid))
        .take(table.len())
        .any(|pid| pid == ancestor)
}

fn processes() -> BTreeMap<i32, Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    let read = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        Some((pid, parse(&stat)?))
    };
    entries.flatten().filter_map(read).collect()
}

/// Reads `/proc/PID/stat`: `pid (name) state ppid pgrp session …`, where the name may hold anything.
fn parse(stat: &[u8]) -> Option<Process> {
    let behind_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(behind_name + 1..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    let group = words.next()?.parse().ok()?;
    let session = words.next()?.parse().ok()?;
    Some(Process {
        parent,
        group,
        session,
        alive: !matches!(state, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_line() {
        let process = parse(b"42 (a) R 1 1 1 (b) S 7 8 9 0 -1").unwrap();
        assert_eq!((process.parent, process.session, process.alive), (7, 9, true));
        assert!(!parse(b"42 (gone) Z 7 8 9").unwrap().alive);
        assert!(parse(b"42 (short) S 7").is_none());
        assert!(parse(b"").is_none());
    }

    #[test]
    fn a_torn_table_ends_the_climb() {
        let process = |parent| Process {
            parent,
            group: 0,
            session: 0,
            alive: true,
        };
        let table = BTreeMap::from([(5, process(6)), (6, process(5)), (7, process(6))]);
        assert!(!descends(&table, 7, 1));
        assert!(descends(&table, 7, 5));
    }
}
