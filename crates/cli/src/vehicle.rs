//! What carries machines: processes of this host, or virtual machines. The options of commands that run objects.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use suijuris_core::activation::Terms;
use suijuris_core::inputs::Vehicle;
use suijuris_core::manifest::Manifest;
use suijuris_supervisor::{capability, volume};
use suijuris_vehicle::process::{Ahead, Process, Shim, Want};
use suijuris_vehicle::vm::{self, Accelerator, Firecracker, Kernel, MemoryBackend, Options, VirtualMachines};
use suijuris_vehicle::{Description, Driver as _, Isolation, StartError};

use crate::kernel;
use crate::runtime_program::runtime_program;

/// What carries machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Processes of this host, in namespaces where it has them
    Process,
    /// Virtual machines of QEMU, with a kernel of their own
    Qemu,
    /// Virtual machines of Firecracker, on a host with KVM
    Firecracker,
}

impl Kind {
    /// All, in the order that people read them in.
    pub(crate) const ALL: [Self; 3] = [Self::Process, Self::Qemu, Self::Firecracker];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
        }
    }

    /// As rules see it.
    pub(crate) const fn facts(self) -> Vehicle<'static> {
        Vehicle {
            provider: self.name(),
            class: "",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// As the driver of virtual machines knows it; none for processes.
    fn virtual_machine(self, tap: Option<String>, memory: MemoryBackend) -> Option<vm::Kind> {
        match self {
            Self::Process => None,
            Self::Qemu => Some(vm::Kind::Qemu(Accelerator::detect())),
            Self::Firecracker => Some(vm::Kind::Firecracker(Firecracker {
                tap,
                memory,
                ..Firecracker::default()
            })),
        }
    }
}

/// Which, and with what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct VehicleArg {
    /// What carries machines [default: process; of `up`, what carried the object last]
    #[arg(long, value_name = "KIND", env = "SUIJURIS_VEHICLE")]
    pub(crate) vehicle: Option<Kind>,
    /// Directory with the kernel of virtual machines (`vmlinuz` and its modules) [default: what `suijuris kernel install` fetched]
    #[arg(long, value_name = "DIR", env = "SUIJURIS_KERNEL")]
    pub(crate) kernel: Option<PathBuf>,
    /// The host's network device (a tap) for machines of Firecracker whose `network` is the host's
    #[arg(long, value_name = "DEVICE", env = "SUIJURIS_TAP")]
    pub(crate) tap: Option<String>,
    /// Where Firecracker has the memory of a machine from that goes on
    #[arg(
        long,
        value_name = "HOW",
        env = "SUIJURIS_FIRECRACKER_MEMORY",
        default_value = "file"
    )]
    pub(crate) firecracker_memory: Memory,
    /// Runtimes of processes that are started ahead and wait for an object to wake; 0: none [default: 2, of `up` 1]
    #[arg(long, value_name = "N", env = "SUIJURIS_STANDBY", value_parser = clap::value_parser!(u8).range(..=MOST_STANDBYS))]
    pub(crate) standby: Option<u8>,
}

/// Where Firecracker has the memory of a machine from that goes on after it was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Memory {
    /// The kernel reads its file as pages are touched
    File,
    /// This program brings each page as it is touched (userfaultfd)
    Uffd,
}

impl From<Memory> for MemoryBackend {
    fn from(memory: Memory) -> Self {
        match memory {
            Memory::File => Self::File,
            Memory::Uffd => Self::Uffd,
        }
    }
}

/// Runtimes of one kind that wait, at most.
const MOST_STANDBYS: i64 = 64;

impl VehicleArg {
    /// How many runtimes are started ahead, where it is not said.
    pub(crate) fn ahead(&self, otherwise: u8) -> Ahead {
        Ahead::of(self.standby.unwrap_or(otherwise).into())
    }
}

/// In a data directory: the vehicle that carries the object, where that is not the host's processes.
const NOTE: &str = "vehicle";

/// What carries the object whose data is in `data`; processes where nothing is noted.
///
/// # Errors
/// A note that is none, or cannot be read.
pub(crate) fn noted(data: &Path) -> anyhow::Result<Kind> {
    let path = data.join(NOTE);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kind::Process),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let name = text.trim_end();
    Kind::named(name).with_context(|| {
        format!(
            "{} names a vehicle that is none: remove it to run the object as processes",
            path.display()
        )
    })
}

/// Notes what carries an object from now on, durably.
///
/// # Errors
/// The system's answer.
pub(crate) fn note(data: &Path, kind: Kind) -> anyhow::Result<()> {
    let path = data.join(NOTE);
    if kind == Kind::Process {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
    }
    let line = format!("{}\n", kind.name());
    let noted = volume::whole(&path, |out| {
        out.write_all(line.as_bytes()).map_err(|error| error.to_string())
    });
    noted.map_err(anyhow::Error::msg)
}

