//! `suijuris host` from outside: its API over real connections, real processes, real kills.
#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod addresses;
mod awake;
mod backups;
mod bad_input;
mod checks;
mod clients;
mod console;
mod crashes;
mod drain;
mod encryption;
mod examples;
mod fuzz;
mod hooks;
mod images;
mod inside;
mod lives;
mod network;
mod proxy;
mod proxy_door;
mod registry;
mod relay;
mod rig;
#[path = "../common/schemathesis.rs"]
mod schemathesis;
mod successor;
mod tolerances;
#[cfg(feature = "traces")]
mod traces;
mod volumes;
mod way_out;
mod who;
