//! suijuris-init: the object's runtime inside its machine.
//!
//! One thread. `boot` opens and decides, `lifecycle_driver` performs what the lifecycle (core) says, `resident` is the object,
//! `authorizer` answers the gate, `agent` answers the workload, `remain` asks again and again whether to stay. The command
//! line embeds this crate to run as the runtime where no static `suijuris-init` lies beside it. In a virtual machine the same
//! program is the first process as well (`suijuris_guest::init`), which starts the runtime in namespaces of its own.

#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use suijuris_core::codec;
use suijuris_guest::standby::Waiting;

pub mod agent;
pub mod authorizer;
mod boot;
pub mod config;
mod egress;
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
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let before = std::env::args_os().count().saturating_sub(arguments.len());
    if let Some((first, rest)) = arguments.split_first()
        && first == suijuris_guest::init::WORD
    {
        return suijuris_guest::init::main(rest.iter().cloned());
    }
    match config::parse(arguments, |name| std::env::var_os(name)) {
        Ok(config::Asked::Help) => say(config::HELP),
        Ok(config::Asked::Version) => say(concat!("suijuris-init ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(config::Asked::Identify(object)) => match identify(&object) {
            Ok(text) => say(&text),
            Err(error) => complain(&error, 1),
        },
        Ok(config::Asked::Run(start)) => prepare()
            .and_then(|prepared| prepared.run(start))
            .unwrap_or_else(|error| complain(&*error, 3)),
        Ok(config::Asked::StandBy(number)) => {
            stand_by(number, before).unwrap_or_else(|error| complain(&*error, 3))
        }
        Err(error) => complain(&error, 2),
    }
}

/// A process with all that does not depend on what it is told to run.
struct Prepared {
    tokio: tokio::runtime::Runtime,
    role: pid1::Role,
    signals: pid1::Signals,
}

fn prepare() -> Result<Prepared, Box<dyn std::error::Error>> {
    // Keys and secrets will be in it, and a workload may run as the same user.
    suijuris_sys::confine::hide_memory();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let role = pid1::adopt();
    let signals = {
        let _within = tokio.enter();
        pid1::Signals::new(role).map_err(|error| boot::Error::System("take signals", error))?
    };
    Ok(Prepared { tokio, role, signals })
}

impl Prepared {
    fn run(self, start: config::Start) -> Result<ExitCode, Box<dyn std::error::Error>> {
        let local = tokio::task::LocalSet::new();
        // As a task: the set's main future is polled at each wake-up of any connection, and shall be small.
        let running = async { tokio::task::spawn_local(boot::run(start, self.role, self.signals)).await };
        match local.block_on(&self.tokio, running) {
            Ok(ended) => Ok(ended?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(cancelled) => Err(cancelled.into()),
            },
        }
    }
}

/// Waits, prepared, for the machine that this process is to be, and goes on as one that was started for that machine. Of the arguments
/// that come along, the first `before` are the program's own words.
fn stand_by(number: i32, before: usize) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let waiting = Waiting::at(number).ok_or(boot::Error::Descriptor(number))?;
    let prepared = prepare()?;
    let Some(argv) = waiting.wait()? else {
        return Ok(ExitCode::SUCCESS);
    };
    match config::parse(argv.into_iter().skip(before), |name| std::env::var_os(name))? {
        config::Asked::Run(start) => prepared.run(start),
        _ => Err("the machine that it was assigned to runs nothing".into()),
    }
}

/// Which object the directory holds, for whoever may run commands in its machine.
fn identify(object: &std::path::Path) -> Result<String, suijuris_store::OpenError> {
    let dir = suijuris_store::ObjectDir::at(object);
    let reader = suijuris_store::Reader::open(&dir, suijuris_store::Depth::Tail)?;
    let head = reader.state().head();
    let said = serde_json::json!({
        "object": head.object.to_string(),
        "bundle": head.bundle.to_string(),
        "seq": head.seq,
        "epoch": head.epoch,
        "proposed": resident::amending::dealt_with(object),
        // For owners, who sign what they approve over it.
        "head": codec::encode(head).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).ok(),
    });
    Ok(format!("{said}\n"))
}

fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "suijuris-init: {}", chain(error));
    ExitCode::from(code)
}
