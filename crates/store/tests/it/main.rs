//! Tests of the store as its callers see it: on a disk that loses what was not synced, and on the machine's own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]

mod capsules;
mod crash;
mod faults;
mod forks;
mod imports;
mod instances;
mod kept;
mod live;
mod lives;
mod object;
mod restores;
mod spec;
mod support;
mod tamper;
