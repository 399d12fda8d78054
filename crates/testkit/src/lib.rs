//! Test equipment: simulated clock, faulty disk, bench tables.

pub mod bench;
pub mod disk;
