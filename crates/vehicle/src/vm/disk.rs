//! A directory of this host that lives on a machine's disk for a while, and comes back.
//!
//! ```text
//!   directory ──take──▶ disk (ext4), marker in the directory ──machine runs──▶ bring_back ──▶ directory, no marker
//! ```
//! The marker ([`MARKER`]) names the disk: as long as it is there, the newest state is on the disk, and the directory is what
//! it was before. Bringing back is prepared beside the directory, committed by rewriting the marker, and may be done again
//! after a crash at any point ([`recover`]). Called by the driver, and by whoever opens such a directory.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::tools::DiskTools;

/// In a directory whose newest state is on a machine's disk: where that is.
pub const MARKER: &str = "in-machine";

/// In a directory for which a machine is frozen: which.
pub(super) const FROZEN: &str = "frozen";

/// What the caller keeps for a machine that must not have it while it is suspended.
const KEPT: &str = "kept.key";

/// A marker that is being written.
const FRESH: &str = "in-machine.fresh";

/// What was read from the disk and is not in its place yet.
const COMING: &str = "in-machine.coming";

/// What it takes the place of.
const GOING: &str = "in-machine.going";

/// What belongs to this host alone and does not come back: locks, sockets, the note of what carries it, the file system's own.
const HERE: [&str; 10] = [
    MARKER,
    FROZEN,
    KEPT,
    FRESH,
    COMING,
    GOING,
    "lock",
    "run",
    "vehicle",
    "lost+found",
];

/// Free bytes of a new disk beside what is put there; a file with holes until they are used.
pub(super) const ROOM: u64 = 1 << 30;

/// Bytes of a marker at most.
const MAX_MARKER: u64 = 4 << 20;

/// Why a directory cannot go onto a disk, or come back.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A tool refused.
    #[error("`{tool}` failed on the machine's disk {}: {why}", .disk.display())]
    Tool {
        /// Which.
        tool: &'static str,
        /// On what.
        disk: PathBuf,
        /// What it said.
        why: String,
    },
    /// The newest state is nowhere to be found.
    #[error(
        "the newest state of {} is on a machine's disk, {}, which is not there: bring it back there, or remove `{MARKER}` from the directory to go on with the state before",
        .dir.display(), .disk.display()
    )]
    Gone {
        /// The directory.
        dir: PathBuf,
        /// The disk.
        disk: PathBuf,
    },
    /// Somebody's machine has it.
    #[error("{} is on the disk of a machine that runs: end that first", .0.display())]
    InUse(PathBuf),
    /// The system's answer.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(super) fn fault<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> DiskError + 'p {
    move |source| DiskError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// What stands in a directory whose newest state is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    /// The disk.
    disk: PathBuf,
    /// All that was read back from it lies in [`COMING`] or has its place: names, where bringing back is committed.
    names: Option<BTreeSet<OsString>>,
}

/// A directory on a disk.
#[derive(Debug)]
pub(super) struct Taken {
    dir: PathBuf,
    disk: PathBuf,
    /// Held as long as the disk is in use. Not here while an emulator has it that another driver started.
    lock: Option<File>,
}

impl Taken {
    /// Puts `dir` onto a new disk at `disk`, in a file system of this name.
    pub(super) fn take(tools: &DiskTools, dir: &Path, disk: &Path, label: &str) -> Result<Self, DiskError> {
        recover(tools, dir)?;
        let size = size(dir).map_err(fault("measure", dir))?;
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(disk)
            .map_err(fault("make", disk))?;
        let made = Self::fill(tools, dir, (disk, &file), size, label);
        if made.is_err() && !is_away(dir) {
            // Half of it is nothing.
            let _ = fs::remove_file(disk);
        }
        made
    }