/// Machines as processes.
///
/// # Errors
/// This host starts none.
pub(crate) async fn processes(plain: bool) -> anyhow::Result<Process> {
    let want = Want {
        isolation: plain.then_some(Isolation::Plain),
        ..Want::default()
    };
    Process::detect(Shim::itself("__shim"), want)
        .await
        .context("machines cannot be started on this host")
}

/// From a request until its object has woken in a virtual machine, whose kernel boots first; emulated on a busy host that takes minutes.
const WAKE_IN_MACHINE_WITHIN: Duration = Duration::from_secs(300);

/// How long steps may take on a vehicle that passes descriptors, or on one that does not: a virtual machine.
pub(crate) const fn terms(passes_descriptors: bool) -> Terms {
    match passes_descriptors {
        true => Terms::DEFAULT,
        false => Terms {
            wake_within: WAKE_IN_MACHINE_WITHIN,
            ..Terms::DEFAULT
        },
    }
}

/// Virtual machines whose monitors are machines of `inner`, and whose files lie in `state`.
///
/// # Errors
/// What this host lacks for them, by name.
pub(crate) fn virtual_machines(
    kind: Kind,
    arg: &VehicleArg,
    inner: Process,
    state: PathBuf,
) -> anyhow::Result<VirtualMachines> {
    let cannot = || format!("{} cannot carry machines on this host", kind.name());
    let kind = kind.virtual_machine(arg.tap.clone(), arg.firecracker_memory.into());
    let kind = kind.context("processes are no virtual machines")?;
    // What this host lacks at all, before what can be fetched.
    vm::probe(&kind, &inner)
        .map_err(StartError::Unavailable)
        .with_context(cannot)?;
    let runtime = runtime_program();
    let mut words: Vec<OsString> = runtime.argv.into_iter().skip(1).collect();
    words.push(suijuris_guest::init::WORD.into());
    let options = Options {
        kernel: open_kernel(arg.kernel.as_deref(), &kind)?,
        guest: (runtime.exe, words),
        state,
        kind,
    };
    VirtualMachines::new(inner, options).with_context(cannot)
}

/// The kernel in `dir`, or the one that was fetched, if machines of this kind run it.
fn open_kernel(dir: Option<&Path>, kind: &vm::Kind) -> anyhow::Result<Kernel> {
    let dir = match dir {
        Some(dir) => dir.to_owned(),
        None => kernel::place()?,
    };
    let kernel = Kernel::open(&dir)?;
    kernel.image(kind)?;
    Ok(kernel)
}

/// What a vehicle can do on this host: the drivers' own answer, and whether there is a kernel for it.
///
/// # Errors
/// In words: why it carries no machines here, and what to do.
pub(crate) fn look(kind: Kind, inner: &Process) -> Result<Description, String> {
    let Some(kind) = kind.virtual_machine(None, MemoryBackend::default()) else {
        return Ok(inner.describe().clone());
    };
    let kernel = std::env::var_os("SUIJURIS_KERNEL").map(PathBuf::from);
    let lacks = vm::probe(&kind, inner);
    let kernel = open_kernel(kernel.as_deref(), &kind).map_err(|error| format!("{error:#}"));
    match (lacks, kernel) {
        (Ok(description), Ok(_)) => Ok(description),
        (Ok(_), Err(no_kernel)) => Err(no_kernel),
        (Err(lacks), kernel) => {
            let lacks = lacks.iter().map(ToString::to_string);
            Err(lacks.chain(kernel.err()).collect::<Vec<_>>().join("; "))
        }
    }
}

/// Whether `kind` can carry an object of this definition here; looked at before the object departs for it.
///
/// # Errors
/// Why it cannot, and what to do.
pub(crate) fn can_carry(kind: Kind, manifest: &Manifest) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let inner = tokio.block_on(processes(false))?;
    let about = look(kind, &inner)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{} cannot carry machines on this host", kind.name()))?;
    if !about.images && manifest.workload.image.is_some() {
        bail!(
            "workload.image needs a file system of its own, and processes of this host get none: `suijuris vehicles` says why"
        );
    }
    fits(&about, manifest)
}

/// As [`capability::fits`].
///
/// # Errors
/// What of the definition it cannot, and what to do.
pub(crate) fn fits(about: &Description, manifest: &Manifest) -> anyhow::Result<()> {
    capability::fits(about, manifest).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_an_object_is_remembered_and_processes_need_no_note() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(noted(temp.path()).unwrap(), Kind::Process);
        for kind in [Kind::Qemu, Kind::Firecracker, Kind::Process, Kind::Process] {
            note(temp.path(), kind).unwrap();
            assert_eq!(noted(temp.path()).unwrap(), kind);
        }
        assert!(!temp.path().join(NOTE).exists());
        std::fs::write(temp.path().join(NOTE), "carriage\n").unwrap();
        let error = noted(temp.path()).unwrap_err().to_string();
        assert!(error.contains("names a vehicle that is none"), "{error}");
    }
}
