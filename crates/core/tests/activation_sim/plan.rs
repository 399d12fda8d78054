//! The plan of one simulated world: everything that differs between two seeds is drawn here.

use super::chance::{Chance, MS, Ns};

pub(crate) const SECOND: Ns = 1_000 * MS;

/// How often things go wrong, per mille, and when what happens.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) objects: usize,
    /// Until when faults happen.
    pub(crate) faults_end: Ns,
    /// When clients stop coming; then an owner wakes each object.
    pub(crate) quiet: Ns,
    /// When the host stops all.
    pub(crate) stop: Ns,
    pub(crate) end: Ns,
    /// Between two clients of one object, at most.
    pub(crate) clients_every: Ns,
    pub(crate) requests_every: Ns,
    /// Between two kills of the process, on average; never, if zero.
    pub(crate) kills_every: Ns,
    /// Objects that another copy takes, in all.
    pub(crate) rivals: u64,
    pub(crate) start_fails: u64,
    pub(crate) hangs: u64,
    pub(crate) dies: u64,
    pub(crate) refuses: u64,
    pub(crate) workload_fails: u64,
    pub(crate) claim_fails: u64,
    pub(crate) record_fails: u64,
    pub(crate) suspend_fails: u64,
    pub(crate) attach_fails: u64,
    pub(crate) slow: u64,
    pub(crate) repeats: u64,
    /// An object that sleeps does so in a suspended machine.
    pub(crate) suspends: u64,
}

impl Plan {
    /// Swarm testing: each world has some of the faults, and some worlds have few.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let mut sometimes = |per_mille: &[u64]| per_mille[chance.below(per_mille.len())];
        let faults_end = 60 * SECOND;
        Self {
            objects: 20,
            faults_end,
            quiet: faults_end + 100 * SECOND,
            stop: faults_end + 400 * SECOND,
            end: faults_end + 450 * SECOND,
            clients_every: sometimes(&[3, 8, 20]) * SECOND,
            requests_every: sometimes(&[5, 20, 60]) * SECOND,
            kills_every: sometimes(&[0, 5, 15, 30]) * SECOND,
            rivals: sometimes(&[0, 1, 4]),
            start_fails: sometimes(&[0, 50, 200]),
            hangs: sometimes(&[0, 20, 100]),
            dies: sometimes(&[0, 30, 200]),
            refuses: sometimes(&[0, 50, 200]),
            workload_fails: sometimes(&[0, 50, 500]),
            claim_fails: sometimes(&[0, 50, 300]),
            record_fails: sometimes(&[0, 30, 200]),
            suspend_fails: sometimes(&[0, 100]),
            attach_fails: sometimes(&[0, 100]),
            slow: sometimes(&[0, 20, 200]),
            repeats: sometimes(&[0, 100]),
            suspends: sometimes(&[0, 300, 900]),
        }
    }

    /// A short world of few objects without any fault.
    pub(crate) fn calm(self) -> Self {
        Self {
            objects: 4,
            kills_every: 0,
            rivals: 0,
            start_fails: 0,
            hangs: 0,
            dies: 0,
            refuses: 0,
            workload_fails: 0,
            claim_fails: 0,
            record_fails: 0,
            suspend_fails: 0,
            attach_fails: 0,
            slow: 0,
            repeats: 0,
            suspends: 500,
            clients_every: 3 * SECOND,
            requests_every: 5 * SECOND,
            ..self
        }
    }
}
