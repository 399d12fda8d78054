//! The programs of this host that virtual machines need.

use std::path::{Path, PathBuf};

use super::monitor::Programs;
use super::{Firecracker, Kind, firecracker, qemu};
use crate::description::Shortfall;

/// Where programs of administrators lie, beside `PATH`.
const ADMIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Paths of what is used.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) programs: Programs,
    pub(super) disk: DiskTools,
}

/// What makes and reads machines' disks.
#[derive(Debug, Clone)]
pub(super) struct DiskTools {
    pub(super) mkfs: PathBuf,
    pub(super) fsck: PathBuf,
    pub(super) debugfs: PathBuf,
}

/// Looks for programs, and notes what is missing.
#[derive(Default)]
struct Search {
    missing: Vec<Shortfall>,
}

impl Search {
    fn take(&mut self, name: &str, where_from: &str) -> PathBuf {
        found(name).unwrap_or_else(|| {
            self.missing.push(Shortfall {
                wanted: name.to_owned(),
                why: format!("not found: install {where_from}"),
            });
            PathBuf::new()
        })
    }

    /// Firecracker, which runs nothing without the processor's help.
    fn firecracker(&mut self) -> PathBuf {
        if let Err(why) = super::kvm() {
            self.missing.push(Shortfall {
                wanted: "KVM".to_owned(),
                why: why.clone(),
            });
        }
        self.take("firecracker", "a release of Firecracker, where PATH finds it")
    }

    fn disk_tools(&mut self) -> DiskTools {
        let package = "e2fsprogs (Debian package e2fsprogs)";
        DiskTools {
            mkfs: self.take("mkfs.ext4", package),
            fsck: self.take("e2fsck", package),
            debugfs: self.take("debugfs", package),
        }
    }

    fn all<T>(self, found: T) -> Result<T, Vec<Shortfall>> {
        match self.missing.is_empty() {
            true => Ok(found),
            false => Err(self.missing),
        }
    }
}

impl DiskTools {
    /// All of them.
    pub(super) fn find() -> Result<Self, Vec<Shortfall>> {
        let mut search = Search::default();
        let tools = search.disk_tools();
        search.all(tools)
    }
}

impl Tools {
    /// All that machines of this kind need.
    pub(super) fn find(kind: &Kind) -> Result<Self, Vec<Shortfall>> {
        let mut search = Search::default();
        let programs = match kind {
            Kind::Qemu(accelerator) => Programs::Qemu(qemu::Program {
                exe: search.take(
                    "qemu-system-x86_64",
                    "qemu-system-x86 (Debian package qemu-system-x86)",
                ),
                accelerator: *accelerator,
            }),
            Kind::Firecracker(kind) => Programs::Firecracker(firecracker::Program {
                exe: match &kind.exe {
                    Some(exe) => exe.clone(),
                    None => search.firecracker(),
                },
                tap: kind.tap.clone(),
                jailer: jailer(kind),
                memory: kind.memory,
            }),
        };
        let disk = search.disk_tools();
        search.all(Self { programs, disk })
    }
}

/// What jails Firecracker here: nothing where this process is not root.
pub(super) fn jailer(kind: &Firecracker) -> Option<PathBuf> {
    let jailer = || kind.jailer.clone().or_else(|| found("jailer"));
    nix::unistd::geteuid().is_root().then(jailer).flatten()
}

fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(ADMIN.iter().map(|dir| Path::new(dir).to_owned()));
    let mut all = all.filter(|dir| dir.is_absolute());
    all.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
}
