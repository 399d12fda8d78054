//! What is written down about a machine that outlives its driver, so that a later one goes on with it.
//!
//! `record` in the machine's directory (0700), JSON, written whole or not at all. That its monitor is the one that was started is
//! proved by the driver of processes ([`crate::process`]), whose record names it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suijuris_guest::wire::Mark;

use super::disk::Taken;
use super::monitor::Hardware;
use crate::description::Enforced;
use crate::machine::{Exit, MachineId};

/// Its name.
pub(super) const RECORD: &str = "record";

/// Version of the format.
const VERSION: u32 = 1;

/// Bytes at most.
const MAX_BYTES: u64 = 256 << 10;

/// A machine that outlives its driver.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    pub(super) id: MachineId,
    pub(super) phase: Phase,
    pub(super) hardware: Hardware,
    /// Directories that are on disks, and the disks.
    disks: Vec<(PathBuf, PathBuf)>,
    pub(super) limits: Vec<Enforced>,
    pub(super) has_link: bool,
    pub(super) has_output: bool,
    pub(super) mark: Mark,
    /// How often it was taken over.
    pub(super) attached: u32,
}

/// Where a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Its monitor may run, and its program has not begun as far as is known.
    Starting,
    /// Its monitor is this process.
    Running(MachineId),
    /// Its memory and its state are in files, and no monitor has been let run on since.
    Suspended,
    /// It has ended like this.
    Ended(Exit),
}

impl Record {
    pub(super) fn new(id: &MachineId, hardware: &Hardware, disks: &[Taken], mark: Mark) -> Self {
        let disks = disks
            .iter()
            .map(|disk| (disk.dir().to_owned(), disk.disk().to_owned()));
        Self {
            version: VERSION,
            id: id.clone(),
            phase: Phase::Starting,
            hardware: hardware.clone(),
            disks: disks.collect(),
            limits: Vec::new(),
            has_link: false,
            has_output: false,
            mark,
            attached: 0,
        }
    }

    /// Its disks, whose locks its monitor may hold.
    pub(super) fn disks(&self) -> Vec<Taken> {
        let again = |(dir, disk): &(PathBuf, PathBuf)| Taken::again(dir.clone(), disk.clone());
        self.disks.iter().map(again).collect()
    }

    /// Reads the record in directory `dir`.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(dir.join(RECORD))?
            .take(MAX_BYTES)
            .read_to_end(&mut bytes)?;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("the record is damaged: {error}")))?;
        match record.version {
            VERSION => Ok(record),
            other => Err(invalid(format!("the record has version {other}, not {VERSION}"))),
        }
    }

    /// Writes where the machine is now.
    pub(super) fn set(&mut self, phase: Phase) -> io::Result<()> {
        self.phase = phase;
        self.write()
    }

    /// Replaces the record, which is never half written.
    pub(super) fn write(&self) -> io::Result<()> {
        let new = self.hardware.dir.join("record.new");
        let _ = fs::remove_file(&new);
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_data()?;
        fs::rename(new, self.hardware.dir.join(RECORD))
    }
}
