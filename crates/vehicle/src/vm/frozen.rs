//! Machines that stand still for good, each kept for one directory: a machine begins there as its copy, once.
//!
//! ```text
//!   suspended machine ──keep──▶ seat of its directory ──copy──▶ seat of another directory ──take──▶ a machine that begins
//! ```
//! The memory's file is one for all seats of a machine, by hard links, and nobody writes to it: copies map it privately. Disks are
//! copies, of shared blocks where the file system can do that. A seat is whole when its record is there; a directory has one when its
//! note names it. A seat that no note names is removed. Not here: how a machine begins (`thaw`).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use suijuris_guest::wire::Mark;

use super::disk::{DiskError, FROZEN, Taken, run, sync_dir};
use super::monitor::{Hardware, Programs};
use super::record::Record;
use crate::description::Enforced;
use crate::error::FreezeError;

/// Where the seats are, in the driver's directory.
pub(super) const PLACE: &str = "frozen";

/// A seat's record.
const RECORD: &str = "seat";

/// Version of the format.
const VERSION: u32 = 1;

/// Bytes of a note or a record at most.
const MAX_BYTES: u64 = 256 << 10;

/// What a machine is that stands still.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seat {
    version: u32,
    /// The directory that it is kept for.
    dir: PathBuf,
    /// As it was; its files are the seat's now.
    pub(super) hardware: Hardware,
    /// Of its files, those that are its own in each copy: the root of an image, and the directory.
    pub(super) disks: Vec<String>,
    pub(super) limits: Vec<Enforced>,
    pub(super) has_link: bool,
    pub(super) has_output: bool,
    pub(super) mark: Mark,
    pub(super) attached: u32,
}

/// What stands in a directory that a machine is kept for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    seat: String,
    tag: String,
}

/// Files that all copies share.
const SHARED: [&str; 3] = ["memory", "state", "initrd"];

impl From<DiskError> for FreezeError {
    fn from(error: DiskError) -> Self {
        Self::Disk(Box::new(error))
    }
}

