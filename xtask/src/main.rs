//! `cargo xtask`: what the repository does to itself: continuous integration, tidy rules, proofs, benches, the static runtime.
//!
//! Called by people and by `.ci/run`. Nothing here is part of the product.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod bench;
mod ci;
mod dist;
mod first;
mod fuzz;
mod init;
mod openapi;
mod proofs;
mod requirements;
mod source;
mod tidy;
mod tree;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Repository tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check of continuous integration, collect the failures, print the timings
    Ci(ci::Arguments),
    /// Check the rules of the repository that no compiler checks
    Tidy,
    /// Print requirement rows with the tests that prove them; fail where a claimed row has none
    Proofs(proofs::Arguments),
    /// Run bench programs in release mode; results also go to target/bench
    Bench(bench::Arguments),
    /// Fuzz every decoder of foreign bytes
    Fuzz(fuzz::Arguments),
    /// Write docs/openapi.json from the types of the control API
    Openapi(openapi::Arguments),
    /// Make what is handed out: archive, Debian package, image, digests, list of materials
    Dist(dist::Arguments),
    /// Build the static runtime suijuris-init and put it beside the released suijuris
    Init,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Ci(arguments) => ci::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Proofs(arguments) => proofs::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Openapi(arguments) => openapi::run(&arguments),
        Task::Dist(arguments) => dist::run(&arguments),
        Task::Init => init::run(init::Program::Init, "release"),
    };
    if let Err(error) = result {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