    /// Puts what is in `dir` onto the new disk, and writes the marker.
    fn fill(
        tools: &DiskTools,
        dir: &Path,
        (disk, file): (&Path, &File),
        size: u64,
        label: &str,
    ) -> Result<Self, DiskError> {
        file.set_len(size.saturating_mul(2).saturating_add(ROOM).next_multiple_of(4096))
            .map_err(fault("make", disk))?;
        let mut command = Command::new(&tools.mkfs);
        command.args([
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
            "-L",
            label,
        ]);
        command.args(["-J", "size=16", "-d"]).arg(dir).arg(disk);
        run(command, "mkfs.ext4", disk, &[0])?;
        file.sync_all().map_err(fault("write", disk))?;
        let lock = lock(disk)?.ok_or_else(|| DiskError::InUse(dir.to_owned()))?;
        let marker = Marker {
            disk: disk.to_owned(),
            names: None,
        };
        marker.write(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            disk: disk.to_owned(),
            lock: Some(lock),
        })
    }

    /// What an earlier driver put onto `disk`.
    pub(super) const fn again(dir: PathBuf, disk: PathBuf) -> Self {
        let lock = None;
        Self { dir, disk, lock }
    }

    /// Takes the lock, where no emulator has it.
    pub(super) fn hold(&mut self) -> Result<(), DiskError> {
        if self.lock.is_none() {
            let lock = lock(&self.disk)?.ok_or_else(|| DiskError::InUse(self.dir.clone()))?;
            self.lock = Some(lock);
        }
        Ok(())
    }

    /// The lock, for an emulator that outlives this driver.
    pub(super) fn lock(&self) -> io::Result<Option<OwnedFd>> {
        self.lock
            .as_ref()
            .map(|lock| lock.try_clone().map(OwnedFd::from))
            .transpose()
    }

    /// Whether the directory's newest state is still on the disk, and nobody has brought it back.
    pub(super) fn is_away(&self) -> bool {
        let marker = Marker::read(&self.dir).ok().flatten();
        marker.is_some_and(|marker| marker.disk == self.disk) && self.disk.is_file()
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk.
    pub(super) fn disk(&self) -> &Path {
        &self.disk
    }

    /// The disk of a machine that begins as a copy; the directory is the newest state until [`Self::settle`].
    pub(super) fn copy(dir: PathBuf, disk: PathBuf) -> Result<Self, DiskError> {
        let mut copy = Self::again(dir, disk);
        copy.hold()?;
        Ok(copy)
    }

    /// From here on the newest state is on the disk.
    pub(super) fn settle(&self) -> Result<(), DiskError> {
        let marker = Marker {
            disk: self.disk.clone(),
            names: None,
        };
        marker.write(&self.dir)
    }

    /// The directory, which has all that is on the disk, is the newest state from here on; the disk goes to `place`.
    pub(super) fn leave(&self, place: &Path) -> Result<(), DiskError> {
        remove_marker(&self.dir)?;
        fs::rename(&self.disk, place).map_err(fault("move", &self.disk))
    }

    /// The directory becomes what the disk holds; the machine that used it has ended.
    pub(super) fn bring_back(mut self, tools: &DiskTools) -> Result<(), DiskError> {
        if !self.is_away() {
            // Nobody said that anything is on it, or somebody brought it back.
            let _ = fs::remove_file(&self.disk);
            return Ok(());
        }
        self.hold()?;
        read_back(tools, &self.dir, &self.disk, &self.disk)?;
        finish(&self.dir, true)?;
        fs::remove_file(&self.disk).map_err(fault("remove", &self.disk))
    }

    /// The directory becomes what the disk holds, and the disk stays as it is: its machine is suspended.
    pub(super) fn copy_back(&mut self, tools: &DiskTools) -> Result<(), DiskError> {
        if !self.is_away() {
            // Nobody said that anything is on it.
            return Ok(());
        }
        self.hold()?;
        let copy = self.disk.with_extension("copy");
        let mut command = Command::new("cp");
        command
            .args(["--reflink=auto", "--sparse=always"])
            .arg(&self.disk)
            .arg(&copy);
        run(command, "cp", &self.disk, &[0])?;
        let read = read_back(tools, &self.dir, &copy, &self.disk).and_then(|()| finish(&self.dir, false));
        let _ = fs::remove_file(&copy);
        read
    }

    /// Nothing has run: the directory is what it was.
    pub(super) fn give_up(self) -> Result<(), DiskError> {
        remove_marker(&self.dir)?;
        fs::remove_file(&self.disk).map_err(fault("remove", &self.disk))
    }
}

/// Brings back what a machine whose driver has ended left on its disk; whether there was any.
///
/// # Errors
/// [`DiskError`]; nothing is lost, and it may be tried again.
pub(super) fn recover(tools: &DiskTools, dir: &Path) -> Result<bool, DiskError> {
    let Some(marker) = Marker::read(dir)? else {
        for left in [COMING, GOING] {
            remove_all(&dir.join(left))?;
        }
        return Ok(false);
    };
    let Marker { disk, names } = marker;
    let lock = match disk.is_file() {
        true => Some(lock(&disk)?.ok_or_else(|| DiskError::InUse(dir.to_owned()))?),
        // Its state may have come back already, but for the last steps.
        false => None,
    };
    if names.is_none() {
        if lock.is_none() {
            return Err(DiskError::Gone {
                dir: dir.to_owned(),
                disk,
            });
        }
        read_back(tools, dir, &disk, &disk)?;
    }
    finish(dir, true)?;
    let _ = fs::remove_file(&disk);
    Ok(true)
}

/// Whether the newest state of `dir` is on a machine's disk.
#[must_use]
pub fn is_away(dir: &Path) -> bool {
    dir.join(MARKER).symlink_metadata().is_ok()
}

fn lock(disk: &Path) -> Result<Option<File>, DiskError> {
    // Not the disk itself, which its emulator locks.
    let path = disk.with_extension("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(fault("open", &path))?;
    // Closed, not unlocked: an emulator may have it, too.
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(fault("lock", &path)(error)),
    }
}

