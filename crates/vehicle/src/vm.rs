//! Machines as virtual machines, of QEMU or of Firecracker, with a kernel of their own.
//!
//! The monitor is a machine of [`crate::process`]: it ends with its caller, and lies in namespaces where this host has them.
//! Inside, `suijuris-guest` is the first process. Between them is one channel, a virtio-serial port or a vsock connection: links travel
//! as streams in it, for descriptors cannot. A directory that the machine may write ([`crate::Mount::Bind`]) is put onto a disk of its own and comes back
//! when the machine has ended, or is suspended ([`recover`] where its driver had no time); what it may only read is copied into
//! its memory. Suspended, its memory is a file, and no monitor runs.
//!
//! What this host can do is found out in one place, [`probe`]: for who asks, and for who makes a driver.

mod attach;
mod boot;
mod channel;
mod console;
mod cpio;
mod disk;
mod elf;
mod firecracker;
mod frozen;
mod initrd;
mod kernel;
mod kind;
mod machine;
mod monitor;
mod owner;
mod plan;
mod qemu;
mod record;
mod root;
mod thaw;
mod tools;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg};
use suijuris_guest::wire::{MARK, Mark};

use crate::Driver;
use crate::description::{Description, Enforced, Resource, Shortfall};
use crate::error::{AttachError, FreezeError, ListError, SpecError, StartError};
use crate::machine::MachineId;
use crate::process::Process;
use crate::spec::{ImageFiles, Lifetime, Network, Output, Root, Spec};

use boot::Booted;
use disk::Taken;
pub use disk::{DiskError, MARKER, is_away};
pub use firecracker::ApiError;
use initrd::Given;
pub use kernel::{BUILT_IN, IMAGE, Kernel, KernelError, NEEDED, NEEDED_BY_FIRECRACKER, PLAIN_IMAGE, USED};
use kind::kvm;
pub use kind::{Accelerator, Firecracker, Kind, MemoryBackend};
pub use machine::Machine;
use machine::Parts;
use monitor::Hardware;
use plan::{binds, check, describe};
pub use qemu::QmpError;
use record::{Phase, Record};
pub use root::{Owned, make_root};
use tools::{DiskTools, Tools};

/// Memory of a machine that is limited in none: a kernel, a runtime and a small program.
pub const MEMORY_BYTES: u64 = 256 << 20;

/// Least memory of a machine: a kernel and its first file system do not go into less.
const LEAST_MEMORY: u64 = 128 << 20;

/// Numbers of machines: those of all drivers of a process share its name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How machines are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// What they boot.
    pub kernel: Kernel,
    /// A program that calls [`suijuris_guest::init::main`] on these arguments.
    pub guest: (PathBuf, Vec<OsString>),
    /// Where memory, disks and archives lie; for this user alone.
    pub state: PathBuf,
    /// What runs them.
    pub kind: Kind,
}

/// Starts virtual machines.
#[derive(Debug)]
pub struct VirtualMachines {
    inner: Arc<Process>,
    options: Options,
    tools: Tools,
    description: Description,
}

/// Files of one machine: gone with it.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    /// Whether its files are for a later driver.
    stays: bool,
    _lock: Flock<fs::File>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // A disk that is not back yet stays for whoever brings it back.
        if !self.stays {
            let _ = clear(&self.dir);
        }
    }
}

/// Removes all files of a machine but disks, and the directory where none is left.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_disk = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("disk") && !name.contains('.'));
        if !is_disk {
            let _ = fs::remove_file(path);
        }
    }
    firecracker::jail::clear(dir)?;
    fs::remove_dir(dir)
}

/// What machines of this kind can do on this host, beside processes of `inner`.
///
/// # Errors
/// What they need and this host lacks, by name.
pub fn probe(kind: &Kind, inner: &Process) -> Result<Description, Vec<Shortfall>> {
    Tools::find(kind).map(|_tools| describe(inner, kind))
}

