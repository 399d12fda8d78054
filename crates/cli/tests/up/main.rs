//! `suijuris up`, from outside: real programs as objects, real sockets, real signals.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests: what is not as expected ends them"
)]

mod access_log;
mod boot;
mod broken;
mod callers;
mod carriers;
mod clock;
mod confines;
mod copies;
mod crash;
mod depots;
mod egress;
mod ending;
mod fd_passing;
mod gate;
#[path = "../common/heard.rs"]
mod heard;
#[path = "../common/http.rs"]
mod http;
mod images;
mod leaving;
mod lineages;
#[cfg(target_arch = "x86_64")]
mod machines;
mod memory;
mod messages;
mod moving;
mod outdoors;
mod own_moves;
mod paused;
mod peers;
#[path = "../common/ran.rs"]
mod ran;
mod rates;
mod readiness;
mod registry;
mod remain;
mod rig;
mod rules;
mod secrecy;
#[path = "../common/session.rs"]
mod session;
mod sessions;
mod stranger;
mod unstoppable;
mod wake;
mod watching;
mod workload;
