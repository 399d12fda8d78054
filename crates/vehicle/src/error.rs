//! Why an operation on a machine failed: one type for each operation, the same for every driver.

use std::error::Error;
use std::ffi::{NulError, OsString};
use std::io;
use std::path::PathBuf;

use crate::description::Shortfall;
use crate::machine::{Exit, MachineId};

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This specification can never be used with this driver here.
    #[error("the machine's specification is unusable: {0}")]
    Spec(#[from] SpecError),
    /// What the caller insisted on does not work on this host.
    #[error("not possible on this host: {}", list(.0))]
    Unavailable(Vec<Shortfall>),
    /// A step on the way to a running machine failed; the driver's own error says which.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
    /// Nothing came of it in time.
    #[error("the machine had not started after {limit_s} s; the host is overloaded or a file system hangs")]
    Slow {
        /// The time given, in seconds.
        limit_s: u64,
    },
    /// The caller's own resources gave out.
    #[error("cannot prepare the machine's start")]
    Io(#[from] io::Error),
}

/// Why a specification cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name would not do as part of a file name.
    #[error("name {0:?} is not 1 to 64 of a-z, 0-9 and -")]
    Name(String),
    /// A path must not depend on where the caller happens to be.
    #[error("path {} is not absolute", .0.display())]
    Relative(PathBuf),
    /// An environment variable that no program could read back.
    #[error("environment variable {0:?} is empty or contains `=`")]
    Variable(OsString),
    /// The kernel takes strings that end at the first zero byte.
    #[error("a path, an argument or a variable contains a zero byte")]
    ZeroByte(#[from] NulError),
    /// More than can be passed on.
    #[error("{count} {what} are more than {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// The number for an inherited file is given twice or out of range.
    #[error("inherited file number {0} is taken, or not within 3 to 1023")]
    Number(i32),
    /// A limit of nothing, under which no program could run.
    #[error("a limit of 0 {0} leaves nothing to run with")]
    Zero(&'static str),
    /// This driver cannot do that here; its description says why.
    #[error("{what} {why}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What it would need.
        why: &'static str,
    },
}

/// Why a machine of an earlier supervisor could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing is known of such a machine.
    #[error("there is no machine {0}")]
    Unknown(MachineId),
    /// This supervisor has it already, or is starting it.
    #[error("machine {0} has a handle already")]
    Held(MachineId),
    /// What is there could not be proved to be this machine, or does not answer. It was killed, and nothing of it is left
    /// but what `left` says.
    #[error("machine {id} was killed instead of taken over: {why}{}", and(.left))]
    Killed {
        /// Its id.
        id: MachineId,
        /// What did not hold.
        why: String,
        /// What could not be cleared away, in words; empty where nothing is left.
        left: String,
    },
    /// The supervisor's own resources gave out; the machine is as it was.
    #[error("cannot look for machine {id}")]
    Io {
        /// Its id.
        id: MachineId,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Why the machines of earlier supervisors could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list machines in {}", .place.display())]
pub struct ListError {
    /// Where.
    pub place: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A signal could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// There is nothing to send it to.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// The vehicle refused.
    #[error("cannot signal the machine")]
    Refused(#[source] io::Error),
}

/// A machine could not be suspended; it runs on.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    /// There is nothing to suspend.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// Something in it held it up.
    #[error(
        "the machine did not come to rest within {limit_s} s; a process waits for a disk or a network file system"
    )]
    Slow {
        /// The time given, in seconds.
        limit_s: u64,
    },
    /// This vehicle cannot suspend machines here.
    #[error("machines cannot be suspended here")]
    Unsupported,
    /// The vehicle refused.
    #[error("cannot suspend the machine")]
    Refused(#[source] io::Error),
}

/// A machine could not be resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// There is nothing to resume.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// It does not run yet.
    #[error(
        "the machine did not run on within {limit_s} s; a process waits for a disk or a network file system"
    )]
    Slow {
        /// The time given, in seconds.
        limit_s: u64,
    },
    /// The vehicle refused.
    #[error("cannot resume the machine")]
    Refused(#[source] io::Error),
}

/// A machine could not be frozen, or what is frozen not be copied.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// There is nothing to freeze.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// It runs.
    #[error("the machine runs: suspend it first")]
    Runs,
    /// This vehicle cannot.
    #[error("machines cannot be copied with their memory here: QEMU can, of a daemon's machines")]
    Unsupported,
    /// There is none.
    #[error("no machine is frozen for {}", .0.display())]
    None(PathBuf),
    /// A disk.
    #[error(transparent)]
    Disk(Box<dyn Error + Send + Sync>),
    /// The system's answer.
    #[error("cannot keep the machine")]
    Io(#[from] io::Error),
}

/// No link to a machine could be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is nothing to reach.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// The machine was started without one.
    #[error("the machine has no link")]
    None,
    /// The first program closed its end for good, or has long taken no link.
    #[error("the machine takes no link")]
    Refused(#[source] io::Error),
}

/// There is no output to read.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The machine's output goes elsewhere, or somebody reads it already.
    #[error("the machine's output is not kept for reading, or is being read already")]
    None,
    /// Where it is kept cannot be read.
    #[error("cannot read the machine's output")]
    Io(#[from] io::Error),
}

fn and(left: &str) -> String {
    if left.is_empty() {
        String::new()
    } else {
        format!("; {left}")
    }
}

fn list(shortfalls: &[Shortfall]) -> String {
    let lines: Vec<String> = shortfalls.iter().map(Shortfall::to_string).collect();
    lines.join("; ")
}
