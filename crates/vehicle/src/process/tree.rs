//! The processes below one process, as `/proc` shows them, and signals that cannot hit a stranger.
//!
//! Used to suspend without control groups and to kill without namespaces.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use crate::sys;

/// A process, told apart from a later one of the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks since boot.
    pub(super) started: u64,
}

/// One line of `/proc/…/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

impl Process {
    /// The process of this number, if there is one.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            started: stat(&format!("/proc/{pid}/stat"))?.started,
        })
    }

    /// Whether it still exists, a zombie included.
    pub(super) fn exists(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends it signal `number`; that it is gone already is no error.
    pub(super) fn signal(self, number: i32) -> io::Result<()> {
        let Ok(pidfd) = sys::pidfd_open(self.pid) else {
            return Ok(());
        };
        // The descriptor names whoever has the number now; only a match afterwards proves that it is ours.
        if !self.exists() {
            return Ok(());
        }
        match sys::pidfd_signal(pidfd.as_fd(), number) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether no thread of it runs or can run before a signal: all are stopped or ended.
    pub(super) fn stands_still(self) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return true;
        };
        tasks
            .flatten()
            .filter_map(|task| stat(&task.path().join("stat").to_string_lossy()))
            .all(|stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X'))
    }
}

/// Every process below `root`, parents before children, `root` not included.
pub(super) fn below(root: u32) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    for (pid, stat) in processes() {
        children.entry(stat.parent).or_default().push(Process {
            pid,
            started: stat.started,
        });
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

fn processes() -> impl Iterator<Item = (u32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, stat(&format!("/proc/{pid}/stat"))?))
    })
}

fn stat(path: &str) -> Option<Stat> {
    // Bytes: the command in parentheses is whatever the process calls itself.
    parse(&fs::read(path).ok()?)
}

/// proc_pid_stat(5): fields 3 (state), 4 (ppid) and 22 (starttime), counted after the last parenthesis.
fn parse(line: &[u8]) -> Option<Stat> {
    let after = line.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(line.get(after + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        started,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_command_names_do_not_confuse_the_parser() {
        let line = b"7 (a) R 1 (\xff) S 3 7 7 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 99 5 6";
        assert_eq!(
            parse(line),
            Some(Stat {
                state: 'S',
                parent: 3,
                started: 99
            })
        );
    }

    #[test]
    fn a_process_of_another_time_is_another_process() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.exists());
        assert!(
            !Process {
                started: me.started + 1,
                ..me
            }
            .exists()
        );
    }

    proptest! {
        #[test]
        fn any_line_is_answered(line in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&line);
        }
    }
}
