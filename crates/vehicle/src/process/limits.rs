//! What a machine may use up: found out what can enforce it here, then written into groups and process limits.
//!
//! A control group limits the machine as a whole, and is used where one can be had, of version 2 before version 1. Else
//! what remains are limits of each process (memory, open files) or of the user (processes), or nothing (cpu).

use std::io;

use suijuris_guest::assignment::Rlimit;

use super::cgroup::{Base, Controller, Hierarchy, Leaf};
use crate::description::{Enforced, Means, Resource, Shortfall};
use crate::spec::Resources;

/// Period of the processor quota, in microseconds: the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// What limits machines on this host.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    memory: Option<Base>,
    cpu: Option<Base>,
    pids: Option<Base>,
}

/// What a machine's limits come to.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) rlimits: Vec<(Rlimit, u64)>,
    pub(super) enforced: Vec<Enforced>,
}

impl Limiter {
    /// Tries each controller, and says why where none works.
    pub(super) fn detect() -> (Self, Vec<Shortfall>) {
        let mut shortfalls = Vec::new();
        let mut usable = |controller: Controller| {
            let tried = try_v2(controller).or_else(|v2| try_v1(controller).map_err(|v1| (v2, v1)));
            tried
                .map_err(|(v2, v1)| {
                    shortfalls.push(Shortfall {
                        wanted: format!("limit of {} by control group", controller.name()),
                        why: format!(
                            "version 2: {v2}; version 1: {v1} (run under a delegated control group with a subgroup for the \
                             supervisor: systemd: Delegate=yes, DelegateSubgroup=supervisor)"
                        ),
                    });
                })
                .ok()
        };
        let limiter = Self {
            memory: usable(Controller::Memory),
            cpu: usable(Controller::Cpu),
            pids: usable(Controller::Pids),
        };
        (limiter, shortfalls)
    }

    /// By what each resource is limited.
    pub(super) fn means(&self) -> Vec<Enforced> {
        let by = |base: &Option<Base>, otherwise| match base.as_ref().map(Base::hierarchy) {
            Some(Hierarchy::V2) => Means::CgroupV2,
            Some(_) => Means::CgroupV1,
            None => otherwise,
        };
        [
            (Resource::Memory, by(&self.memory, Means::PerProcess)),
            (Resource::Cpu, by(&self.cpu, Means::Nothing)),
            (Resource::Processes, by(&self.pids, Means::PerUser)),
            (Resource::OpenFiles, Means::PerProcess),
        ]
        .map(|(what, by)| Enforced { what, by })
        .into()
    }

    /// Puts the limits of machine `name` into `groups`, making those that are missing. On failure `groups` holds what
    /// was made, to be removed.
    pub(super) fn apply(
        &self,
        resources: Resources,
        (name, detached): (&str, bool),
        groups: &mut Vec<Leaf>,
    ) -> io::Result<Limits> {
        let mut rlimits = Vec::new();
        let mut asked = Vec::new();
        if let Some(bytes) = resources.memory {
            asked.push(Resource::Memory);
            match leaf(self.memory.as_ref(), (name, detached), groups)? {
                Some(leaf) => limit_memory(leaf, bytes)?,
                None => rlimits.push((Rlimit::Memory, bytes)),
            }
        }
        if let Some(share) = resources.cpu {
            asked.push(Resource::Cpu);
            if let Some(leaf) = leaf(self.cpu.as_ref(), (name, detached), groups)? {
                limit_cpu(leaf, share)?;
            }
        }
        if let Some(count) = resources.processes {
            asked.push(Resource::Processes);
            match leaf(self.pids.as_ref(), (name, detached), groups)? {
                Some(leaf) => leaf.set("pids.max", &count.to_string())?,
                None => rlimits.push((Rlimit::Processes, count.into())),
            }
        }
        if let Some(count) = resources.open_files {
            asked.push(Resource::OpenFiles);
            rlimits.push((Rlimit::OpenFiles, count.into()));
        }
        let mut enforced = self.means();
        enforced.retain(|entry| asked.contains(&entry.what));
        Ok(Limits { rlimits, enforced })
    }
}

/// The leaf below `base`, among `groups` or made now.
fn leaf<'a>(
    base: Option<&Base>,
    (name, detached): (&str, bool),
    groups: &'a mut Vec<Leaf>,
) -> io::Result<Option<&'a Leaf>> {
    let Some(base) = base else { return Ok(None) };
    if !groups.iter().any(|leaf| base.holds(leaf)) {
        groups.push(base.leaf(name, detached)?);
    }
    Ok(groups.iter().find(|leaf| base.holds(leaf)))
}

fn limit_memory(leaf: &Leaf, bytes: u64) -> io::Result<()> {
    let bytes = bytes.to_string();
    if leaf.hierarchy() == Hierarchy::V2 {
        leaf.set("memory.max", &bytes)?;
        // Kernels without swap accounting have no such file.
        return missing_is_fine(leaf.set("memory.swap.max", "0"));
    }
    leaf.set("memory.limit_in_bytes", &bytes)?;
    missing_is_fine(leaf.set("memory.memsw.limit_in_bytes", &bytes))
}

fn limit_cpu(leaf: &Leaf, thousandths: u32) -> io::Result<()> {
    // The kernel takes no quota below a millisecond.
    let quota = (PERIOD_US * u64::from(thousandths) / 1_000).max(1_000);
    if leaf.hierarchy() == Hierarchy::V2 {
        return leaf.set("cpu.max", &format!("{quota} {PERIOD_US}"));
    }
    leaf.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
    leaf.set("cpu.cfs_quota_us", &quota.to_string())
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn try_v2(controller: Controller) -> io::Result<Base> {
    let base = Base::own(Hierarchy::V2)?;
    base.delegate(controller)?;
    try_limit(base, controller)
}

fn try_v1(controller: Controller) -> io::Result<Base> {
    try_limit(Base::own(Hierarchy::V1(controller))?, controller)
}

/// Limits an empty group, and removes it.
fn try_limit(base: Base, controller: Controller) -> io::Result<Base> {
    let leaf = base.leaf(&format!("limit-{}", super::number()), false)?;
    let tried = match controller {
        Controller::Memory => limit_memory(&leaf, 1 << 30),
        Controller::Cpu => limit_cpu(&leaf, 1_000),
        Controller::Pids => leaf.set("pids.max", "1000"),
    };
    let removed = leaf.remove();
    tried.and(removed).map(|_| base)
}