/// Brings back what a machine left on a disk whose driver had no time to; whether there was anything. Whoever opens a directory
/// that a machine may have had ([`is_away`]) calls it first.
///
/// # Errors
/// [`DiskError`]: nothing is lost, and it may be tried again.
pub fn recover(dir: &Path) -> Result<bool, DiskError> {
    if !is_away(dir) {
        return Ok(false);
    }
    let tools = DiskTools::find().map_err(|missing| DiskError::Io {
        what: "bring back what is on a machine's disk for",
        path: dir.to_owned(),
        source: io::Error::other(StartError::Unavailable(missing)),
    })?;
    disk::recover(&tools, dir)
}

impl VirtualMachines {
    /// A driver whose monitors are machines of `inner`.
    ///
    /// # Errors
    /// [`StartError::Unavailable`] names each program that this host lacks.
    pub fn new(inner: Process, options: Options) -> Result<Self, StartError> {
        let description = probe(&options.kind, &inner).map_err(StartError::Unavailable)?;
        let tools = Tools::find(&options.kind).map_err(StartError::Unavailable)?;
        let machines = options.state.join("machines");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&machines)?;
        for entry in fs::read_dir(&machines)? {
            let dir = entry?.path();
            // Of machines whose driver was killed.
            if !dir.join(record::RECORD).exists()
                && let Ok(Some(_free)) = lock(&dir.join("lock"))
            {
                let _ = clear(&dir);
            }
        }
        frozen::clear_stale(&options.state.join(frozen::PLACE));
        Ok(Self {
            inner: Arc::new(inner),
            options,
            tools,
            description,
        })
    }

    /// Where each machine has its directory.
    fn machines(&self) -> PathBuf {
        self.options.state.join("machines")
    }

    fn place(&self, id: &str) -> io::Result<Place> {
        let dir = self.machines().join(id);
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let lock = lock(&dir.join("lock"))?.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
        Ok(Place {
            dir,
            stays: false,
            _lock: lock,
        })
    }

    async fn launch(&self, spec: Spec) -> Result<Machine, StartError> {
        check(&spec, &self.options.kind, self.description.detached)?;
        let outlives = spec.lifetime == Lifetime::Detached;
        let number = match outlives {
            true => format!("{:016x}", random_number()?),
            false => NEXT.fetch_add(1, Ordering::Relaxed).to_string(),
        };
        let id = format!("{}-{number}", spec.name);
        let id = MachineId::try_from(id).map_err(|_| SpecError::Name(spec.name.clone()))?;
        let kernel = self.options.kernel.image(&self.options.kind).map_err(failed)?;
        let place = self.place(&match outlives {
            true => id.to_string(),
            false => format!("{}-{id}", std::process::id()),
        })?;
        let guest = &self.options.guest.0;
        // In an image the program is a file of that, or is given to it.
        let program = match spec.root {
            Root::Host => &spec.program.exe,
            Root::Image(_) => guest,
        };
        let base = initrd::base(&self.options.state, &self.options.kernel, guest, program).await?;
        let exe = match spec.root {
            Root::Host => base.exe,
            Root::Image(_) => spec.program.exe.clone(),
        };
        let root = copied_root(&spec.root, &place).await?;
        let written: Vec<PathBuf> = binds(&spec, false).map(|(from, _)| from).collect();
        let except: Vec<&Path> = written.iter().map(PathBuf::as_path).collect();
        let is_there = |from: &Path| spec.root != Root::Host && plan::is_guest(from, guest);
        let given: Vec<Given> = binds(&spec, true)
            .filter(|(from, _)| !is_there(from))
            .map(|(from, to)| Given { from, to })
            .collect();
        let initrd = initrd::with(&base.path, &given, &except, &place.dir.join("initrd")).await?;
        let memory_bytes = spec.resources.memory.unwrap_or(MEMORY_BYTES).max(LEAST_MEMORY);
        let memory_bytes = memory_bytes
            .checked_next_multiple_of(2 << 20)
            .unwrap_or(memory_bytes);
        let memory = place.dir.join("memory");
        if let Kind::Qemu(_) = self.options.kind {
            private_file(&memory, memory_bytes).map_err(|error| no_memory(&memory, memory_bytes, &error))?;
        }
        let disks = self.take(&written, &place).await?;
        let hardware = Hardware {
            name: format!("vm-{number}"),
            outlives,
            programs: self.tools.programs.clone(),
            dir: place.dir.clone(),
            kernel,
            initrd,
            guest_args: self.options.guest.1.clone(),
            memory_bytes,
            memory,
            state: place.dir.join("state"),
            disks: root
                .into_iter()
                .chain(disks.iter().map(|disk| disk.disk().to_owned()))
                .collect(),
            network: spec.network == Network::Host,
            cpu: spec.resources.cpu,
            borrowed: false,
            whole: false,
            saved_by: String::new(),
        };
        let mut record = None;
        if outlives {
            let mut mark = [0; MARK];
            getrandom::fill(&mut mark).map_err(io::Error::other)?;
            let fresh = Record::new(&id, &hardware, &disks, Mark(mark));
            fresh.write()?;
            record = Some(fresh);
        }
        let mark = record.as_ref().map(|record| record.mark);
        let mut started = self.boot(&id, &spec, exe, &hardware, (&disks, mark)).await;
        if let (Ok(booted), Some(record)) = (&mut started, &mut record) {
            record.limits = self.enforced(&spec, booted);
            record.has_link = spec.link.is_some();
            record.has_output = [&spec.stdout, &spec.stderr]
                .iter()
                .any(|output| matches!(output, Output::Lines));
            match record.set(Phase::Running(
                crate::driver::Machine::id(booted.monitor.process()).clone(),
            )) {
                Ok(()) => booted.monitor.release(),
                Err(error) => started = Err((error.into(), true)),
            }
        }
        match started {
            Ok(mut booted) => Ok(Machine::started(Parts {
                id,
                record,
                inner: self.inner.clone(),
                hardware,
                tools: self.tools.disk.clone(),
                limits: self.enforced(&spec, &booted),
                monitor: Some(booted.monitor),
                channel: booted.channel,
                console: booted.console,
                consoles: booted.consoles,
                disks,
                place,
                outputs: std::mem::take(&mut booted.outputs),
                streams: booted.streams,
                has_link: spec.link.is_some(),
            })),
            Err((error, false)) => {
                for disk in disks {
                    disk.give_up().map_err(failed)?;
                }
                Err(error)
            }
            // The program may have begun: what it wrote comes back.
            Err((error, true)) => {
                let tools = self.tools.disk.clone();
                let back = move || disks.into_iter().try_for_each(|disk| disk.bring_back(&tools));
                let back = tokio::task::spawn_blocking(back)
                    .await
                    .map_err(io::Error::other)?;
                back.map_err(failed)?;
                Err(error)
            }
        }
    }

    async fn take(&self, dirs: &[PathBuf], place: &Place) -> Result<Vec<Taken>, StartError> {
        let (tools, dirs, place) = (self.tools.disk.clone(), dirs.to_owned(), place.dir.clone());
        let take = move || {
            let mut taken: Vec<Taken> = Vec::new();
            for (number, dir) in dirs.iter().enumerate() {
                match Taken::take(
                    &tools,
                    dir,
                    &place.join(format!("disk-{number}")),
                    &plan::label(number),
                ) {
                    Ok(one) => taken.push(one),
                    Err(error) => {
                        // Nothing has run; what cannot be undone is by whoever uses the directory next.
                        taken.into_iter().for_each(|one| drop(one.give_up()));
                        return Err(error);
                    }
                }
            }
            Ok(taken)
        };
        let taken = tokio::task::spawn_blocking(take)
            .await
            .map_err(io::Error::other)?;
        taken.map_err(failed)
    }

    /// By what the limits hold that were asked for.
    fn enforced(&self, spec: &Spec, booted: &Booted) -> Vec<Enforced> {
        let asked = |what| match what {
            Resource::Memory => spec.resources.memory.is_some(),
            Resource::Cpu => spec.resources.cpu.is_some(),
            Resource::Processes => spec.resources.processes.is_some(),
            Resource::OpenFiles => spec.resources.open_files.is_some(),
        };
        let cpu = crate::driver::Machine::limits(booted.monitor.process());
        let told = |entry: &Enforced| match entry.what {
            Resource::Cpu => cpu
                .iter()
                .find(|own| own.what == Resource::Cpu)
                .copied()
                .unwrap_or(*entry),
            _ => *entry,
        };
        let all = self.description.limits.iter();
        all.filter(|entry| asked(entry.what)).map(told).collect()
    }
}

