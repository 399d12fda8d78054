//! suijuris: the one program people run.
//!
//! Each command lives in a file of its own; this one reads the command line and turns answers into exit codes. Data
//! goes to standard output, all else to standard error. The same program, started again with a word that nobody types,
//! is the first process of a machine (`__shim`) and the runtime in it (`__init`).

mod add;
mod amend;
mod api_token;
mod approval;
mod carrier;
mod check;
mod claiming;
mod clock;
mod control;
mod depots;
mod diff;
mod door;
mod event_printer;
mod export;
mod fork;
mod here;
mod history;
mod import;
mod key_file;
mod key_wrap;
mod line_writer;
mod log;
mod logs;
mod memory;
mod migrate;
mod new;
mod object_paths;
mod oci;
mod offline;
mod owner;
mod private;
mod progress;
mod proposal;
mod ps;
mod pull;
mod push;
mod registry;
mod render;
mod restore;
mod runtime_program;
mod send;
mod serve;
mod server;
mod show;
mod systemd;
mod terminal;
mod terminate;
mod token;
mod transition;
mod trust;
mod up;
mod verify;
mod what_if;
mod why;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// What a command found, as an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Yes: done, permitted, verified.
    Yes,
    /// No: refused, not verified, not there.
    No,
    /// The input or the environment is broken.
    Broken,
}

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        Self::from(match answer {
            Answer::Yes => 0,
            Answer::No => 1,
            Answer::Broken => 3,
        })
    }
}

/// The command line asks for something that cannot be meant; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

const EXIT_CODES: &str = "\
Exit codes: 0 yes, 1 no (refused, not verified), 2 usage, 3 broken input or environment.
An object is named by its directory (with object.toml) or its data directory; `.` where none is named. One that a daemon
serves (`suijuris serve`) is also named CLASS/KEY, by its name, or by its id.

Example:
  suijuris new http hello && suijuris up hello";

/// Machines that decide for themselves whether to wake, serve and sleep
#[derive(Debug, Parser)]
#[command(name = "suijuris", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// Daemon that serves the object: path of its control socket, its directory, or http://ADDRESS:PORT with a token in
    /// `SUIJURIS_API_TOKEN_FILE` [default: that of your data folder]
    #[arg(long, global = true, value_name = "PATH", env = server::VARIABLE)]
    server: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::Args),
    Check(check::Args),
    /// Run an object on this machine, until Ctrl-C puts it to sleep
    Up(up::Args),
    Serve(serve::Args),
    Trust(trust::Args),
    Add(add::AddArgs),
    Remove(add::RemoveArgs),
    Amend(amend::Args),
    Approve(approval::Args),
    Key(approval::KeyArgs),
    #[command(subcommand)]
    Token(token::Command),
    Ps(ps::Args),
    Show(show::Args),
    #[command(subcommand)]
    Memory(memory::Command),
    Log(log::Args),
    Logs(logs::Args),
    Why(why::Args),
    WhatIf(Box<what_if::Args>),
    Diff(diff::Args),
    Wake(transition::WakeArgs),
    Sleep(transition::SleepArgs),
    Terminate(terminate::Args),
    Migrate(migrate::Args),
    Verify(verify::Args),
    Export(export::Args),
    Import(import::Args),
    Fork(fork::Args),
    Restore(restore::Args),
    Push(push::Args),
    Pull(pull::Args),
    Send(Box<send::Args>),
    Door(door::Args),
    /// Print the completion script of a shell
    #[command(
        after_help = "Example:\n  suijuris completions bash > ~/.local/share/bash-completion/completions/suijuris"
    )]
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    // Before anything else: the roles in a machine start no thread and read no command line of people.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("__shim") => return suijuris_vehicle::process::shim::main(),
        Some("__init") => return suijuris_runtime::main(arguments.collect::<Vec<OsString>>()),
        _ => {}
    }
    let cli = Cli::parse();
    server::choose(cli.server);
    run(cli.command).unwrap_or_else(|error| complain(&error))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let answer = match command {
        Command::Up(args) => return up::run(args),
        Command::Serve(args) => return serve::run(&args),
        Command::Trust(args) => trust::run(&args)?,
        Command::Add(args) => add::add(&args)?,
        Command::Remove(args) => add::remove(&args)?,
        Command::Amend(args) => amend::run(&args)?,
        Command::Door(args) => return door::run(&args),
        Command::New(args) => new::run(&args)?,
        Command::Check(args) => check::run(&args)?,
        Command::Approve(args) => approval::run(&args)?,
        Command::Key(args) => approval::key(&args)?,
        Command::Token(command) => token::run(&command)?,
        Command::Ps(args) => ps::run(&args)?,
        Command::Show(args) => show::run(&args)?,
        Command::Memory(command) => memory::run(command)?,
        Command::Log(args) => log::run(&args)?,
        Command::Logs(args) => logs::run(&args)?,
        Command::Why(args) => why::run(&args)?,
        Command::WhatIf(args) => what_if::run(&args)?,
        Command::Diff(args) => diff::run(&args)?,
        Command::Wake(args) => transition::wake(&args)?,
        Command::Sleep(args) => transition::sleep(&args)?,
        Command::Terminate(args) => terminate::run(&args)?,
        Command::Migrate(args) => migrate::run(&args)?,
        Command::Verify(args) => verify::run(&args)?,
        Command::Export(args) => export::run(&args)?,
        Command::Import(args) => import::run(&args)?,
        Command::Fork(args) => fork::run(&args)?,
        Command::Restore(args) => restore::run(&args)?,
        Command::Push(args) => push::run(&args)?,
        Command::Pull(args) => pull::run(&args)?,
        Command::Send(args) => send::run(&args)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "suijuris", &mut script);
            terminal::print(&String::from_utf8_lossy(&script))?;
            Answer::Yes
        }
    };
    Ok(answer.into())
}

fn complain(error: &anyhow::Error) -> ExitCode {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        // The reader of our output has seen enough.
        return ExitCode::SUCCESS;
    }
    terminal::note(&format!("error: {error:#}"));
    ExitCode::from(if error.is::<Usage>() { 2 } else { 3 })
}
