//! What memory and descriptors processes have.

use std::fs;
use std::io::{self, ErrorKind};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Memory of a process, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What is in memory of it, pages of its program that others share included.
    pub resident: u64,
    /// What it alone has, and is not in a file.
    pub own: u64,
}

/// What process `pid` has at the moment.
///
/// # Errors
/// `NotFound` where there is no such process; `InvalidData` where `/proc` is not Linux's.
pub fn memory(pid: u32) -> io::Result<Memory> {
    parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)
        .ok_or_else(|| ErrorKind::InvalidData.into())
}

fn parse(text: &str) -> Option<Memory> {
    let of = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1_024)
    };
    Some(Memory {
        resident: of("Rss:")?,
        own: of("Private_Dirty:")?,
    })
}

/// What root lets itself have, where it has less.
const DESCRIPTORS: u64 = 65_536;

/// Lets this process, and what it starts, have as many descriptors as the system allows; how many that are.
///
/// # Errors
/// The system's.
pub fn raise_descriptors() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let more = hard.max(DESCRIPTORS);
    if setrlimit(Resource::RLIMIT_NOFILE, more, more).is_ok() {
        return Ok(more);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_this_process_is_read_and_its_descriptors_are_many() {
        let now = memory(std::process::id()).unwrap();
        assert!(now.own > 0 && now.resident >= now.own, "{now:?}");
        assert!(parse("Rss: 1 kB\n").is_none());
        assert!(raise_descriptors().unwrap() > 0);
    }
}
