//! What a machine is to its caller: its name, where it is between start and end, how it ended.
//!
//! Plain values without behaviour of any driver.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// Names a machine within its driver: 1 to 100 of `a-z`, `0-9` and `-`. Fit to be a file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

/// Longest [`MachineId`], in bytes.
pub const MAX_ID: usize = 100;

/// A text that is no machine's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 1 to {MAX_ID} of a-z, 0-9 and -")]
pub struct NotAnId(String);

impl MachineId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for MachineId {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        if (1..=MAX_ID).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text))
        } else {
            Err(NotAnId(text))
        }
    }
}

/// Whether `byte` may stand in a name.
pub(crate) const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.0
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A byte stream to a machine's first program.
#[derive(Debug)]
pub struct Link {
    /// The stream; what is said over it is no affair of a vehicle.
    pub stream: UnixStream,
    /// Whether descriptors may be sent along (`SCM_RIGHTS`); where not, they would arrive nowhere.
    pub passes_descriptors: bool,
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Its first program returned this code.
    Code(i32),
    /// Its first program was killed by this signal.
    Signal(i32),
    /// Its first program was killed because the machine had used up its memory, as its control group says.
    OutOfMemory,
    /// The kernel of its virtual machine gave up.
    Panicked,
    /// Nobody was there to see how it ended: it was found dead, or killed after its keeper had vanished.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => write!(f, "killed by signal {number}"),
            Self::OutOfMemory => f.write_str("killed at its memory limit"),
            Self::Panicked => f.write_str("its kernel panicked"),
            Self::Lost => f.write_str("ended unseen, after its supervisor had vanished"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names_and_nothing_else() {
        for good in ["a", "web-1", &"x".repeat(MAX_ID)] {
            assert_eq!(good.parse::<MachineId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "A", "é", "a\0", &"x".repeat(MAX_ID + 1)] {
            assert!(bad.parse::<MachineId>().is_err(), "{bad:?}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<MachineId>(&json).is_err(), "{bad:?}");
        }
    }
}
