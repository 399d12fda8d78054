//! From what a workload may use up to what its machine is limited in, and by what.

use suijuris_core::manifest::UseLimits;
use suijuris_vehicle::{Description, Means, Resource, Resources};

/// What the runtime itself needs beside its workload.
const RUNTIME_MEMORY: u64 = 32 << 20;
/// See [`RUNTIME_MEMORY`].
const RUNTIME_PROCESSES: u32 = 16;

/// What is limited, and how.
#[derive(Debug, Clone, Default)]
pub struct Limited {
    /// Of the machine as a whole.
    pub resources: Resources,
    /// Names of what is limited so, for the runtime, which sees to the rest.
    pub as_a_whole: String,
    /// Each limit in words; empty where nothing is limited.
    pub words: Vec<String>,
}

/// What `limits` come to on a vehicle that is described so.
#[must_use]
pub fn limited(limits: &UseLimits, vehicle: &Description) -> Limited {
    let whole = |what| {
        matches!(
            vehicle.limits(what),
            Means::CgroupV1 | Means::CgroupV2 | Means::VirtualMachine
        )
    };
    let (memory, cpu, processes) = (
        whole(Resource::Memory),
        whole(Resource::Cpu),
        whole(Resource::Processes),
    );
    let mut words = Vec::new();
    let mut say = |asked: bool, what: Resource| {
        if asked {
            words.push(format!("{what} by {}", vehicle.limits(what)));
        }
    };
    say(limits.memory.is_some(), Resource::Memory);
    say(limits.cpu.is_some(), Resource::Cpu);
    say(limits.processes.is_some(), Resource::Processes);
    say(limits.open_files.is_some(), Resource::OpenFiles);
    if limits.disk.is_some() {
        words.push("disk by a limit per file; the whole is measured".to_owned());
    }
    let names = [("memory", memory), ("cpu", cpu), ("processes", processes)];
    let names: Vec<&str> = names
        .into_iter()
        .filter_map(|(name, is)| is.then_some(name))
        .collect();
    Limited {
        resources: Resources {
            memory: limits
                .memory
                .filter(|_| memory)
                .map(|bytes| bytes.saturating_add(RUNTIME_MEMORY)),
            cpu: limits.cpu.filter(|_| cpu),
            processes: limits
                .processes
                .filter(|_| processes)
                .map(|count| count.saturating_add(RUNTIME_PROCESSES)),
            open_files: None,
        },
        as_a_whole: names.join(","),
        words,
    }
}
