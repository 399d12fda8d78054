//! What a specification comes to in a virtual machine: checked before anything is made, and said to its first process.

use std::io;
use std::path::{Path, PathBuf};

use suijuris_guest::wire::{self, Start, Text};

use super::owner::now;
use super::{Accelerator, Kind};
use crate::Driver as _;
use crate::description::{
    Description, Enforced, ImageUsers, Isolation, Location, Means, Resource, Shortfall, Suspending,
};
use crate::error::SpecError;
use crate::machine::{MachineId, is_plain};
use crate::process::{Process, SEVERAL_USERS};
use crate::spec::{ImageFiles, ImageRoot, Lifetime, Mount, Network, Output, Root, Spec};

/// Disks of a machine at most.
const MAX_DISKS: usize = 4;

pub(super) fn unsupported(what: &'static str, why: &'static str) -> SpecError {
    SpecError::Unsupported { what, why }
}

/// What is bound into the machine, to be read alone or not: from where, to where.
pub(super) fn binds(spec: &Spec, read: bool) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    spec.mounts.iter().filter_map(move |mount| match mount {
        Mount::Bind { from, to, read_only } if *read_only == read => Some((from.clone(), to.clone())),
        _ => None,
    })
}

/// Name of the file system on the disk at this place, by which the machine finds it.
pub(super) fn label(number: usize) -> String {
    format!("suijuris-{number}")
}

/// Name of the file system on the disk that a program in an image begins with.
pub(super) const ROOT_LABEL: &str = "suijuris-root";

pub(super) fn check(spec: &Spec, kind: &Kind, detached: bool) -> Result<(), SpecError> {
    if spec.name.is_empty() || spec.name.len() > 64 || !spec.name.bytes().all(is_plain) {
        return Err(SpecError::Name(spec.name.clone()));
    }
    if !spec.inherit.is_empty() {
        return Err(unsupported(
            "an open file",
            "cannot be passed into a virtual machine: use its link",
        ));
    }
    if spec.joins.is_some() {
        return Err(unsupported(
            "a network made before",
            "is for machines of processes",
        ));
    }
    if spec.lifetime == Lifetime::Detached && !detached {
        return Err(unsupported(
            "a machine that outlives its driver",
            "needs QEMU, and a driver of processes that keeps its machines in a directory",
        ));
    }
    if matches!(&spec.root, Root::Image(ImageRoot { files, .. }) if !matches!(files, ImageFiles::Disk(_))) {
        return Err(unsupported(
            "an image in directories",
            "is no disk: make one of it for a virtual machine",
        ));
    }
    let has_network = !matches!(kind, Kind::Firecracker(program) if program.tap.is_none());
    if spec.network == Network::Host && !has_network {
        return Err(unsupported(
            "the host's network",
            "needs a tap device of the host with Firecracker: name one with SUIJURIS_TAP, or choose a private network",
        ));
    }
    for output in [&spec.stdout, &spec.stderr] {
        if matches!(output, Output::Fd(_) | Output::Inherit) {
            return Err(unsupported(
                "output to an open file",
                "is not possible from a virtual machine: read it as lines",
            ));
        }
    }
    if binds(spec, false).count() > MAX_DISKS {
        return Err(SpecError::TooMany {
            what: "directories that the machine may write",
            count: binds(spec, false).count(),
            most: MAX_DISKS,
        });
    }
    if let Some(number) = spec.link.filter(|number| !(3..1024).contains(number)) {
        return Err(SpecError::Number(number));
    }
    let limits = spec.resources;
    for (limit, what) in [
        (limits.memory, "memory"),
        (limits.cpu.map(u64::from), "cpu"),
        (limits.processes.map(u64::from), "processes"),
        (limits.open_files.map(u64::from), "open files"),
    ] {
        if limit == Some(0) {
            return Err(SpecError::Zero(what));
        }
    }
    let places = spec.mounts.iter().map(|mount| match mount {
        Mount::Bind { to, .. } | Mount::Tmpfs { to, .. } => to,
    });
    match places.chain([&spec.cwd]).find(|path| !path.is_absolute()) {
        Some(path) => Err(SpecError::Relative(path.clone())),
        None => Ok(()),
    }
}

/// Whether `from` is the machine's first program, which is there once.
pub(super) fn is_guest(from: &Path, guest: &Path) -> bool {
    let same = |one: io::Result<PathBuf>, other: io::Result<PathBuf>| matches!((one, other), (Ok(one), Ok(other)) if one == other);
    same(from.canonicalize(), guest.canonicalize())
}

