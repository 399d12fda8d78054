//! Configs of a host's machines, for cargo-fuzz; the body is in `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| suijuris_fuzzing::texts::machine_config(bytes));
