//! Fuzz bodies: whatever the bytes, each decoder of foreign bytes answers in bounded time and memory, and what it accepts it
//! writes back the same. Each body is a plain function of bytes.
//!
//! Called by the targets in `fuzz/` (cargo-fuzz, where it is installed), by the plain loop of this crate's program
//! (`cargo xtask fuzz`, and five seconds each in CI), and by its test. Nothing of the product depends on it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a fuzz body fails by a panic, as tests do"
)]

pub mod corpus;
pub mod mutate;
pub mod records;
pub mod run;
pub mod texts;
pub mod wires;

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Whose bytes it reads.
    pub about: &'static str,
    /// The body.
    pub run: fn(&[u8]),
    /// Bytes that it accepts, or nearly, beside the golden vectors.
    pub seeds: &'static [&'static [u8]],
}

macro_rules! targets {
    ($($name:ident in $room:ident, $about:literal, $seeds:expr;)*) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            about: $about,
            run: $room::$name,
            seeds: $seeds,
        },)*];
    };
}

targets! {
    record in records, "records of a lineage that somebody sent", &[];
    segment in records, "segments of a lineage, on disk and in depots", &[];
    checkpoint in records, "checkpoints beside a lineage", &[];
    announcement in records, "announcements in a depot", &[];
    parent_proof in records, "proofs of a parent", &[];
    bundle_manifest in records, "manifests of bundles", &[];
    bundle_files in records, "bundles in depots and capsules", &[];
    program in records, "compiled rules in a bundle", &[];
    mark in records, "marks in a depot", &[];
    class_entry in records, "entries of a class's name table", &[];
    owner_request in records, "what owners sign", &[];
    ticket in records, "an owner's word that an object may begin", &[];
    message in records, "messages in a depot", &[];
    memory in records, "values, schemas and proofs of memory", &[];
    capsule in records, "whole objects in one file", &[];
    oci_manifest in records, "manifests in registries", corpus::OCI;
    tar_layer in records, "layers of images", corpus::TAR;
    http_head in wires, "requests over HTTP/1.1", corpus::HTTP;
    http2 in wires, "requests over HTTP/2", corpus::HTTP2;
    chunked in wires, "chunked bodies", corpus::CHUNKED;
    target in wires, "methods, targets and hosts, which have one spelling", corpus::LINES;
    proxy_header in wires, "headers of the PROXY protocol", corpus::PROXY;
    replay in wires, "answers that send a request elsewhere", corpus::REPLAYS;
    link_stream in wires, "frames of a machine, and its messages", &[];
    depot_frame in wires, "frames of the relay to a depot", &[];
    token in texts, "tokens of callers and of other objects", corpus::TOKENS;
    memory_patch in texts, "writes to memory", corpus::JSON;
    json in texts, "documents of the agent socket and of the control API", corpus::JSON;
    cloud_event in texts, "messages in structured form", corpus::JSON;
    machine_config in texts, "configs of a host's machines", corpus::CONFIGS;
    volume_backup in texts, "backups of a host's volumes", corpus::BACKUPS;
    private_names in texts, "questions for names in private networks", corpus::QUESTIONS;
    definition in texts, "object.toml with its rules", corpus::DEFINITIONS;
    governance in texts, "rules", corpus::RULES;
    plain_text in texts, "ids, keys, times, names, schedules, references", corpus::PLAIN;
}

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