/// Where what is given to a machine to read lies in its first file system.
fn in_first(from: &Path, to: &Path, guest: &Path) -> PathBuf {
    match is_guest(from, guest) {
        true => PathBuf::from(super::initrd::INIT),
        false => to.to_owned(),
    }
}

/// What the first process is told.
pub(super) fn order(
    id: &MachineId,
    spec: &Spec,
    (exe, guest): (PathBuf, &Path),
    network: bool,
) -> io::Result<Start> {
    let argv = &spec.program.argv;
    let is_image = spec.root != Root::Host;
    let mut disk = 0;
    let mounts = spec.mounts.iter().filter_map(|mount| match mount {
        Mount::Tmpfs { to, size_bytes } => Some(wire::Mount::Tmpfs {
            to: to.clone(),
            size_bytes: *size_bytes,
        }),
        Mount::Bind { read_only: true, .. } => None,
        Mount::Bind { to, .. } => {
            disk += 1;
            Some(wire::Mount::Disk {
                label: label(disk - 1),
                to: to.clone(),
                read_only: false,
            })
        }
    });
    let mounts = mounts.collect();
    Ok(Start {
        now: now()?,
        hostname: id.to_string(),
        root: is_image.then(|| ROOT_LABEL.to_owned()),
        given: match is_image {
            true => binds(spec, true)
                .map(|(from, to)| (in_first(&from, &to, guest), to))
                .collect(),
            false => Vec::new(),
        },
        exe,
        argv: argv.iter().cloned().map(Text).collect(),
        env: spec
            .env
            .iter()
            .map(|(name, value)| (Text(name.clone()), Text(value.clone())))
            .collect(),
        cwd: spec.cwd.clone(),
        mounts,
        link: spec.link,
        outputs: [&spec.stdout, &spec.stderr].map(|output| matches!(output, Output::Lines)),
        open_files: spec.resources.open_files,
        processes: spec.resources.processes,
        network,
        mark: None,
    })
}

pub(super) fn describe(inner: &Process, kind: &Kind) -> Description {
    let cpu = inner.describe().limits(Resource::Cpu);
    let by = |what, by| Enforced { what, by };
    let (vehicle, class) = match kind {
        Kind::Qemu(accelerator) => ("qemu", accelerator.as_str()),
        Kind::Firecracker(_) => ("firecracker", "kvm"),
    };
    let mut shortfalls = Vec::new();
    if kind == &Kind::Qemu(Accelerator::Tcg) {
        shortfalls.push(Shortfall {
            wanted: "hardware virtualization".to_owned(),
            why: match super::kvm() {
                Ok(()) => "machines are emulated (TCG), as was asked for".to_owned(),
                Err(why) => format!("machines are emulated (TCG): {why}"),
            },
        });
    }
    if let Kind::Firecracker(firecracker) = kind
        && super::tools::jailer(firecracker).is_none()
    {
        let is_root = nix::unistd::geteuid().is_root();
        shortfalls.push(Shortfall {
            wanted: "jailer".to_owned(),
            why: match is_root {
                true => "not found: put the `jailer` of Firecracker's release beside it; without it Firecracker is root, without a root directory of its own",
                false => "needs root: Firecracker runs as this user, without a root directory of its own",
            }
            .to_owned(),
        });
    }
    Description {
        vehicle,
        place: Location {
            region: "local".to_owned(),
            provider: vehicle.to_owned(),
            class: class.to_owned(),
            id: inner.describe().place.id.clone(),
        },
        isolation: Isolation::VirtualMachine,
        suspending: Some(Suspending::MemoryFile),
        limits: vec![
            by(Resource::Memory, Means::VirtualMachine),
            by(Resource::Cpu, cpu),
            by(Resource::Processes, Means::VirtualMachine),
            by(Resource::OpenFiles, Means::PerProcess),
        ],
        images: true,
        users: ImageUsers::All,
        mounts: true,
        private_network: true,
        descriptors: false,
        detached: matches!(kind, Kind::Qemu(_)) && inner.describe().detached,
        copies: matches!(kind, Kind::Qemu(_)) && inner.describe().detached,
        shortfalls,
        limit_shortfalls: inner
            .describe()
            .limit_shortfalls
            .iter()
            .filter(|shortfall| shortfall.wanted != SEVERAL_USERS)
            .cloned()
            .collect(),
    }
}
