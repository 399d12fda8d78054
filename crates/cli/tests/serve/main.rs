//! `suijuris serve`, from outside: one daemon of many objects, real callers, real signals.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod addresses;
mod amending;
mod broken;
mod carriers;
mod control;
mod daemon;
mod doors;
mod ending;
mod ends;
mod first_use;
mod fuzz;
mod home;
mod http;
mod many;
mod objects;
mod owners;
mod proxies;
#[path = "../common/ran.rs"]
mod ran;
mod raw;
mod servers;
mod systemd;
mod tls;
mod tokens;
mod usage;
