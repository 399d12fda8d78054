//! `suijuris serve`, from outside: one daemon of many objects, real callers, real signals.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod access_log;
mod addresses;
mod amending;
mod archiving;
mod broken;
mod carriers;
mod control;
mod cutting;
mod daemon;
mod doors;
mod ending;
mod ends;
mod first_use;
mod following;
mod fuzz;
#[path = "../common/heard.rs"]
mod heard;
mod home;
#[path = "../common/http.rs"]
mod http;
mod leftovers;
mod many;
mod moving;
mod moving_faults;
mod objects;
mod own_moves;
mod owners;
mod postgres;
mod proxies;
#[path = "../common/ran.rs"]
mod ran;
mod raw;
mod removing;
#[path = "../common/schemathesis.rs"]
mod schemathesis;
mod secrecy;
mod servers;
mod systemd;
mod tls;
mod tokens;
mod usage;
mod vehicles;
