//! How often this process's control groups hit a limit, as the kernel counts it.

use std::fs;

/// Counts that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes killed at the limit of memory.
    pub memory: u64,
    /// Forks refused at the limit of processes.
    pub processes: u64,
}

impl Counts {
    /// As they are now; zero where nothing counts.
    #[must_use]
    pub fn now() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let read = |places: &[(&str, &str, &str)], word: &str| {
            let counts = places.iter().filter_map(|(controller, root, file)| {
                let path = format!(
                    "{root}{}/{file}",
                    path(&groups, controller)?.trim_end_matches('/')
                );
                count(&fs::read_to_string(path).ok()?, word)
            });
            counts.max().unwrap_or(0)
        };
        Self {
            memory: read(
                &[
                    ("memory", "/sys/fs/cgroup/memory", "memory.oom_control"),
                    ("", "/sys/fs/cgroup", "memory.events"),
                    ("", "/sys/fs/cgroup/unified", "memory.events"),
                ],
                "oom_kill ",
            ),
            processes: read(
                &[
                    ("pids", "/sys/fs/cgroup/pids", "pids.events"),
                    ("", "/sys/fs/cgroup", "pids.events"),
                    ("", "/sys/fs/cgroup/unified", "pids.events"),
                ],
                "max ",
            ),
        }
    }
}

/// The group of `controller` in `/proc/self/cgroup`; of version 2 where that is empty.
fn path<'g>(groups: &'g str, controller: &str) -> Option<&'g str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let fits = match controller {
            "" => controllers.is_empty(),
            _ => controllers.split(',').any(|one| one == controller),
        };
        (fits && !path.contains("/..")).then_some(path)
    })
}

fn count(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_counts_are_found() {
        let groups = "8:pids:/a\n6:cpu,memory:/b\n0::/c:d\n";
        assert_eq!(path(groups, "memory"), Some("/b"));
        assert_eq!(path(groups, ""), Some("/c:d"));
        assert_eq!(path("0::/../x\n", ""), None);
        assert_eq!(
            count("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "oom_kill "),
            Some(2)
        );
        assert_eq!(count("low 0\n", "oom_kill "), None);
    }
}