/// A seat that is being made; removed unless it is finished.
struct Making {
    dir: PathBuf,
    _lock: Flock<File>,
    done: bool,
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Making {
    fn begin(place: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(place)?;
        let dir = place.join(format!("{:016x}", super::random_number()?));
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let lock =
            super::lock(&dir.join("lock"))?.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
        Ok(Self {
            dir,
            _lock: lock,
            done: false,
        })
    }

    /// Whole from here on; `dir` has it, with this tag.
    fn finish(mut self, seat: &Seat, tag: &str) -> Result<(), FreezeError> {
        write(&self.dir.join(RECORD), seat)?;
        sync_dir(&self.dir)?;
        let name = self
            .dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let note = Note {
            seat: name,
            tag: tag.to_owned(),
        };
        write(&seat.dir.join(FROZEN), &note)?;
        sync_dir(&seat.dir)?;
        self.done = true;
        Ok(())
    }
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_data()?;
    fs::rename(fresh, path)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let found = path.symlink_metadata().ok()?;
    let fits = found.is_file() && found.len() <= MAX_BYTES;
    serde_json::from_slice(&fits.then(|| fs::read(path).ok())??).ok()
}

/// Keeps the suspended machine of this record for the directory of its disk, which is its newest state from here on.
pub(super) fn keep(record: &Record, hardware: &Hardware, disk: &Taken, tag: &str) -> Result<(), FreezeError> {
    if !matches!(hardware.programs, Programs::Qemu(_)) {
        return Err(FreezeError::Unsupported);
    }
    let root = hardware.dir.parent().and_then(Path::parent);
    let place = root.ok_or(FreezeError::Unsupported)?.join(PLACE);
    discard(&place, disk.dir());
    let making = Making::begin(&place)?;
    for (from, name) in [
        (&hardware.memory, "memory"),
        (&hardware.state, "state"),
        (&hardware.initrd, "initrd"),
    ] {
        fs::hard_link(from, making.dir.join(name))?;
    }
    let name = |disk: &PathBuf| {
        disk.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let disks: Vec<String> = hardware.disks.iter().map(name).collect();
    for (from, name) in hardware.disks.iter().zip(&disks) {
        if from != disk.disk() {
            fs::hard_link(from, making.dir.join(name))?;
        }
    }
    // The machine is over from here on: its directory counts.
    disk.leave(&making.dir.join(name(&disk.disk().to_owned())))?;
    let seat = Seat {
        version: VERSION,
        dir: disk.dir().to_owned(),
        hardware: hardware.clone(),
        disks,
        limits: record.limits.clone(),
        has_link: record.has_link,
        has_output: record.has_output,
        mark: record.mark,
        attached: record.attached,
    };
    making.finish(&seat, tag)
}

/// The seat of `dir`, and where it is.
fn of(place: &Path, dir: &Path) -> Option<(PathBuf, Seat, String)> {
    let note: Note = read(&dir.join(FROZEN))?;
    let plain = !note.seat.is_empty() && note.seat.bytes().all(|byte| byte.is_ascii_hexdigit());
    let at = plain.then(|| place.join(&note.seat))?;
    let seat: Seat = read(&at.join(RECORD))?;
    let fits = seat.version == VERSION && seat.dir == dir;
    fits.then_some((at, seat, note.tag))
}

/// What was said of the machine that is kept for `dir`.
pub(super) fn tag(place: &Path, dir: &Path) -> Option<String> {
    of(place, dir).map(|(_, _, tag)| tag)
}

/// Keeps the machine that is kept for `from` for `to` as well.
pub(super) fn copy(place: &Path, from: &Path, (to, tag): (&Path, &str)) -> Result<(), FreezeError> {
    let (at, mut seat, _) = of(place, from).ok_or_else(|| FreezeError::None(from.to_owned()))?;
    discard(place, to);
    let making = Making::begin(place)?;
    for name in SHARED {
        fs::hard_link(at.join(name), making.dir.join(name))?;
    }
    for name in &seat.disks {
        let disk = making.dir.join(name);
        let mut command = Command::new("cp");
        command
            .args(["--reflink=auto", "--sparse=always"])
            .arg(at.join(name))
            .arg(&disk);
        run(command, "cp", &disk, &[0])?;
        File::open(&disk)?.sync_data()?;
    }
    to.clone_into(&mut seat.dir);
    making.finish(&seat, tag)
}

/// Takes the machine that is kept for `dir`: nobody takes it again.
pub(super) fn take(place: &Path, dir: &Path) -> Result<(PathBuf, Seat), FreezeError> {
    let (at, seat, _) = of(place, dir).ok_or_else(|| FreezeError::None(dir.to_owned()))?;
    fs::remove_file(dir.join(FROZEN))?;
    sync_dir(dir)?;
    Ok((at, seat))
}

/// No machine is kept for `dir` from here on.
pub(super) fn discard(place: &Path, dir: &Path) {
    let seat = of(place, dir);
    let _ = fs::remove_file(dir.join(FROZEN));
    if let Some((at, _, _)) = seat {
        let _ = fs::remove_dir_all(at);
    }
}

/// Removes what no directory names.
pub(super) fn clear_stale(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let at = entry.path();
        // One that is being made, or taken, is somebody's.
        let Ok(Some(_free)) = super::lock(&at.join("lock")) else {
            continue;
        };
        let seat: Option<Seat> = read(&at.join(RECORD));
        let named = seat
            .and_then(|seat| of(place, &seat.dir))
            .is_some_and(|(named, _, _)| named == at);
        if !named {
            let _ = fs::remove_dir_all(&at);
        }
    }
}

/// The lock of a seat that is being taken, so that nobody clears it away.
pub(super) fn hold(at: &Path) -> io::Result<Option<Flock<File>>> {
    super::lock(&at.join("lock"))
}
