//! What a workload may use up, and what of its host it sees.

use serde::{Deserialize, Serialize};

/// Fewest bytes of memory and of disk that can be asked for: less runs no program.
pub const MIN_BYTES: u64 = 1 << 20;

/// What the workload may use up; what is left out is not limited. How each is made to hold depends on the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UseLimits {
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Thousandths of one processor's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Processes and threads at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Open files of each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
    /// Bytes in its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
}

impl UseLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What is out of bounds: its name, and what is right.
    pub(super) fn faults(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let bytes = |bytes: Option<u64>| bytes.is_none_or(|bytes| (MIN_BYTES..=1 << 50).contains(&bytes));
        let within =
            |count: Option<u32>, least, most| count.is_none_or(|count| (least..=most).contains(&count));
        [
            (
                bytes(self.memory),
                "workload.limits.memory",
                "between 1MiB and 1024TiB",
            ),
            (
                within(self.cpu, 1, 1_000_000),
                "workload.limits.cpu",
                "between 0.001 and 1000 processors",
            ),
            (
                within(self.processes, 1, 1 << 22),
                "workload.limits.processes",
                "between 1 and 4194304",
            ),
            (
                within(self.open_files, 8, 1 << 20),
                "workload.limits.open_files",
                "between 8 and 1048576",
            ),
            (
                bytes(self.disk),
                "workload.limits.disk",
                "between 1MiB and 1024TiB",
            ),
        ]
        .into_iter()
        .filter_map(|(ok, part, why)| (!ok).then_some((part, why)))
    }
}

/// A directory or file of the host that the workload sees beside what every workload sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMount {
    /// Where it is: absolute, or below `{object}`.
    pub from: String,
    /// Where the workload sees it: absolute.
    pub to: String,
    /// Whether the workload may write there.
    #[serde(default)]
    pub write: bool,
}

impl HostMount {
    /// Whether both paths can be used.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let plain = |path: &str| {
            path.len() <= 4_096
                && !path.contains('\0')
                && path.split('/').all(|part| part != ".." && part != ".")
        };
        let from = self.from.strip_prefix("{object}").unwrap_or(&self.from);
        let is_below = |path: &str| path.starts_with('/') && path.trim_end_matches('/').len() > 1;
        let from_object = self.from == "{object}" || is_below(from);
        from_object && plain(&self.from) && is_below(&self.to) && plain(&self.to)
    }
}
