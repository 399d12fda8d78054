//! Chunked bodies, for cargo-fuzz; the body is in `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| suijuris_fuzzing::wires::chunked(bytes));
