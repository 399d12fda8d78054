//! What a workload may use up, as far as its runtime has to see to it: limits of each process where nothing limits the
//! machine as a whole, and the size of the volume, which is looked at now and then.

use std::path::Path;

use suijuris_core::manifest::UseLimits;
use suijuris_sys::confine::ProcessLimits;

/// Names the resources that whoever started the machine limits as a whole, separated by commas.
pub const VARIABLE: &str = "SUIJURIS_LIMITED";

/// Most entries of a volume that are counted; a larger one is taken for what was counted so far.
const MAX_ENTRIES: usize = 200_000;

/// What the machine as a whole is limited in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineLimits {
    memory: bool,
    processes: bool,
}

impl MachineLimits {
    /// As [`VARIABLE`] says.
    #[must_use]
    pub fn named(text: &str) -> Self {
        let has = |name| text.split(',').any(|one| one == name);
        Self {
            memory: has("memory"),
            processes: has("processes"),
        }
    }

    /// What is left to limits of each process.
    pub(super) fn of_each_process(self, limits: &UseLimits) -> ProcessLimits {
        ProcessLimits {
            memory: limits.memory.filter(|_| !self.memory),
            processes: limits.processes.filter(|_| !self.processes).map(Into::into),
            open_files: limits.open_files.map(Into::into),
            file_bytes: limits.disk,
        }
    }
}

/// Bytes that files below `root` take on the disk.
#[must_use]
pub fn volume_bytes(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut seen, mut directories) = (0_u64, 0, vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            seen += 1;
            // Of a link, what it takes itself.
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if seen >= MAX_ENTRIES {
                return bytes;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_limits_is_not_limited_again() {
        let limits = UseLimits {
            memory: Some(1 << 30),
            processes: Some(9),
            open_files: Some(99),
            ..UseLimits::default()
        };
        let each = MachineLimits::named("memory,cpu").of_each_process(&limits);
        assert_eq!(
            (each.memory, each.processes, each.open_files),
            (None, Some(9), Some(99))
        );
        assert_eq!(
            MachineLimits::default().of_each_process(&limits).memory,
            Some(1 << 30)
        );
    }

    #[test]
    fn a_volume_is_measured_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        std::fs::write(temp.path().join("d/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("link")).unwrap();
        let bytes = volume_bytes(temp.path());
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
    }
}
