//! How a workload ended, in words.

use std::fmt;

use suijuris_sys::exhaustion::Counts;

/// What became of the program's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// It is gone, and somebody else took its status.
    Unknown,
}

/// How a workload ended: `exited 0`, `killed by signal 9`, `exited 0 (left 2 processes running)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What became of its first process.
    pub how: How,
    /// Processes of the workload that still ran at that moment; above zero for a program that puts itself into the
    /// background, which it should be told not to do.
    pub left: usize,
    /// What ran out while it ran, as the machine counts it.
    pub exhausted: Exhausted,
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exhausted {
    /// The kernel killed a process at the limit of memory.
    pub memory: bool,
    /// A process could not be made at the limit of processes.
    pub processes: bool,
}

impl Exhausted {
    pub(super) fn since(before: Counts) -> Self {
        let now = Counts::now();
        Self {
            memory: now.memory > before.memory,
            processes: now.processes > before.processes,
        }
    }
}

/// How a workload ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// How it ended.
    pub ended: Ended,
    /// It did not end in time, or left processes behind: SIGKILL was needed.
    pub forced: bool,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Exited(code) => write!(f, "exited {code}")?,
            How::Killed(libc::SIGXFSZ) => {
                f.write_str("killed since a file grew beyond workload.limits.disk")?;
            }
            How::Killed(signal) => write!(f, "killed by signal {signal}")?,
            How::Unknown => f.write_str("ended")?,
        }
        match self.left {
            0 => {}
            1 => f.write_str(" (left 1 process running)")?,
            left => write!(f, " (left {left} processes running)")?,
        }
        if self.exhausted.memory {
            f.write_str(", out of memory: oom_killed at workload.limits.memory")?;
        }
        if self.exhausted.processes {
            f.write_str(", out of processes: workload.limits.processes was reached")?;
        }
        Ok(())
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ended.fmt(f)
    }
}
