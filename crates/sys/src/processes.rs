//! Processes: named by descriptors or by number and time of start, and the table of all, as `/proc` shows them.
//!
//! A process number alone names whoever has it now. Used by `vehicle` to suspend, kill and find machines again, and by
//! the runtime to know what belongs to its workload.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{checked, descriptors, owned};

/// A descriptor that names one process whatever happens to its number, and that becomes readable when it ends.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl From<OwnedFd> for Pidfd {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> Self {
        pidfd.0
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pidfd {
    /// Names whoever has number `pid` now (Linux 5.3).
    ///
    /// # Errors
    /// `ESRCH` where there is no such process.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes two integers and touches no memory of ours.
        owned(checked(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?).map(Self)
    }

    /// Sends signal `number`.
    ///
    /// # Errors
    /// `ESRCH` when the process has ended.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a null siginfo is allowed and means "as kill(2) does".
        checked(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), number, info, 0) })?;
        Ok(())
    }

    /// The number that the process has here; `None` when it has been taken off the process table, or has none here.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = fs::read_to_string(path).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .and_then(|pid| pid.trim().parse().ok())
    }

    /// Lets tasks wait for its end; to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be watched.
    pub fn watch(self) -> io::Result<AsyncFd<OwnedFd>> {
        descriptors::watch(self.0, Interest::READABLE)
    }

    /// Another descriptor for the same process.
    ///
    /// # Errors
    /// When no more descriptors can be had.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

/// A process, told apart from a later one of the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its number here.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl Process {
    /// The process of this number, if there is one.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let started = stat(&format!("/proc/{pid}/stat"))?.started;
        Some(Self { pid, started })
    }

    /// The number of the parent of process `pid`; 0 where that is outside of our namespace.
    #[must_use]
    pub fn parent_of(pid: u32) -> Option<u32> {
        Some(stat(&format!("/proc/{pid}/stat"))?.parent)
    }

    /// Whether it still exists, a zombie included.
    #[must_use]
    pub fn exists(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// A descriptor for it; `None` when it is gone.
    #[must_use]
    pub fn pidfd(self) -> Option<Pidfd> {
        let pidfd = Pidfd::open(self.pid).ok()?;
        // The descriptor names whoever has the number now; only a match afterwards proves that it is ours.
        self.exists().then_some(pidfd)
    }

    /// Sends it signal `number`; that it is gone already is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(self, number: i32) -> io::Result<()> {
        match self.pidfd().map(|pidfd| pidfd.signal(number)) {
            Some(Err(error)) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether no thread of it runs or can run before a signal: all are stopped or ended.
    #[must_use]
    pub fn stands_still(self) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return true;
        };
        tasks
            .flatten()
            .filter_map(|task| stat(&task.path().join("stat").to_string_lossy()))
            .all(|stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X'))
    }
}

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// As in proc_pid_stat(5): `R` running, `S` sleeping, `T` stopped, `Z` ended, ….
    pub state: char,
    /// Number of its parent.
    pub parent: u32,
    /// Number of its process group's leader.
    pub group: u32,
    /// Number of its session's leader.
    pub session: u32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl Stat {
    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Gives this process a session of its own: no terminal's keys reach it.
///
/// # Errors
/// Where it leads a group of processes already.
pub fn own_session() -> io::Result<()> {
    Ok(nix::unistd::setsid().map(drop)?)
}

/// Lets this process open as many files as it may at all; how many these are.
#[must_use]
pub fn raise_open_files() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    usize::try_from(if raised.is_ok() { most } else { now }).unwrap_or(usize::MAX)
}

/// All processes by number. Read line by line, so that it may be torn: a parent may be missing, or be another by now.
#[must_use]
pub fn table() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, stat(&format!("/proc/{pid}/stat"))?))
    };
    entries.filter_map(read).collect()
}

/// Every process below `root`, parents before children, `root` not included.
#[must_use]
pub fn below(root: u32) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    for (pid, stat) in table() {
        let started = stat.started;
        children
            .entry(stat.parent)
            .or_default()
            .push(Process { pid, started });
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        // Taken out of the map, so that a number reused during the walk cannot make it circular.
        let below = children.remove(&parent).unwrap_or_default();
        next.extend(below.iter().map(|process| process.pid));
        found.extend(below);
    }
    found
}

fn stat(path: &str) -> Option<Stat> {
    // Bytes: the command in parentheses is whatever the process calls itself.
    parse(&fs::read(path).ok()?)
}

/// proc_pid_stat(5): fields 3 (state), 4 (ppid), 5 (pgrp), 6 (session) and 22 (starttime), counted after the last
/// parenthesis.
fn parse(line: &[u8]) -> Option<Stat> {
    let after = line.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(line.get(after + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        group,
        session,
        started,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_command_names_do_not_confuse_the_parser() {
        let line = b"7 (a) R 1 (\xff) S 3 7 8 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 99 5 6";
        let expected = Stat {
            state: 'S',
            parent: 3,
            group: 7,
            session: 8,
            started: 99,
        };
        assert_eq!(parse(line), Some(expected));
        assert!(expected.is_alive());
        assert!(parse(b"42 (short) S 7").is_none());
        assert!(parse(b"").is_none());
    }

    #[test]
    fn a_process_of_another_time_is_another_process() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.exists());
        assert_eq!(me.pidfd().unwrap().pid(), Some(me.pid));
        let later = Process {
            started: me.started + 1,
            ..me
        };
        assert!(!later.exists());
        assert!(later.pidfd().is_none());
    }

    #[test]
    fn the_tree_below_is_found_and_the_end_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(below(std::process::id()).contains(&process));
        let pidfd = process.pidfd().unwrap();
        pidfd.signal(libc::SIGKILL).unwrap();
        assert_eq!(descriptors::poll(&[pidfd.as_fd()], 10_000).unwrap(), [true]);
        child.wait().unwrap();
        assert_eq!(
            pidfd.signal(libc::SIGKILL).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
        assert_eq!(pidfd.pid(), None);
        process.signal(libc::SIGKILL).unwrap();
    }

    proptest! {
        #[test]
        fn any_line_is_answered(line in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&line);
        }
    }
}
