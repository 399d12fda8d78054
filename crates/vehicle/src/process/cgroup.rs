//! Control groups: to suspend, to kill and to limit a machine as a whole.
//!
//! A [`Base`] is the caller's own group in one hierarchy, below which it may make a [`Leaf`] for each machine. Version 2
//! freezes by `cgroup.freeze` and kills by `cgroup.kill`; version 1 freezes by its `freezer` controller, under which a
//! killed process dies only once thawed. Which limits are written to a leaf is `limits`' affair.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suijuris_sys::Process;

/// Begins the name of every group made here.
const PREFIX: &str = "suijuris-";
/// Begins the name of a group whose machine may outlive its maker: not stale before that is gone and nobody is in it.
const DETACHED: &str = "suijuris.detached-";

/// One tree of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hierarchy {
    /// That of the freezer, version 1.
    Freezer,
    /// That of this controller, version 1.
    V1(Controller),
    /// That of version 2.
    V2,
}

/// A controller that limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Controller {
    Memory,
    Cpu,
    Pids,
}

/// A directory in which groups may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    hierarchy: Hierarchy,
    dir: PathBuf,
}

/// The group of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leaf {
    hierarchy: Hierarchy,
    dir: PathBuf,
}

impl Controller {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

impl Hierarchy {
    /// The controller that marks it among those of version 1.
    const fn controller(self) -> Option<&'static str> {
        match self {
            Self::Freezer => Some("freezer"),
            Self::V1(controller) => Some(controller.name()),
            Self::V2 => None,
        }
    }
}

impl Base {
    /// The group in which this process is.
    pub(super) fn own(hierarchy: Hierarchy) -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let dir = group(hierarchy, &groups).and_then(|group| directory(hierarchy, group, &mounts));
        let missing = || io::Error::new(io::ErrorKind::NotFound, "not mounted here");
        Ok(Self {
            hierarchy,
            dir: dir.ok_or_else(missing)?,
        })
    }

    /// The hierarchy that it is in.
    pub(super) const fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// Makes the group for machine `name`: of this process, or one that may outlive it.
    pub(super) fn leaf(&self, name: &str, detached: bool) -> io::Result<Leaf> {
        let prefix = if detached { DETACHED } else { PREFIX };
        let dir = self.dir.join(format!("{prefix}{}-{name}", Owner::me()?.text()));
        fs::create_dir(&dir)?;
        Ok(Leaf {
            hierarchy: self.hierarchy,
            dir,
        })
    }

    /// Whether `leaf` lies in it, as where several controllers share a hierarchy.
    pub(super) fn holds(&self, leaf: &Leaf) -> bool {
        leaf.dir.parent() == Some(&self.dir)
    }

    /// Lets the leaves of version 2 be limited by `controller`.
    pub(super) fn delegate(&self, controller: Controller) -> io::Result<()> {
        let list = |file: &str| fs::read_to_string(self.dir.join(file));
        let has = |text: &str| text.split_whitespace().any(|name| name == controller.name());
        if has(&list("cgroup.subtree_control")?) {
            return Ok(());
        }
        if !has(&list("cgroup.controllers")?) {
            let why = "not delegated to this group";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let value = format!("+{}", controller.name());
        fs::write(self.dir.join("cgroup.subtree_control"), value)
    }

    /// The groups here whose makers are gone, and with them their machines.
    pub(super) fn stale(&self) -> Vec<Leaf> {
        self.left_by(PREFIX)
    }

    /// Removes groups of machines that outlived their makers, and are over: nobody is in them. Those that nobody wrote down, since maker and
    /// shim were killed together, have nobody else who would.
    pub(super) fn remove_empty(&self) {
        for leaf in self.left_by(DETACHED) {
            // One with members is a machine's.
            let _ = leaf.remove();
        }
    }

    fn left_by(&self, prefix: &str) -> Vec<Leaf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter(|entry| {
                let name = entry.file_name();
                let owner = name.to_str().and_then(|name| Owner::parse(prefix, name));
                owner.is_some_and(|owner| owner.is_gone())
            })
            .map(|entry| Leaf {
                hierarchy: self.hierarchy,
                dir: entry.path(),
            })
            .collect()
    }
}

impl Leaf {
    /// Whether its members can be frozen.
    pub(super) const fn freezes(&self) -> bool {
        matches!(self.hierarchy, Hierarchy::Freezer | Hierarchy::V2)
    }

