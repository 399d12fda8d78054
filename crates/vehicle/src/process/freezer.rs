//! Suspends and resumes all processes of a machine, by the best means that the host gives.
//!
//! Each step returns at once; the machine's handle repeats and waits.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::cgroup::{self, Leaf};
use suijuris_sys::processes::{self, Process};

/// How one machine is suspended.
#[derive(Debug)]
pub(super) enum Freezer {
    /// By its control group: no process notices.
    Cgroup(Leaf),
    /// By SIGSTOP to every process below the shim: parents inside see their children stop.
    Signals {
        shim: u32,
        held: Mutex<HashSet<Process>>,
    },
}

impl Freezer {
    /// By control group where one of `groups` freezes, else by signals to what is below `shim`.
    pub(super) fn new(groups: &[Leaf], shim: u32) -> Self {
        let leaf = groups.iter().find(|leaf| leaf.freezes()).cloned();
        leaf.map_or_else(
            || Self::Signals {
                shim,
                held: Mutex::default(),
            },
            Self::Cgroup,
        )
    }

    /// Finds out whether `first`, and with it the machine, stands still already: an earlier caller suspended it.
    pub(super) fn recover(&self, first: Process) -> io::Result<bool> {
        match self {
            Self::Cgroup(leaf) => leaf.is_frozen(),
            Self::Signals { shim, held } => {
                let suspended = first.stands_still();
                if suspended {
                    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                    held.extend(processes::below(*shim));
                }
                Ok(suspended)
            }
        }
    }

    /// One step towards standing still; whether nothing moves any more.
    pub(super) fn freeze(&self) -> io::Result<bool> {
        match self {
            Self::Cgroup(leaf) => {
                leaf.freeze(true)?;
                leaf.is_frozen()
            }
            Self::Signals { shim, held } => {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                stop_below(*shim, &mut held)
            }
        }
    }

    /// One step towards running again; whether everything does.
    pub(super) fn thaw(&self) -> io::Result<bool> {
        match self {
            Self::Cgroup(leaf) => {
                leaf.freeze(false)?;
                Ok(!leaf.is_frozen()?)
            }
            Self::Signals { held, .. } => {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                // All are tried, whatever one of them answers.
                let resumed = held.drain().map(|process| process.signal(libc::SIGCONT));
                resumed.fold(Ok(()), Result::and).map(|()| true)
            }
        }
    }
}

/// Kills the members of `groups` and removes them; whether that is done. Without groups nobody knows of any members.
pub(super) fn clear(groups: &[Leaf]) -> bool {
    cgroup::remove_all(groups) || {
        for leaf in groups {
            let _ = leaf.kill();
        }
        false
    }
}

/// Stops every process that still moves, remembering which, as those that stood already must not be resumed.
/// A stopped process cannot fork, so a walk that meets only standing ones has seen all.
fn stop_below(shim: u32, held: &mut HashSet<Process>) -> io::Result<bool> {
    let mut still = true;
    for process in processes::below(shim) {
        if !process.stands_still() {
            still = false;
            process.signal(libc::SIGSTOP)?;
            held.insert(process);
        }
    }
    Ok(still)
}
