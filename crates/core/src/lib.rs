//! The pure heart: ids, codec, lineage, memory, governance programs, lifecycle. No I/O, no clock, no randomness.
