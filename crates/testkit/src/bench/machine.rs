//! On what a figure was measured.

use std::fmt;
use std::fs;

use serde::Serialize;

/// The facts that a reader of a figure asks for first. Empty or 0 where the system does not tell.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model name of the first CPU.
    pub cpu: String,
    /// CPUs of the machine.
    pub cpus: usize,
    /// Memory of the machine, MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    /// Reads the facts from `/proc`.
    #[must_use]
    pub fn read() -> Self {
        let memory = field(
            &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
            "MemTotal",
        );
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = field(&processors, "model name");
        let cpus = processors
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned();
        Self {
            cpu,
            cpus,
            memory_mib: memory_kib / 1024,
            kernel,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cpus,
            memory_mib,
            kernel,
        } = self;
        write!(out, "{cpu}, {cpus} CPUs, {memory_mib} MiB, Linux {kernel}")
    }
}

/// Value of the first `name: value` line.
fn field(text: &str, name: &str) -> String {
    let value = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name);
    value
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_name() {
        assert_eq!(field("a : 1\nMemTotal:   2048 kB\n", "MemTotal"), "2048 kB");
        assert_eq!(field("a: 1\n", "b"), "");
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory_mib > 0, "{machine}");
    }
}