/// Reads `image` into [`COMING`], whole and durable, and commits that; the marker goes on naming `disk`.
fn read_back(tools: &DiskTools, dir: &Path, image: &Path, disk: &Path) -> Result<(), DiskError> {
    let mut check = Command::new(&tools.fsck);
    check.args(["-f", "-y"]).arg(image);
    // 1: it has repaired, as after a machine that was killed.
    run(check, "e2fsck", image, &[0, 1])?;
    let coming = dir.join(COMING);
    remove_all(&coming)?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&coming)
        .map_err(fault("make", &coming))?;
    let mut dump = Command::new(&tools.debugfs);
    // The name of the directory is no part of the request, whatever is in it.
    dump.args(["-R", "rdump / ."]).arg(image).current_dir(&coming);
    let said = run(dump, "debugfs", image, &[0])?;
    // It ends well whatever happened to a file.
    let trouble = said.lines().find(|line| {
        let harmless = line.starts_with("debugfs ") || line.contains("while changing ownership");
        !harmless && !line.trim().is_empty()
    });
    if let Some(line) = trouble {
        return Err(DiskError::Tool {
            tool: "debugfs",
            disk: image.to_owned(),
            why: line.to_owned(),
        });
    }
    let opened = File::open(&coming).map_err(fault("open", &coming))?;
    rustix::fs::syncfs(&opened).map_err(|errno| fault("write", &coming)(errno.into()))?;
    let names = names(&coming).map_err(fault("read", &coming))?;
    let marker = Marker {
        disk: disk.to_owned(),
        names: Some(names.into_iter().filter(|name| !is_here(name)).collect()),
    };
    marker.write(dir)
}

/// Puts what was read back into its place; again after a crash, from where it was.
fn finish(dir: &Path, is_over: bool) -> Result<(), DiskError> {
    let Some(Marker {
        disk,
        names: Some(coming),
    }) = Marker::read(dir)?
    else {
        return Ok(());
    };
    let (from, going) = (dir.join(COMING), dir.join(GOING));
    remove_all(&going)?;
    fs::create_dir(&going).map_err(fault("make", &going))?;
    let leave = |name: &OsString| {
        let path = dir.join(name);
        match fs::rename(&path, going.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault("replace", &path)(error)),
            _ => Ok(()),
        }
    };
    for name in names(dir).map_err(fault("read", dir))? {
        if !is_here(&name) && !coming.contains(&name) {
            leave(&name)?;
        }
    }
    for name in &coming {
        let path = from.join(name);
        // Otherwise it has its place already.
        if path.symlink_metadata().is_ok() {
            leave(name)?;
            fs::rename(&path, dir.join(name)).map_err(fault("bring back", &path))?;
        }
    }
    sync_dir(dir)?;
    if is_over {
        remove_marker(dir)?;
    } else {
        Marker { disk, names: None }.write(dir)?;
    }
    remove_all(&from)?;
    remove_all(&going)
}

fn is_here(name: &OsString) -> bool {
    HERE.iter().any(|own| name == *own)
}

fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

impl Marker {
    fn read(dir: &Path) -> Result<Option<Self>, DiskError> {
        let path = dir.join(MARKER);
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(fault("read", &path))?,
        };
        if !metadata.is_file() || metadata.len() > MAX_MARKER {
            let odd = io::Error::from(io::ErrorKind::InvalidData);
            return Err(fault("read", &path)(odd));
        }
        let text = fs::read(&path).map_err(fault("read", &path))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| fault("read", &path)(error.into()))
    }

    /// Durably, whole or not at all.
    fn write(&self, dir: &Path) -> Result<(), DiskError> {
        let (fresh, path) = (dir.join(FRESH), dir.join(MARKER));
        let write = || {
            let mut file = File::options()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(fault("write", &path))?;
        sync_dir(dir)
    }
}

fn remove_marker(dir: &Path) -> Result<(), DiskError> {
    let path = dir.join(MARKER);
    fs::remove_file(&path).map_err(fault("remove", &path))?;
    sync_dir(dir)
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(fault("write", dir))
}

fn remove_all(path: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Bytes that what is below `dir` takes up.
pub(super) fn size(dir: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += 4096.max(metadata.size());
        if metadata.is_dir() {
            total += size(&entry.path())?;
        }
    }
    Ok(total)
}

/// Runs a tool; what it said to standard error.
pub(super) fn run(
    mut command: Command,
    tool: &'static str,
    disk: &Path,
    good: &[i32],
) -> Result<String, DiskError> {
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    let fault = |why| DiskError::Tool {
        tool,
        disk: disk.to_owned(),
        why,
    };
    let ran = command.output().map_err(|error| fault(error.to_string()))?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    match ran.status.code() {
        Some(code) if good.contains(&code) => Ok(said),
        code => {
            let why = said
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .map(str::to_owned);
            Err(fault(why.unwrap_or_else(|| format!("it ended with {code:?}"))))
        }
    }
}

#[cfg(test)]
mod tests;
