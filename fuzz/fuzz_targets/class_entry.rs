//! Entries of a class's name table, for cargo-fuzz; the body is in `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| suijuris_fuzzing::records::class_entry(bytes));
