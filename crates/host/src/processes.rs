//! The processes of a machine, as the kernel lists them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Most processes that are listed.
const MAX: usize = 1_000;

/// `first` and all that came of it.
pub(crate) fn of(first: u32) -> Vec<Value> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut all = vec![first];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied().filter(|_| all.len() < MAX) {
        all.extend(children.get(&pid).into_iter().flatten());
        at += 1;
    }
    all.into_iter().filter_map(shown).collect()
}

struct Stat {
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
    pages: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may have any letter in it.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            user_ticks: number(11)?,
            system_ticks: number(12)?,
            pages: number(21)?,
        })
    }
}

fn shown(pid: u32) -> Option<Value> {
    let stat = Stat::read(pid)?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command)
        .trim_end_matches('\0')
        .replace('\0', " ");
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    // The process's number within the machine is the last of its numbers.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let inner = inner.and_then(|numbers| numbers.split_whitespace().next_back()?.parse::<u32>().ok());
    Some(json!({
        "pid": inner.unwrap_or(pid), "command": command, "directory": directory.to_string_lossy(), "cpu": 0,
        "rss": stat.pages.saturating_mul(4_096), "rtime": stat.user_ticks.saturating_add(stat.system_ticks),
        "stime": stat.system_ticks, "listen_sockets": [],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_listed() {
        let rows = of(std::process::id());
        assert!(rows[0]["rss"].as_u64().unwrap() > 0);
        assert!(!rows[0]["command"].as_str().unwrap().is_empty());
        assert!(of(u32::MAX).is_empty());
    }
}
