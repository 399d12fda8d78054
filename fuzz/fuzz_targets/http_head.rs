//! Requests over HTTP/1.1, for cargo-fuzz; the body is in `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| suijuris_fuzzing::wires::http_head(bytes));
