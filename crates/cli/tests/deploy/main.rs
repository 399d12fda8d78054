//! An object as an image, and in a machine by itself.

#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests: what is not as expected ends them"
)]

mod build;
mod class;
mod class_killed;
#[path = "../host/rig.rs"]
#[expect(dead_code, reason = "shared with the suite of the host")]
mod daemon;
mod documents;
mod host;
mod machine;
#[path = "../common/ran.rs"]
mod ran;
mod replays;
mod resident;
mod rig;
mod tls;
mod travels;
