//! Notes of machines that outlive their supervisor: what the next one needs to find an activation again and to prove itself
//! to its runtime. One file an object, for this user alone, outside every object's own directory.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suijuris_core::ObjectId;
use suijuris_link::{ActivationId, Secret};
use suijuris_vehicle::MachineId;

/// Bytes of a note at most.
const MAX_NOTE: u64 = 16 << 10;

/// A machine that outlives its supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineNote {
    /// Its name in the driver.
    pub machine: MachineId,
    /// The activation in it.
    pub activation: ActivationId,
    /// What proves a supervisor to its runtime, and that to the supervisor.
    pub secret: Secret,
    /// How often it was resumed.
    pub generation: u64,
}

/// The directory of notes.
#[derive(Debug, Clone)]
pub struct MachineNotes {
    dir: PathBuf,
}

impl MachineNotes {
    /// Opens the directory, and makes it where there is none.
    ///
    /// # Errors
    /// The system's answer.
    pub fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let dir = dir.to_owned();
        Ok(Self { dir })
    }

    fn path(&self, object: ObjectId) -> PathBuf {
        self.dir.join(format!("{object}.json"))
    }

    /// The machine of an object, where one is noted that can be read.
    #[must_use]
    pub fn read(&self, object: ObjectId) -> Option<MachineNote> {
        let path = self.path(object);
        let plain = path.symlink_metadata().ok()?;
        let fits = plain.is_file() && plain.len() <= MAX_NOTE;
        let text = fits.then(|| std::fs::read(&path).ok())??;
        serde_json::from_slice(&text).ok()
    }

    /// Notes a machine, durably.
    ///
    /// # Errors
    /// The system's answer.
    pub fn write(&self, object: ObjectId, note: &MachineNote) -> io::Result<()> {
        let (fresh, path) = (self.dir.join(format!(".{object}")), self.path(object));
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_data()?;
        std::fs::rename(&fresh, &path)
    }

    /// The machine has ended.
    pub fn forget(&self, object: ObjectId) {
        // One that stays names a machine that is not found.
        let _ = std::fs::remove_file(self.path(object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        let notes = MachineNotes::open(&temp.path().join("notes")).unwrap();
        let object = ObjectId::from_digest(suijuris_core::id::Digest([3; 32]));
        let note = MachineNote {
            machine: "object-1".parse().unwrap(),
            activation: ActivationId([1; 16]),
            secret: Secret::from_bytes([2; 32]),
            generation: 4,
        };
        assert_eq!(notes.read(object), None);
        notes.write(object, &note).unwrap();
        assert_eq!(notes.read(object), Some(note));
        let mode = notes.path(object).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        notes.forget(object);
        assert_eq!(notes.read(object), None);
    }
}