    /// The hierarchy that it is in.
    pub(super) const fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// The directory itself, for a process to be born in (version 2).
    pub(super) fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        match self.hierarchy {
            Hierarchy::V2 => fs::File::open(&self.dir).map(|dir| Some(dir.into())),
            Hierarchy::Freezer | Hierarchy::V1(_) => Ok(None),
        }
    }

    /// Its member list, to which a process writes itself (version 1).
    pub(super) fn members(&self) -> io::Result<Option<fs::File>> {
        match self.hierarchy {
            Hierarchy::Freezer | Hierarchy::V1(_) => fs::File::options()
                .write(true)
                .open(self.dir.join("cgroup.procs"))
                .map(Some),
            Hierarchy::V2 => Ok(None),
        }
    }

    /// Its member list, for a process that writes itself there later.
    pub(super) fn member_list(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Takes process `pid` in, which lives already.
    pub(super) fn take_in(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Whether process `pid` is a member.
    pub(super) fn has(&self, pid: u32) -> io::Result<bool> {
        let members = fs::read_to_string(self.dir.join("cgroup.procs"))?;
        Ok(members.lines().any(|line| line.parse() == Ok(pid)))
    }

    /// Writes one of its settings.
    pub(super) fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.dir.join(file), value)
    }

    /// How many members were killed at the memory limit.
    pub(super) fn out_of_memory(&self) -> u64 {
        let file = match self.hierarchy {
            Hierarchy::V2 => "memory.events",
            Hierarchy::V1(Controller::Memory) => "memory.oom_control",
            Hierarchy::Freezer | Hierarchy::V1(_) => return 0,
        };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Asks the kernel to freeze or thaw all members.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        match self.hierarchy {
            Hierarchy::Freezer => self.set("freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
            Hierarchy::V2 => self.set("cgroup.freeze", if frozen { "1" } else { "0" }),
            Hierarchy::V1(_) => Ok(()),
        }
    }

    /// Whether all members are frozen.
    pub(super) fn is_frozen(&self) -> io::Result<bool> {
        let read = |file: &str| fs::read_to_string(self.dir.join(file));
        match self.hierarchy {
            Hierarchy::Freezer => Ok(read("freezer.state")?.trim() == "FROZEN"),
            Hierarchy::V2 => Ok(read("cgroup.events")?.lines().any(|line| line == "frozen 1")),
            Hierarchy::V1(_) => Ok(false),
        }
    }

    /// Kills every member; to be repeated until [`Self::remove`] succeeds, as members may be forking.
    pub(super) fn kill(&self) -> io::Result<()> {
        if self.hierarchy == Hierarchy::V2 && self.set("cgroup.kill", "1").is_ok() {
            return Ok(());
        }
        // Frozen members cannot fork, so that one pass reaches all; they die when thawed.
        self.freeze(true)?;
        for line in fs::read_to_string(self.dir.join("cgroup.procs"))?.lines() {
            if let Some(member) = line.parse().ok().and_then(Process::of) {
                member.signal(libc::SIGKILL)?;
            }
        }
        self.freeze(false)
    }

    /// Removes the group; `false` while it has members.
    pub(super) fn remove(&self) -> io::Result<bool> {
        match fs::remove_dir(&self.dir) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV) => Ok(true),
                Some(libc::EBUSY) => Ok(false),
                _ => Err(error),
            },
        }
    }
}

/// Removes each of `leaves` that has no members; whether that is all of them. What cannot be removed at all is left.
pub(super) fn remove_all(leaves: &[Leaf]) -> bool {
    let left = leaves.iter().filter(|leaf| !leaf.remove().unwrap_or(true));
    left.count() == 0
}

/// Whose a group is: a process, and the process namespace in which its number holds. Without the
/// namespace a caller inside a machine would take the groups of all callers outside for stale.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    namespace: u64,
    process: Process,
}

impl Owner {
    fn me() -> io::Result<Self> {
        let process = Process::of(std::process::id()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            namespace: fs::metadata("/proc/self/ns/pid")?.ino(),
            process,
        })
    }

    fn text(&self) -> String {
        format!(
            "{:x}-{}-{}",
            self.namespace, self.process.pid, self.process.started
        )
    }

    fn parse(prefix: &str, name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(prefix)?.splitn(4, '-');
        let namespace = u64::from_str_radix(parts.next()?, 16).ok()?;
        let process = Process {
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
        };
        parts.next().map(|_| Self { namespace, process })
    }

    fn is_gone(&self) -> bool {
        Self::me().is_ok_and(|me| me.namespace == self.namespace) && !self.process.exists()
    }
}

/// This process's group in `/proc/self/cgroup` (cgroups(7): `id:controllers:path`).
fn group(hierarchy: Hierarchy, groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let fits = match hierarchy.controller() {
            Some(wanted) => controllers.split(',').any(|controller| controller == wanted),
            None => controllers.is_empty(),
        };
        // A path that climbs lies outside of what this control group namespace shows.
        (fits && !path.starts_with("/..")).then_some(path)
    })
}

/// The directory that shows `group`, found in `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn directory(hierarchy: Hierarchy, group: &str, mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let fits = match hierarchy.controller() {
            Some(wanted) => name == "cgroup" && options.split(',').any(|option| option == wanted),
            None => name == "cgroup2",
        };
        let below = Path::new(group).strip_prefix(root).ok()?;
        // Mount points with spaces are escaped in this file; none of the usual places has any.
        (fits && !point.contains('\\')).then(|| Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_a_hybrid_layout() {
        let groups = "8:pids:/\n6:cpu,freezer:/a/b\n1:name=systemd:/\n0::/user/c:d\n";
        let mounts = "30 24 0:26 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,cpu,freezer\n\
                      31 24 0:27 /user /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw,nsdelegate\n";
        let find = |hierarchy| directory(hierarchy, group(hierarchy, groups).unwrap(), mounts).unwrap();
        assert_eq!(find(Hierarchy::Freezer), Path::new("/sys/fs/cgroup/freezer/a/b"));
        assert_eq!(find(Hierarchy::V2), Path::new("/sys/fs/cgroup/unified/c:d"));
    }

    #[test]
    fn a_group_outside_the_namespace_is_not_used() {
        assert_eq!(group(Hierarchy::V2, "0::/../other\n"), None);
    }

    #[test]
    fn owners_are_told_apart_by_namespace_and_time() {
        let me = Owner::me().unwrap();
        let name = format!("{PREFIX}{}-web-1", me.text());
        assert_eq!(Owner::parse(PREFIX, &name), Some(Owner::me().unwrap()));
        assert!(!me.is_gone());
        let later = Process {
            started: me.process.started + 1,
            ..me.process
        };
        assert!(Owner { process: later, ..me }.is_gone());
        assert!(
            !Owner {
                process: later,
                namespace: me.namespace + 1
            }
            .is_gone()
        );
        assert_eq!(Owner::parse(PREFIX, "suijuris-x"), None);
    }
}
