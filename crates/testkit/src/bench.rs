//! Equipment of bench programs: interleaved rounds and medians, CPU time, pinning, instruction counts, and one table for all.
//!
//! A bench program is an example of the crate it measures, registered in that crate's manifest under `[package.metadata.bench]` and run by
//! `cargo xtask bench`, or by hand. It fills a [`Report`] and publishes it: the table to stdout, the same as JSON to the file that
//! `SUIJURIS_BENCH_JSON` names. Every figure stands beside a peer from the same run: machines differ and are noisy, ratios last.

mod cpu;
pub mod host;
mod instructions;
mod load;
mod machine;
mod memory;
mod object;
mod parallel;
pub mod peers;
mod report;
mod rounds;
pub mod server;
mod sys;
pub mod ways;

pub use cpu::{allowed_cpus, children, pin, process_cpu, thread_cpu};
pub use instructions::per_iteration as instructions_per_iteration;
pub use load::{Load, Traffic, await_port, free_port, load};
pub use machine::Machine;
pub use memory::{Memory, memory, raise_descriptors};
pub use object::{Events, Object, Running, address_of, governed, says};
pub use parallel::{Figures, drive};
pub use report::{Better, Report, Row};
pub use rounds::{Contender, Round, Samples, interleave, interleave_many};

use std::path::PathBuf;

/// What a run was asked for.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Few rounds: shows that the bench works; its figures are not worth quoting.
    pub quick: bool,
    /// Where the results go as JSON.
    pub json: Option<PathBuf>,
}

impl Settings {
    /// Reads `SUIJURIS_BENCH_QUICK` (set or not) and `SUIJURIS_BENCH_JSON` (a path).
    #[must_use]
    pub fn from_env() -> Self {
        let json = std::env::var_os("SUIJURIS_BENCH_JSON").map(PathBuf::from);
        Self {
            quick: std::env::var_os("SUIJURIS_BENCH_QUICK").is_some(),
            json,
        }
    }

    /// `full`, or a tenth of it and at least one in a quick run: for rounds, iterations and seconds alike.
    #[must_use]
    pub fn scale(&self, full: usize) -> usize {
        if self.quick { (full / 10).max(1) } else { full }
    }
}
