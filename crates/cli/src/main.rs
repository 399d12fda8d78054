//! suijuris: the one program people run.
//!
//! Each command lives in a file of its own; this one reads the command line and turns answers into exit codes. Data
//! goes to standard output, all else to standard error. The same program, started again with a word that nobody types,
//! is the first process of a machine (`__shim`), the runtime in it (`__init`), the door of a deployed class (`__class-door`), and what
//! carries raw connections of a host (`__relay`).

mod access_log;
mod add;
mod amend;
mod api_token;
mod approval;
#[cfg(feature = "remote")]
mod build;
mod carrier;
mod check;
mod claiming;
mod clock;
mod control;
#[cfg(feature = "remote")]
mod deploy;
mod depots;
mod diff;
mod door;
mod event_printer;
mod export;
mod fork;
mod here;
mod history;
#[cfg(feature = "host")]
mod host;
mod images;
mod import;
mod kernel;
mod key_file;
#[cfg(feature = "sealing")]
mod key_wrap;
#[cfg(not(feature = "sealing"))]
#[path = "no_key_wrap.rs"]
mod key_wrap;
mod leaving;
mod line_writer;
mod log;
mod logs;
mod memory;
mod messages;
mod migrate;
mod new;
mod object_paths;
#[cfg(feature = "remote")]
mod oci;
mod offline;
mod owner;
mod private;
mod progress;
mod proposal;
mod ps;
#[cfg(feature = "remote")]
mod pull;
#[cfg(feature = "remote")]
mod push;
mod refusals;
mod registry;
mod remove;
mod render;
mod restore;
mod runtime_program;
mod schema;
mod send;
mod serve;
mod server;
mod show;
mod systemd;
mod terminal;
mod terminate;
mod test;
mod token;
mod transition;
#[cfg(feature = "tls")]
mod trust;
mod up;
mod vehicle;
mod vehicles;
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
    Test(test::Args),
    Schema(schema::Args),
    #[cfg(feature = "remote")]
    Build(build::Args),
    #[cfg(feature = "remote")]
    Deploy(Box<deploy::Args>),
    /// Run an object on this machine, until Ctrl-C puts it to sleep
    Up(up::Args),
    Serve(serve::Args),
    #[cfg(feature = "tls")]
    Trust(trust::Args),
    Add(add::AddArgs),
    Remove(remove::Args),
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
    #[cfg(feature = "remote")]
    Push(push::Args),
    #[cfg(feature = "remote")]
    Pull(pull::Args),
    Send(Box<send::Args>),
    #[command(subcommand)]
    Images(images::Command),
    #[command(subcommand)]
    Messages(messages::Command),
    Vehicles(vehicles::Args),
    Door(door::Args),
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    /// Write the pages of the manual, one a command, into a directory
    #[cfg(feature = "manual")]
    #[command(hide = true)]
    Manual {
        /// Directory
        dir: std::path::PathBuf,
    },
    #[cfg(feature = "host")]
    Host(Box<host::Args>),
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
        #[cfg(feature = "host")]
        Some("__relay") => return suijuris_host::relay::main(),
        #[cfg(feature = "remote")]
        Some("__class-door") => return deploy::class_door::main(),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    server::choose(cli.server);
    run(cli.command).unwrap_or_else(|error| complain(&error))
}

/// What people type who know other programs, and what it is called here.
const KNOWN_ELSEWHERE: &[(&[&str], &str)] = &[
    (&["list", "ls"], "`suijuris ps` lists objects"),
    (
        &["rm", "delete", "destroy"],
        "`suijuris remove NAME` takes an object from the daemon; `suijuris terminate` ends it for good",
    ),
    (
        &["start", "run"],
        "`suijuris up DIR` runs an object here; `suijuris wake OBJ` asks one to wake",
    ),
    (
        &["stop", "kill", "halt"],
        "`suijuris sleep OBJ` asks it to sleep; Ctrl-C ends `up`",
    ),
    (&["restart"], "`suijuris sleep OBJ` and then `suijuris wake OBJ`"),
    (
        &["init", "create"],
        "`suijuris new http DIR` writes a definition; `suijuris up DIR` makes the object",
    ),
    (
        &["status", "info", "inspect", "describe"],
        "`suijuris show OBJ` shows an object",
    ),
    (&["inbox", "queue"], "`suijuris messages ls OBJ` lists messages"),
    (
        &["lint", "validate"],
        "`suijuris check DIR` reports what is wrong with a definition",
    ),
];

/// The command line cannot be read, or asks for help.
fn misread(error: &clap::Error) -> ExitCode {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let word = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::InvalidSubcommand => word.as_str(),
        _ => "",
    };
    let hint = KNOWN_ELSEWHERE.iter().find(|(words, _)| words.contains(&word));
    match hint {
        _ if error.use_stderr() && wants_json() => {
            let told = error.to_string();
            let told = told.trim_end().trim_start_matches("error: ");
            let hint = hint.map_or_else(String::new, |(_, hint)| format!("\n{hint}"));
            told_as_json(&format!("{told}{hint}"), 2);
        }
        // In place of the words that merely look alike.
        Some((_, hint)) => terminal::note(&format!("error: there is no `{word}`; {hint}")),
        // A closed output is nobody's to tell.
        None => drop(error.print()),
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Whether a script reads the answer of a command, or its events.
fn wants_json() -> bool {
    let mut words = std::env::args().skip(1).take_while(|word| word != "--");
    words.any(|word| word == "--json")
}

/// An error for scripts: one line on standard error.
fn told_as_json(message: &str, exit_code: u8) {
    let error = serde_json::json!({"error": {"message": message, "exit_code": exit_code}});
    terminal::drawing(&error.to_string());
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let answer = match command {
        Command::Up(args) => return up::run(args),
        Command::Serve(args) => return serve::run(&args),
        #[cfg(feature = "tls")]
        Command::Trust(args) => trust::run(&args)?,
        Command::Add(args) => add::add(&args)?,
        Command::Remove(args) => remove::run(&args)?,
        Command::Amend(args) => amend::run(&args)?,
        Command::Door(args) => return door::run(&args),
        #[cfg(feature = "host")]
        Command::Host(args) => return host::run(&args),
        Command::New(args) => new::run(&args)?,
        Command::Check(args) => check::run(&args)?,
        Command::Schema(args) => schema::run(&args)?,
        Command::Test(args) => test::run(&args)?,
        #[cfg(feature = "remote")]
        Command::Build(args) => build::run(&args)?,
        #[cfg(feature = "remote")]
        Command::Deploy(args) => deploy::run(&args)?,
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
        #[cfg(feature = "remote")]
        Command::Push(args) => push::run(&args)?,
        #[cfg(feature = "remote")]
        Command::Pull(args) => pull::run(&args)?,
        Command::Send(args) => send::run(&args)?,
        Command::Kernel(command) => kernel::run(&command)?,
        Command::Messages(command) => messages::run(&command)?,
        #[cfg(feature = "manual")]
        Command::Manual { dir } => {
            clap_mangen::generate_to(Cli::command(), dir)?;
            Answer::Yes
        }
        Command::Images(command) => images::run(&command)?,
        Command::Vehicles(args) => vehicles::run(&args)?,
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
    let code = if error.is::<Usage>() { 2 } else { 3 };
    if wants_json() {
        told_as_json(&format!("{error:#}"), code);
    } else {
        terminal::note(&format!("error: {error:#}"));
    }
    ExitCode::from(code)
}
