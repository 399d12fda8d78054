//! Test equipment: simulated clock, faulty disk, a hostile workload, programs that tests write, servers of depots, a registry, bench tables.

pub mod bench;
pub mod disk;
pub mod fly;
pub mod hostile;
pub mod program;
pub mod proxy;
pub mod registry;
pub mod servers;
pub mod spellings;
