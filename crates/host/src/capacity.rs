//! What the host has, and what its machines hold of it: memory, reserved while a machine is up or suspended.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::machine::Machine;
use crate::machine::requests::Refusal;

/// The host's memory, and who holds how much of it.
#[derive(Debug)]
pub(crate) struct Capacity {
    memory_mb: u64,
    held: Mutex<BTreeMap<String, u64>>,
}

impl Capacity {
    pub(crate) fn new(memory_mb: u64) -> Self {
        Self {
            memory_mb,
            held: Mutex::default(),
        }
    }

    /// Memory of this host, MiB; what the kernel says.
    pub(crate) fn of_host() -> u64 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|total| total.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        // Where the kernel does not say, nothing is refused for want of memory.
        kib.map_or(u64::MAX, |kib| kib / 1_024)
    }

    /// All of it, MiB.
    pub(crate) const fn memory_mb(&self) -> u64 {
        self.memory_mb
    }

    /// What nobody holds, MiB.
    pub(crate) fn free_mb(&self) -> u64 {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.memory_mb.saturating_sub(held.values().sum())
    }

    /// Reserves a machine's shape.
    pub(crate) fn reserve(&self, machine: &Machine) -> Result<(), Refusal> {
        let wanted = machine.config.guest().memory_mb;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let others: u64 = held
            .iter()
            .filter(|(id, _)| **id != machine.id)
            .map(|(_, mb)| *mb)
            .sum();
        let free = self.memory_mb.saturating_sub(others);
        if wanted > free {
            return Err(Refusal::NoRoom(format!(
                "could not reserve resource for machine: insufficient memory available to fulfill request ({wanted} MB wanted, {free} \
                 MB free); stop or destroy other machines"
            )));
        }
        held.insert(machine.id.clone(), wanted);
        Ok(())
    }

    /// The same for a machine that has it already, whatever that leaves.
    pub(crate) fn hold(&self, machine: &Machine) {
        let wanted = machine.config.guest().memory_mb;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(machine.id.clone(), wanted);
    }

    /// Gives it back.
    pub(crate) fn release(&self, id: &str) {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}
