//! suijuris-init: the object's runtime inside its machine.
//!
//! One thread. `boot` opens and decides, `lifecycle_driver` performs what the lifecycle (core) says, `resident` is the object,
//! `authorizer` answers the gate, `agent` answers the workload, `remain` asks again and again whether to stay. The command
//! line embeds this crate to run as the runtime where no static `suijuris-init` lies beside it.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

pub mod agent;
pub mod authorizer;
mod boot;
pub mod config;
pub mod holds;
pub mod inbox;
pub mod intake;
mod lifecycle_driver;
pub mod lineage_writer;
pub mod pid1;
pub mod remain;
pub mod report;
pub mod resident;
mod supervision;
pub mod workload;

pub use suijuris_auth as auth;
pub use suijuris_core::refusals;

use suijuris_custody::chain;

/// Runs `suijuris-init` with these arguments, without the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let say = |text: &str| {
        // Nobody to tell when standard output is gone.
        let _ = std::io::stdout().write_all(text.as_bytes());
        ExitCode::SUCCESS
    };
    match config::parse(arguments, |name| std::env::var_os(name)) {
        Ok(config::Asked::Help) => say(config::HELP),
        Ok(config::Asked::Version) => say(concat!("suijuris-init ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(config::Asked::Run(start)) => run(start).unwrap_or_else(|error| complain(&*error, 3)),
        Err(error) => complain(&error, 2),
    }
}

fn run(start: config::Start) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // Keys and secrets are in it, and a workload may run as the same user.
    suijuris_sys::confine::hide_memory();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    Ok(local.block_on(&tokio, boot::run(start))?)
}

fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "suijuris-init: {}", chain(error));
    ExitCode::from(code)
}
