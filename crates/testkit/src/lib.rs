//! Test equipment: simulated clock, faulty disk, servers of depots, bench tables.

pub mod bench;
pub mod disk;
pub mod proxy;
pub mod servers;
pub mod spellings;
