//! Test equipment: simulated clock, faulty disk.
