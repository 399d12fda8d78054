//! What is written down about a detached machine, so that a later supervisor finds it again and is not fooled.
//!
//! One directory (0700) a machine in the driver's state directory: `record` (this, JSON, written whole or not at all by
//! the shim before the machine may act), `attach` (the shim's socket), `log` and `log.1` (its output). It goes when the
//! machine's end has been told.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use suijuris_sys::Process;

use super::cgroup::Leaf;
use crate::description::Enforced;
use crate::machine::{Exit, MachineId};
use crate::secret::Bytes;

/// Name of the record in a machine's directory.
pub(super) const RECORD: &str = "record";
/// Name of the shim's socket in a machine's directory.
pub(super) const SOCKET: &str = "attach";

/// Most bytes of a record; one takes about one KiB.
const MAX_BYTES: u64 = 64 << 10;
/// Version of this form.
const VERSION: u32 = 1;

/// A detached machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    pub(super) id: MachineId,
    /// The boot in which process numbers and times of start mean something.
    boot: String,
    first: Known,
    keeper: Known,
    pub(super) groups: Vec<Leaf>,
    pub(super) limits: Vec<Enforced>,
    pub(super) has_link: bool,
    /// Whether its output is kept.
    pub(super) has_log: bool,
    pub(super) nonce: Bytes,
    /// Of the secret that both ends must know; betrays nothing of it.
    pub(super) fingerprint: Bytes,
    /// How it ended, once it has.
    pub(super) exit: Option<Exit>,
}

/// [`Process`] in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    pid: u32,
    started: u64,
}

impl From<Process> for Known {
    fn from(Process { pid, started }: Process) -> Self {
        Self { pid, started }
    }
}

impl From<Known> for Process {
    fn from(Known { pid, started }: Known) -> Self {
        Self { pid, started }
    }
}

impl Record {
    /// A machine whose first program is `first`, kept by `keeper`.
    pub(super) fn new(
        detached: &super::wire::Detached,
        fingerprint: Bytes,
        (first, keeper): (Process, Process),
        groups: &[Leaf],
    ) -> io::Result<Self> {
        Ok(Self {
            version: VERSION,
            id: detached.id.clone(),
            boot: boot()?,
            first: first.into(),
            keeper: keeper.into(),
            groups: groups.to_vec(),
            limits: detached.limits.clone(),
            has_link: detached.has_link,
            has_log: detached.pipes > 0,
            nonce: detached.nonce,
            fingerprint,
            exit: None,
        })
    }

    /// Its first program.
    pub(super) fn first(&self) -> Process {
        self.first.into()
    }

    /// Its shim.
    pub(super) fn keeper(&self) -> Process {
        self.keeper.into()
    }

    /// Whether the host has not been started anew since.
    pub(super) fn is_of_this_boot(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
    }

    /// Reads the record in directory `dir`.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(dir.join(RECORD))?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        if bytes.len() as u64 > MAX_BYTES {
            return Err(invalid("the record is too long".to_owned()));
        }
        let record: Self = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("the record is damaged: {error}")))?;
        if record.version == VERSION {
            Ok(record)
        } else {
            Err(invalid(format!(
                "the record has version {}, not {VERSION}",
                record.version
            )))
        }
    }

    /// Replaces the record in directory `dir`, which is never half written.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("record.new");
        let mut file = File::create(&new)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(new, dir.join(RECORD))
    }
}

/// Tells this run of the host from earlier ones.
fn boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        let me = Process::of(std::process::id()).unwrap();
        let detached = super::super::wire::Detached {
            id: "web-1".parse().unwrap(),
            nonce: [7; 32],
            secret: [8; 32],
            has_link: true,
            pipes: 0,
            limits: Vec::new(),
        };
        Record::new(&detached, [9; 32], (me, me), &[]).unwrap()
    }

    #[test]
    fn a_record_is_private_and_read_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        record().write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record());
        let mode = fs::metadata(dir.path().join(RECORD))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(dir.path().join(RECORD)).unwrap();
        assert!(!text.contains("8,8,8"), "no secret stands in it: {text}");
    }

    #[test]
    fn another_version_is_named() {
        let mut other = record();
        other.version = 9;
        let told = Record::parse(&serde_json::to_vec(&other).unwrap()).unwrap_err();
        assert!(told.to_string().contains("version 9"), "{told}");
    }

    proptest! {
        #[test]
        fn damaged_records_are_answered(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = serde_json::to_vec(&record()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Record::parse(&bytes);
        }
    }
}
