//! What runs a machine: the emulator or Firecracker, one process a run. A machine that is suspended and resumed has several
//! runs, one after another.
//!
//! The two differ in how they are told what to do and in where the machine's channel comes out; everything else of a
//! virtual machine is the same and does not look in here.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use suijuris_guest::wire::Mark;
use tokio::task::JoinSet;

use super::channel::Channel;
use super::console::Console;
use super::disk::Taken;
use super::firecracker::{self, Microvm};
use super::qemu::{self, Emulator};
use crate::driver::Machine as _;
use crate::error::StartError;
use crate::machine::Exit;
use crate::output::Since;
use crate::process::{self, Process};

/// Lines of the monitor's own that an error quotes at most.
const QUOTED: usize = 8;

/// What a machine is made of; the same in each run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Hardware {
    /// Begins the ids of the monitor's processes, this machine's alone.
    pub(super) name: String,
    /// Whether the monitor outlives its driver, and where it listens and writes is in its directory.
    pub(super) outlives: bool,
    pub(super) programs: Programs,
    /// The machine's own files are in here.
    pub(super) dir: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    /// Arguments of the first process.
    pub(super) guest_args: Vec<OsString>,
    pub(super) memory_bytes: u64,
    /// The file that is the machine's memory.
    pub(super) memory: PathBuf,
    /// Where the rest of its state is kept while it is suspended.
    pub(super) state: PathBuf,
    pub(super) disks: Vec<PathBuf>,
    pub(super) network: bool,
    /// Thousandths of a processor's time.
    pub(super) cpu: Option<u32>,
    /// The memory's file is what a machine was frozen with: it is never changed, and what this one writes goes nowhere near it.
    #[serde(default)]
    pub(super) borrowed: bool,
    /// The suspended machine's state has its memory in it, beside the rest; its file has nothing of it.
    #[serde(default)]
    pub(super) whole: bool,
    /// Which monitor wrote the state of the suspended machine; no other reads it.
    #[serde(default)]
    pub(super) saved_by: String,
}

/// The program that runs machines, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Programs {
    Qemu(qemu::Program),
    Firecracker(firecracker::Program),
}

/// A running monitor.
#[derive(Debug)]
pub(super) enum Monitor {
    Qemu(Emulator),
    Firecracker(Box<Microvm>),
}

impl Hardware {
    /// Starts the monitor: with a machine that boots, or one that waits for its state.
    pub(super) async fn run(
        &self,
        inner: &Process,
        disks: &[Taken],
        resumes: bool,
    ) -> Result<Monitor, StartError> {
        Ok(match &self.programs {
            Programs::Qemu(program) => {
                Monitor::Qemu(Emulator::run(program, self, inner, disks, resumes).await?)
            }
            Programs::Firecracker(program) => {
                Monitor::Firecracker(Box::new(Microvm::run(program, self, inner, resumes).await?))
            }
        })
    }
}

impl Monitor {
    pub(super) fn process(&self) -> &process::Machine {
        match self {
            Self::Qemu(emulator) => emulator.process(),
            Self::Firecracker(microvm) => microvm.process(),
        }
    }

    /// The monitor's process, whose output can be followed, where it outlives its driver.
    pub(super) fn kept(&self) -> Option<Arc<process::Machine>> {
        match self {
            Self::Qemu(emulator) => emulator.kept(),
            Self::Firecracker(_) => None,
        }
    }

    /// It may go on without its driver from here on.
    pub(super) const fn release(&mut self) {
        if let Self::Qemu(emulator) = self {
            emulator.release();
        }
    }

    /// Connects the machine's channel, as soon as the machine has its end; a machine that boots. Cancelled, it is to be killed.
    pub(super) async fn connect(&self, channel: &mut Channel) -> io::Result<()> {
        match self {
            Self::Qemu(emulator) => emulator.connect(channel),
            Self::Firecracker(microvm) => microvm.connect(channel).await,
        }
    }

    /// Keeps what the machine writes to its console.
    pub(super) fn keep_console(&mut self, console: &Arc<Console>, readers: &mut JoinSet<()>) {
        match self {
            Self::Qemu(emulator) => emulator.keep_console(console, readers),
            Self::Firecracker(microvm) => microvm.keep_console(console, readers),
        }
    }

    /// Writes the machine's state; its memory is in its file then, and it stands still. On an error the machine runs on.
    pub(super) async fn save(&mut self, hardware: &Hardware) -> io::Result<()> {
        match self {
            Self::Qemu(emulator) => Ok(emulator.save(&hardware.state, hardware.borrowed).await?),
            Self::Firecracker(microvm) => microvm.save(hardware).await,
        }
    }

    /// Its version, in its words.
    pub(super) fn version(&self) -> &str {
        match self {
            Self::Qemu(emulator) => emulator.version(),
            Self::Firecracker(_) => "",
        }
    }

    /// Has a machine that was saved run on after all.
    pub(super) async fn go_back(&mut self) -> io::Result<()> {
        match self {
            Self::Qemu(emulator) => Ok(emulator.go_back().await?),
            Self::Firecracker(microvm) => microvm.go_back().await,
        }
    }

    /// It has saved its machine and ends.
    pub(super) async fn end(&mut self) -> Exit {
        match self {
            Self::Qemu(emulator) => {
                emulator.quit().await;
                emulator.process().wait().await
            }
            Self::Firecracker(microvm) => microvm.process().kill().await,
        }
    }

    /// Reads the machine's state; it stands still.
    pub(super) async fn load(&mut self, hardware: &Hardware) -> io::Result<()> {
        match self {
            Self::Qemu(emulator) => Ok(emulator.load(&hardware.state, hardware.whole).await?),
            Self::Firecracker(microvm) => microvm.load(hardware).await,
        }
    }

    /// Lets a machine that was loaded run, and connects its channel, over which it hears first what the channel says first.
    pub(super) async fn go_on(&mut self, channel: &mut Channel) -> io::Result<()> {
        match self {
            Self::Qemu(emulator) => emulator.go_on(channel).await,
            Self::Firecracker(microvm) => microvm.go_on(channel).await,
        }
    }

    /// Goes on with a machine that an earlier driver started.
    pub(super) async fn take_over(&mut self, channel: &mut Channel, mark: Mark) -> io::Result<()> {
        match self {
            Self::Qemu(emulator) => emulator.take_over(channel, mark).await,
            // None outlives its driver.
            Self::Firecracker(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The machine has ended: its monitor may, too.
    pub(super) async fn quit(&mut self) {
        if let Self::Qemu(emulator) = self {
            emulator.quit().await;
        }
    }
}

/// Why a monitor did not run: in its own words, where it has said any.
pub(super) async fn explained(
    process: &process::Machine,
    error: impl std::error::Error + Send + Sync + 'static,
) -> StartError {
    let exit = process.kill().await;
    let mut said = Vec::new();
    if let Ok(mut lines) = process.output(Since::Kept) {
        while let Some(line) = lines.next().await {
            if said.len() < QUOTED {
                said.push(line.text);
            }
        }
    }
    if said.is_empty() {
        return StartError::Failed(Box::new(error));
    }
    let why = format!("the virtual machine's monitor {exit}: {}", said.join("; "));
    StartError::Failed(why.into())
}
