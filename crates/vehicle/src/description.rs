//! What a driver can do on its host, and why not more: typed for supervisors, in words for people.
//!
//! Made once, when a driver is made. Rules see [`Location`] as facts of the host; `suijuris vehicles` prints it all.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a driver can and cannot do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent abilities, each asked for by itself"
)]
pub struct Description {
    /// Kind of vehicle: `process`, `fake`, ….
    pub vehicle: &'static str,
    /// Where its machines run.
    pub place: Location,
    /// What keeps a machine apart from the host.
    pub isolation: Isolation,
    /// How a machine is suspended; `None`: not at all.
    pub suspending: Option<Suspending>,
    /// By what each resource of a machine is limited; one entry for each resource.
    pub limits: Vec<Enforced>,
    /// Whether a program may come from an image.
    pub images: bool,
    /// Which users of an image there are in its machine.
    pub users: ImageUsers,
    /// Whether directories of the host can be mounted, and memory file systems.
    pub mounts: bool,
    /// Whether a machine can have a network of its own.
    pub private_network: bool,
    /// Whether open files can be inherited, and descriptors sent over a link.
    pub descriptors: bool,
    /// Whether machines can outlive their supervisor.
    pub detached: bool,
    /// Whether machines can begin as copies of a suspended one, with its memory.
    pub copies: bool,
    /// Better isolation and suspending that was tried and refused.
    pub shortfalls: Vec<Shortfall>,
    /// Better limits that were tried and refused.
    pub limit_shortfalls: Vec<Shortfall>,
}

/// Where machines run, as facts for rules. Empty where nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Region code; `local` on a machine that is in none.
    pub region: String,
    /// Who provides the machine: `process`, `qemu`, a vendor.
    pub provider: String,
    /// Class of machine, in the provider's words.
    pub class: String,
    /// Host or machine id; never identity.
    pub id: String,
}

/// What keeps a machine apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A kernel of its own.
    VirtualMachine,
    /// Namespaces, made with root's privilege.
    Namespaces,
    /// Namespaces, made inside a user namespace: needs no privilege.
    UserNamespaces,
    /// Nothing: the machine sees the host's processes and network.
    Plain,
}

/// Users of an image that there are in its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageUsers {
    /// All, and files have the owners that the image says.
    All,
    /// All: the caller is the workload's, the others are numbers that an administrator gave the caller (`/etc/subuid`).
    Mapped,
    /// The workload's alone, which is the caller outside.
    One,
}

/// How a machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspending {
    /// By a control group of version 2.
    CgroupV2,
    /// By the freezer of control groups version 1.
    CgroupV1,
    /// By SIGSTOP to each process; visible to parents inside the machine.
    Signals,
    /// Its memory is written to a file, and nothing of it stays in memory.
    MemoryFile,
}

/// What a machine can be limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Bytes of memory.
    Memory,
    /// Time on processors.
    Cpu,
    /// Number of processes and threads.
    Processes,
    /// Number of open files of a process.
    OpenFiles,
}

/// One limit and what makes it hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// What is limited.
    pub what: Resource,
    /// By what.
    pub by: Means,
}

/// What makes a limit hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// A control group of version 2 around the whole machine.
    CgroupV2,
    /// Control groups of version 1 around the whole machine.
    CgroupV1,
    /// The size of the virtual machine.
    VirtualMachine,
    /// A limit on each process by itself.
    PerProcess,
    /// A limit on all processes of the user, this machine's among them; root is exempt.
    PerUser,
    /// Nothing: the limit is known and does not hold.
    Nothing,
}

/// Something better that does not work here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// What it would have been.
    pub wanted: String,
    /// Which step failed, how, and what to do about it.
    pub why: String,
}

impl Description {
    /// What a workload is not kept from here, in words for people; empty where it is kept from everything that is not its own.
    #[must_use]
    pub fn gaps(&self) -> Vec<&'static str> {
        if self.isolation != Isolation::Plain {
            return Vec::new();
        }
        let mut gaps = vec![
            "this user's files, with the keys and the history of its own and other objects",
            "the host's network and loopback",
        ];
        if !suijuris_sys::confine::can_keep_signals_within() {
            gaps.push("stopping its runtime");
        }
        gaps
    }

    /// [`Self::gaps`] as a sentence; none where there are none.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let gaps = self.gaps().join("; ");
        (!gaps.is_empty()).then(|| {
            format!(
                "machines here are {}: nothing keeps a workload from {gaps}",
                self.isolation
            )
        })
    }

    /// By what `what` is limited here.
    #[must_use]
    pub fn limits(&self, what: Resource) -> Means {
        let entry = self.limits.iter().find(|entry| entry.what == what);
        entry.map_or(Means::Nothing, |entry| entry.by)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtualMachine => "virtual machine",
            Self::Namespaces => "namespaces",
            Self::UserNamespaces => "namespaces without privilege",
            Self::Plain => "plain processes",
        })
    }
}

impl fmt::Display for Suspending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CgroupV2 => "control group v2",
            Self::CgroupV1 => "control group v1",
            Self::Signals => "SIGSTOP to each process",
            Self::MemoryFile => "memory file",
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "processes",
            Self::OpenFiles => "open files",
        })
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CgroupV2 => "control group v2",
            Self::CgroupV1 => "control group v1",
            Self::VirtualMachine => "the size of the virtual machine",
            Self::PerProcess => "a limit per process",
            Self::PerUser => "a limit per user",
            Self::Nothing => "nothing",
        })
    }
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.what, self.by)
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.wanted, self.why)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.isolation)?;
        match self.suspending {
            Some(means) => write!(f, ", suspended by {means}")?,
            None => f.write_str(", cannot be suspended")?,
        }
        self.shortfalls
            .iter()
            .try_for_each(|shortfall| write!(f, "; no {shortfall}"))
    }
}
