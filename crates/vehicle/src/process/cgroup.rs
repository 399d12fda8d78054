//! Control groups for one purpose: to suspend and to kill a machine as a whole.
//!
//! A [`Base`] is the caller's own group, below which it may make a [`Leaf`] for each machine. Version 2
//! freezes by `cgroup.freeze` and kills by `cgroup.kill`; version 1 freezes by its `freezer` controller,
//! under which a killed process dies only once thawed. No other controller is touched.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use suijuris_sys::Process;

/// Begins the name of every group made here.
const PREFIX: &str = "suijuris-";

/// Version of the control group interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Version {
    V1,
    V2,
}

/// A directory in which groups may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    version: Version,
    dir: PathBuf,
}

/// The group of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leaf {
    version: Version,
    dir: PathBuf,
}

impl Base {
    /// The group in which this process is.
    pub(super) fn own(version: Version) -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let dir = group(version, &groups).and_then(|group| directory(version, group, &mounts));
        let missing = || io::Error::new(io::ErrorKind::NotFound, "not mounted here");
        Ok(Self {
            version,
            dir: dir.ok_or_else(missing)?,
        })
    }

    /// Makes the group for machine `name` of this process.
    pub(super) fn leaf(&self, name: &str) -> io::Result<Leaf> {
        let dir = self.dir.join(format!("{PREFIX}{}-{name}", Owner::me()?.text()));
        fs::create_dir(&dir)?;
        Ok(Leaf {
            version: self.version,
            dir,
        })
    }

    /// The groups here whose makers are gone.
    pub(super) fn stale(&self) -> Vec<Leaf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .and_then(Owner::parse)
                    .is_some_and(|owner| owner.is_gone())
            })
            .map(|entry| Leaf {
                version: self.version,
                dir: entry.path(),
            })
            .collect()
    }
}

impl Leaf {
    /// The directory itself, for a process to be born in (version 2).
    pub(super) fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        match self.version {
            Version::V1 => Ok(None),
            Version::V2 => fs::File::open(&self.dir).map(|dir| Some(dir.into())),
        }
    }

    /// Its member list, to which a process writes itself (version 1).
    pub(super) fn members(&self) -> io::Result<Option<fs::File>> {
        match self.version {
            Version::V1 => fs::File::options()
                .write(true)
                .open(self.dir.join("cgroup.procs"))
                .map(Some),
            Version::V2 => Ok(None),
        }
    }

    /// Asks the kernel to freeze or thaw all members.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        match self.version {
            Version::V1 => fs::write(
                self.dir.join("freezer.state"),
                if frozen { "FROZEN" } else { "THAWED" },
            ),
            Version::V2 => fs::write(self.dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        }
    }

    /// Whether all members are frozen.
    pub(super) fn is_frozen(&self) -> io::Result<bool> {
        match self.version {
            Version::V1 => Ok(fs::read_to_string(self.dir.join("freezer.state"))?.trim() == "FROZEN"),
            Version::V2 => Ok(fs::read_to_string(self.dir.join("cgroup.events"))?
                .lines()
                .any(|line| line == "frozen 1")),
        }
    }

    /// Kills every member; to be repeated until [`Self::remove`] succeeds, as members may be forking.
    pub(super) fn kill(&self) -> io::Result<()> {
        if self.version == Version::V2 && fs::write(self.dir.join("cgroup.kill"), "1").is_ok() {
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

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(4, '-');
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
fn group(version: Version, groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let fits = match version {
            Version::V1 => controllers.split(',').any(|controller| controller == "freezer"),
            Version::V2 => controllers.is_empty(),
        };
        // A path that climbs lies outside of what this control group namespace shows.
        (fits && !path.starts_with("/..")).then_some(path)
    })
}

/// The directory that shows `group`, found in `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn directory(version: Version, group: &str, mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let fits = match version {
            Version::V1 => name == "cgroup" && options.split(',').any(|option| option == "freezer"),
            Version::V2 => name == "cgroup2",
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
        let find = |version| directory(version, group(version, groups).unwrap(), mounts).unwrap();
        assert_eq!(find(Version::V1), Path::new("/sys/fs/cgroup/freezer/a/b"));
        assert_eq!(find(Version::V2), Path::new("/sys/fs/cgroup/unified/c:d"));
    }

    #[test]
    fn a_group_outside_the_namespace_is_not_used() {
        assert_eq!(group(Version::V2, "0::/../other\n"), None);
    }

    #[test]
    fn owners_are_told_apart_by_namespace_and_time() {
        let me = Owner::me().unwrap();
        let name = format!("{PREFIX}{}-web-1", me.text());
        assert_eq!(Owner::parse(&name), Some(Owner::me().unwrap()));
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
        assert_eq!(Owner::parse("suijuris-x"), None);
    }
}
