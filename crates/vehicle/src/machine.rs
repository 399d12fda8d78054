//! What a machine is to its caller: how it is specified, what state it is in, how it ended.
//!
//! Plain values without behaviour of any driver. Built by callers of [`crate::Driver::start`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a new machine gets. Nothing else is inherited from the caller but user, groups,
/// resource limits and file mode mask.
#[derive(Debug)]
pub struct Spec {
    /// Appears in the machine's id: 1 to 64 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Absolute path of the first program, as seen inside the machine.
    pub exe: PathBuf,
    /// Its arguments, the zeroth included.
    pub argv: Vec<OsString>,
    /// Its whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Its working directory, absolute, as seen inside the machine.
    pub cwd: PathBuf,
    /// Open files and the numbers (3 to 1023) they get. No other file but 0 (always empty), 1 and 2 is open.
    pub inherit: Vec<(OwnedFd, i32)>,
    /// Whether the machine shares the host's network.
    pub network: Network,
    /// Where file 1 goes.
    pub stdout: Output,
    /// Where file 2 goes.
    pub stderr: Output,
    /// What is mounted over the host's file system, in this order, visible in the machine alone.
    pub mounts: Vec<Mount>,
}

impl Spec {
    /// A machine that runs `exe` in `/` with no arguments, an empty environment, the host's network and
    /// the caller's output.
    #[must_use]
    pub fn new(name: impl Into<String>, exe: impl Into<PathBuf>) -> Self {
        let exe = exe.into();
        Self {
            name: name.into(),
            argv: vec![exe.clone().into_os_string()],
            exe,
            env: BTreeMap::new(),
            cwd: PathBuf::from("/"),
            inherit: Vec::new(),
            network: Network::Host,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            mounts: Vec::new(),
        }
    }
}

/// The network a machine sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Its own: a loopback interface that is up, and nothing else. Inherited sockets keep working.
    Private,
    /// The host's.
    Host,
}

/// Where a machine's output goes.
#[derive(Debug)]
pub enum Output {
    /// To the caller's own.
    Inherit,
    /// Nowhere.
    Null,
    /// To the caller, who reads it from the machine's handle.
    Pipe,
    /// Into this file.
    Fd(OwnedFd),
}

/// Something mounted inside a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// The host's `from` (a directory or a file, with all that is mounted below it) appears at `to`.
    Bind {
        /// Absolute path on the host.
        from: PathBuf,
        /// Absolute path in the machine. Made, invisibly to the host, where its parent exists.
        to: PathBuf,
        /// Refuse writes.
        read_only: bool,
    },
    /// An empty directory in memory appears at `to`, gone when the machine ends.
    Tmpfs {
        /// Absolute path in the machine. Made, invisibly to the host, where its parent exists.
        to: PathBuf,
        /// Most bytes it can hold.
        size_bytes: u64,
    },
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Its first program returned this code.
    Code(i32),
    /// Its first program was killed by this signal.
    Signal(i32),
    /// Its supervisor vanished (killed from outside), and the machine was killed; how it ended is not known.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => write!(f, "killed by signal {number}"),
            Self::Lost => f.write_str("killed after its supervisor vanished"),
        }
    }
}

/// Where a machine is between start and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its processes run.
    Running,
    /// None of its processes runs until it is resumed.
    Suspended,
    /// Nothing of it is left.
    Exited(Exit),
}

/// A signal number that the kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    /// Asks to end.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// Ends at once.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// As from a terminal's Ctrl-C.
    pub const INT: Self = Self(libc::SIGINT);
    /// As from a closed terminal.
    pub const HUP: Self = Self(libc::SIGHUP);

    /// The signal of this number, if it is one (1 to 64).
    #[must_use]
    pub fn new(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}
