//! The real program, as a person or a script runs it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests: what is not as expected ends them"
)]

mod asking;
mod bad_input;
mod classes;
mod installing;
mod integrity;
mod living;
mod privacy;
#[path = "../common/ran.rs"]
mod ran;
mod reading;
mod rig;
mod schema;
mod testing;
mod tokens;
mod writing;
