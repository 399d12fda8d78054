//! What a workload sees and may do: it is a stranger in its machine, root or not.
//!
//! Where we are the first process of a machine and may mount, the workload gets a view of its own: the object's directory
//! is covered but for its volume, its agent socket and its secrets; temporary directories, `/run` and devices are its own;
//! everything else is read-only. Elsewhere it sees what we see, and that is said by whoever describes the machine.
//! Capabilities, system calls and signals are taken from it everywhere.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::egress::HOSTS;
use nix::unistd::geteuid;
use suijuris_sys::confine::{self, Confinement, ProcessLimits};
use suijuris_sys::spawn::Credentials;
use suijuris_sys::view::{Cover, Plan, View};

/// Most bytes in `/tmp`, in `/var/tmp` and in `/dev/shm`; they are memory.
const TEMPORARY_BYTES: u64 = 1 << 30;
/// Directories of which each workload has its own.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// Most bytes in `/run`.
const RUN_BYTES: u64 = 64 << 20;

/// What of `/dev` a program needs that has no hardware of its own.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What of `/proc` reaches beyond a machine; only root could write there.
const SETTINGS: [&str; 5] = ["sys", "irq", "bus", "fs", "sysrq-trigger"];

/// What a workload needs to see.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    /// Directories with what is the object's and not its workload's.
    pub(super) private: &'a [PathBuf],
    /// The workload's own directory.
    pub(super) volume: &'a Path,
    pub(super) agent_socket: &'a Path,
    /// Where it says how it is, where it is to.
    pub(super) notify: Option<&'a Path>,
    /// Files of its secrets, where there are any.
    pub(super) secrets: &'a Path,
    /// What it sees as `/etc/hosts`, where that is not its machine's.
    pub(super) hosts: Option<&'a Path>,
    /// What its author wrote.
    pub(super) object_dir: &'a Path,
    /// What of the host it sees besides: where, and whether it may write there.
    pub(super) mounts: &'a [(PathBuf, PathBuf, bool)],
    /// What is in its place already, and whether it may write there.
    pub(super) kept: &'a [(PathBuf, bool)],
    /// Whether the rest is read-only.
    pub(super) read_only: bool,
    pub(super) program: &'a Path,
    pub(super) cwd: &'a Path,
    /// Whom it runs as, where that is another user.
    pub(super) user: Option<&'a Credentials>,
}

/// What is taken from the workload here.
pub(super) fn confinement(sight: &Sight<'_>, limits: ProcessLimits) -> io::Result<Confinement> {
    let view = can_divide().then(|| view(sight)).transpose()?;
    Confinement::new(view, limits)
}

/// Whether a workload can have a view of its own here.
pub(super) fn can_divide() -> bool {
    std::process::id() == 1 && confine::may_mount()
}

/// Whether this path lies in a directory of which the workload has its own here.
pub(super) fn is_own_temporary(path: &Path) -> bool {
    can_divide() && TEMPORARY.iter().any(|base| path.starts_with(base))
}

fn view(sight: &Sight<'_>) -> io::Result<View> {
    let mut plan = Plan::new();
    if sight.read_only {
        plan.read_only();
    }
    plan.keep(sight.volume, false);
    plan.keep(sight.agent_socket, false);
    if let Some(notify) = sight.notify {
        plan.keep(notify, false);
    }
    plan.keep(sight.secrets, true);
    if !sight.private.iter().any(|private| private == sight.object_dir) {
        plan.keep(sight.object_dir, true);
        keep_around(&mut plan, sight.object_dir);
    }
    if let Some(hosts) = sight.hosts {
        plan.show(hosts, Path::new(HOSTS), true);
    }
    for (from, to, write) in sight.mounts {
        plan.show(from, to, !write);
    }
    for (path, write) in sight.kept {
        plan.keep(path, !write);
    }
    if let Some(user) = sight.user {
        open_the_way(&mut plan, sight, user);
    }
    for private in sight.private {
        plan.cover(private, Cover::EMPTY);
    }
    let temporary = Cover {
        mode: 0o1777,
        size_bytes: TEMPORARY_BYTES,
        writable: true,
    };
    for base in TEMPORARY {
        plan.cover(Path::new(base), temporary.clone());
    }
    let run = Cover {
        mode: 0o755,
        size_bytes: RUN_BYTES,
        writable: true,
    };
    plan.cover(Path::new("/run"), run);
    // Where `/etc/resolv.conf` points on many hosts.
    plan.keep(Path::new("/run/systemd/resolve"), true);
    devices(&mut plan, temporary);
    if geteuid().is_root() {
        let settings = SETTINGS.iter().map(|name| Path::new("/proc").join(name));
        settings.for_each(|path| plan.keep(&path, true));
    }
    for needed in [sight.program, sight.cwd] {
        if plan.hides(needed) && needed.parent().is_some_and(|above| plan.hides(above)) {
            plan.keep(needed, true);
        }
    }
    plan.enter_directory(sight.cwd);
    plan.finish()
}

/// What the workload is shown may lie in a directory that its user cannot pass through, as below `/root`: it is covered, since
/// that user reaches nothing else in it either.
fn open_the_way(plan: &mut Plan, sight: &Sight<'_>, user: &Credentials) {
    let shown = [sight.volume, sight.agent_socket, sight.secrets, sight.object_dir];
    for path in shown.into_iter().chain(sight.notify) {
        let above = path.parent().into_iter().flat_map(Path::ancestors);
        // The outermost; what is below it is then made anew.
        if let Some(shut) = above.filter(|above| !passes(above, user)).last() {
            plan.cover(shut, Cover::EMPTY);
        }
    }
}

/// Whether `user` may pass through the directory `path`, by its mode; what cannot be looked at is left as it is.
fn passes(path: &Path, user: &Credentials) -> bool {
    let Ok(found) = path.metadata() else { return true };
    let bit = if found.uid() == user.uid {
        0o100
    } else if found.gid() == user.gid || user.groups.contains(&found.gid()) {
        0o010
    } else {
        0o001
    };
    found.mode() & bit != 0
}

/// An author who works in a temporary directory has beside the definition what it needs.
fn keep_around(plan: &mut Plan, object_dir: &Path) {
    for base in TEMPORARY {
        let below = object_dir.strip_prefix(base).ok();
        if let Some(first) = below.and_then(|below| below.components().next()) {
            plan.keep(&Path::new(base).join(first), true);
        }
    }
}

/// Disks, terminals and memory of the host are nobody's in a machine.
fn devices(plan: &mut Plan, temporary: Cover) {
    let dev = Path::new("/dev");
    if !dev.is_dir() {
        return;
    }
    plan.cover(dev, Cover::EMPTY);
    DEVICES.iter().for_each(|name| plan.keep(&dev.join(name), false));
    plan.memory(&dev.join("shm"), temporary);
    plan.terminals(&dev.join("pts"));
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        plan.link(&dev.join(name), Path::new(to));
    }
}