/// The machine's copy of its image, where it begins with one.
async fn copied_root(root: &Root, place: &Place) -> Result<Option<PathBuf>, StartError> {
    let Root::Image(image) = root else {
        return Ok(None);
    };
    let ImageFiles::Disk(disk) = image.files.clone() else {
        return Ok(None);
    };
    let to = place.dir.join("root");
    let copied = {
        let to = to.clone();
        tokio::task::spawn_blocking(move || root::copy_root(&disk, &to))
    };
    copied.await.map_err(io::Error::other)?.map_err(failed)?;
    Ok(Some(to))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Failed(Box::new(error))
}

/// The machine's memory is a file that its disk cannot have.
fn no_memory(file: &Path, bytes: u64, error: &io::Error) -> StartError {
    let (mebibytes, file) = (bytes >> 20, file.display());
    let why = format!(
        "this host cannot have a machine of {mebibytes} MiB of memory, which is the file {file} ({error}): lower limits.memory"
    );
    StartError::Failed(why.into())
}

fn random_number() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}

fn lock(path: &Path) -> io::Result<Option<Flock<fs::File>>> {
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// A machine's memory: what is in it is for this user alone.
fn private_file(path: &Path, bytes: u64) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(bytes)
}

impl Driver for VirtualMachines {
    type Machine = Machine;

