//! A Firecracker that is played: it answers its API as Firecracker 1.16 does, call by state, writes snapshots and reads them,
//! and plays the first process of a machine over vsock. Run by the conformance suite and by the test of its own table.
//!
//! What it is faithful in is `tests/firecracker_fake.rs`. It runs no kernel: a machine's program is one of the suite's parts,
//! and its memory is what that part has to remember.

#![expect(clippy::print_stdout, reason = "the console of a machine")]

mod guest;
mod http;
mod vmm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use tokio::net::UnixListener;

/// Arguments that it does not know (`FcExitCode::ArgParsing`).
const BAD_ARGUMENTS: u8 = 153;

/// Arguments that it takes and does nothing with.
const JAILERS: [&str; 4] = [
    "--id",
    "--start-time-us",
    "--start-time-cpu-us",
    "--parent-cpu-time-us",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(socket) = socket(&args) else {
        println!("Arguments parsing error: {args:?}");
        return ExitCode::from(BAD_ARGUMENTS);
    };
    match run(Path::new(socket)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("RunWithApiError error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where it is to listen; none where an argument is none of its own, those of its jailer included.
fn socket(args: &[String]) -> Option<&str> {
    let mut socket = None;
    for pair in args.chunks(2) {
        match pair {
            [name, path] if name == "--api-sock" => socket = Some(path.as_str()),
            [name, _] if JAILERS.contains(&name.as_str()) => {}
            _ => return None,
        }
    }
    socket
}

fn run(socket: &Path) -> std::io::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&tokio, async {
        let listener = UnixListener::bind(socket)?;
        let dir = socket.parent().map_or_else(PathBuf::new, Path::to_owned);
        let vmm = Rc::new(tokio::sync::Mutex::new(vmm::Vmm::new()));
        let mut serving = tokio::task::JoinSet::new();
        for number in 1.. {
            let (stream, _) = listener.accept().await?;
            serving.spawn_local(http::serve(stream, vmm.clone(), dir.clone(), number));
        }
        Ok(())
    })
}
