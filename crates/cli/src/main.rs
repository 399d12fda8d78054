//! suijuris: the one program people run.
mod owner;
mod place;
mod registry;
mod up;
use clap::Parser as _;
use std::process::ExitCode;
#[derive(clap::Parser)]
enum Command {
    Up(up::Args),
}
fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(a) if a == "__shim" => return suijuris_vehicle::process::shim::main(),
        Some(a) if a == "__init" => return suijuris_runtime::main(args),
        _ => {}
    }
    let Command::Up(args) = Command::parse();
    match up::run(args) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("suijuris: {e:#}");
            ExitCode::from(3)
        }
    }
}