    fn describe(&self) -> &Description {
        &self.description
    }

    async fn start(&self, spec: Spec) -> Result<Machine, StartError> {
        match spec.frozen {
            true => self.thaw(spec).await,
            false => self.launch(spec).await,
        }
    }

    fn frozen(&self, dir: &Path) -> Option<String> {
        frozen::tag(&self.options.state.join(frozen::PLACE), dir)
    }

    async fn copy_frozen(&self, from: &Path, to: &Path, tag: &str) -> Result<(), FreezeError> {
        if !self.description.copies {
            return Err(FreezeError::Unsupported);
        }
        let (from, to, tag) = (from.to_owned(), to.to_owned(), tag.to_owned());
        let place = self.options.state.join(frozen::PLACE);
        let copied = tokio::task::spawn_blocking(move || frozen::copy(&place, &from, (&to, &tag)));
        copied.await.map_err(io::Error::other)?
    }

    fn discard_frozen(&self, dir: &Path) {
        frozen::discard(&self.options.state.join(frozen::PLACE), dir);
    }

    async fn attach(&self, id: &MachineId) -> Result<Machine, AttachError> {
        self.take_over(id).await
    }

    async fn list(&self) -> Result<Vec<MachineId>, ListError> {
        let place = self.machines();
        let entries = match fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(source) => return Err(ListError { place, source }),
        };
        let mut found: Vec<MachineId> = entries
            .flatten()
            .filter(|entry| entry.path().join(record::RECORD).exists())
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        found.sort();
        Ok(found)
    }
}
