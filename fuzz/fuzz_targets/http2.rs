//! Requests over HTTP/2, for cargo-fuzz; the body is in `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| suijuris_fuzzing::wires::http2(bytes));
