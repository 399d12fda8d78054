//! What makes a prepared process one machine's first program: its files in view, its directory, its limits, its words.
//!
//! A machine is prepared without knowing whose it will be: namespaces, users, `/proc`. Then it is assigned. A cold start does both in
//! one child, which executes the program at last; a program that stands by ([`crate::standby`]) was executed in between. Both take
//! these same steps, so that no machine depends on which way it came.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use suijuris_sys::view::{Cover, Plan, close_trees};

use crate::mounts;

/// All that is told of one machine. Strings are as the kernel takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Arguments of the first program, the zeroth included.
    pub argv: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Its working directory.
    pub cwd: CString,
    /// Numbers for the files to inherit behind 1 and 2, in their order.
    pub numbers: Vec<i32>,
    /// Mounted over the machine's file system.
    pub mounts: Vec<MountOrder>,
    /// Covered directories.
    pub hidden: Vec<CString>,
    /// What stays in view below them.
    pub kept: Vec<CString>,
    /// Whether the machine has a mount namespace of its own, with the host's files in it.
    pub is_apart: bool,
    /// Whether the first program may mount.
    pub may_mount: bool,
    /// Limits of each process, in the kernel's numbers.
    pub rlimits: Vec<(Rlimit, u64)>,
}

/// A limit of each process by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rlimit {
    /// Bytes of address space.
    Memory,
    /// Processes of the user.
    Processes,
    /// Open files.
    OpenFiles,
}

/// Something mounted in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum MountOrder {
    /// What the host has at `from`.
    Bind {
        /// Path on the host.
        from: CString,
        /// Path in the machine.
        to: CString,
        /// Refuse writes.
        read_only: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Path in the machine.
        to: CString,
        /// Most bytes it can hold.
        size_bytes: u64,
    },
}

impl MountOrder {
    /// Where in the machine.
    #[must_use]
    pub fn target(&self) -> &CStr {
        match self {
            Self::Bind { to, .. } | Self::Tmpfs { to, .. } => to,
        }
    }
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The file system of the machine is put together.
    Mounts,
    /// The process file system is mounted.
    Proc,
    /// The working directory is entered.
    Cwd,
    /// Open files get their numbers.
    Files,
    /// What limits each process is set.
    Limits,
    /// The environment is replaced.
    Environment,
}

/// A part that failed.
#[derive(Debug)]
pub struct Failed {
    /// Which.
    pub part: Part,
    /// On what: a path, a number; empty where the part says it all.
    pub subject: String,
    /// The kernel's answer.
    pub error: io::Error,
}

impl Failed {
    pub(crate) fn new(part: Part, subject: impl Into<String>, error: io::Error) -> Self {
        let subject = subject.into();
        Self { part, subject, error }
    }
}

impl Assignment {
    /// Mounts what the machine is to see, and covers what it is not, where it has the host's files.
    ///
    /// # Errors
    /// The part that failed.
    pub fn assemble_view(&self) -> Result<(), Failed> {
        mounts::assemble(&self.mounts)?;
        self.hide()
    }

    /// Covers what the machine must not see.
    fn hide(&self) -> Result<(), Failed> {
        if self.hidden.is_empty() {
            return Ok(());
        }
        let mut plan = Plan::new();
        for kept in &self.kept {
            plan.keep(path(kept), false);
        }
        for hidden in &self.hidden {
            plan.cover(path(hidden), Cover::EMPTY);
        }
        let view = plan
            .finish()
            .map_err(|error| Failed::new(Part::Mounts, "", error))?;
        let mut room = view.room();
        let assembled = view.assemble(&mut room);
        close_trees(room);
        assembled.map_err(|failed| Failed::new(Part::Mounts, view.describe(failed.step), failed.error))
    }

    /// Enters the working directory.
    ///
    /// # Errors
    /// It is not there.
    pub fn enter_directory(&self) -> Result<(), Failed> {
        let entered = nix::unistd::chdir(self.cwd.as_c_str());
        entered.map_err(|errno| Failed::new(Part::Cwd, path(&self.cwd).display().to_string(), errno.into()))
    }

    /// Sets the limits of this process, which its children inherit.
    ///
    /// # Errors
    /// This process is limited to less.
    pub fn limit(&self) -> Result<(), Failed> {
        for (what, value) in &self.rlimits {
            let (resource, name) = match what {
                Rlimit::Memory => (Resource::RLIMIT_AS, "memory"),
                Rlimit::Processes => (Resource::RLIMIT_NPROC, "processes"),
                Rlimit::OpenFiles => (Resource::RLIMIT_NOFILE, "open files"),
            };
            // A hard limit that is lower already stays.
            let hard = getrlimit(resource).map_or(*value, |(_, hard)| hard);
            let value = (*value).min(hard);
            setrlimit(resource, value, value)
                .map_err(|errno| Failed::new(Part::Limits, name, errno.into()))?;
        }
        Ok(())
    }
}

fn path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}
