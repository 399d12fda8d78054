//! How the runtime was started.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

pub use suijuris_api::control::Launch;
use suijuris_core::inputs::Vehicle;
use suijuris_custody::host;

/// What carries a runtime that nobody says anything of: it was started as a process.
const VEHICLE: Vehicle<'_> = Vehicle {
    provider: "process",
    class: "",
};

/// What `--help` says.
pub const HELP: &str = "\
suijuris-init: the runtime of one object inside its machine, as PID 1 or as an entrypoint

usage: suijuris-init --data DIR [options]

  --data DIR            the object's data directory (or SUIJURIS_DATA)
  --object DIR          directory that `{object}` of the workload's command stands for (or SUIJURIS_OBJECT_DIR)
  --listen ADDR         address of the gate, as in 0.0.0.0:8080 (or SUIJURIS_LISTEN); not with --listen-fd
  --listen-fd N         listening socket inherited from whoever starts the machine
  --control-fd N        channel to whoever starts the machine
  --depot URL           depot with the witness and the inbox, as in file:///var/lib/depot (or SUIJURIS_DEPOT)
  --relay-fd N          socket to a depot that whoever starts the machine serves; not with --depot
  --hold-fd N           descriptor to keep open as long as the machine runs
  --agent-socket PATH   the workload's own interface [default: DIR/run/agent.sock]
  --launch JSON         why the machine was started, as its owner says it
  --help, --version

Exit codes: 0 dormant by the object's own act, 1 refused, 2 usage, 3 broken input or environment,
            4 stopped by the host without a decision of the object
";

/// How the runtime was started.
#[derive(Debug)]
pub struct Config {
    /// The object's data directory.
    pub data: PathBuf,
    /// Directory that `{object}` stands for.
    pub object_dir: PathBuf,
    /// The gate's address, where no socket was inherited.
    pub listen: Option<SocketAddr>,
    /// The gate's socket.
    pub listen_fd: Option<RawFd>,
    /// Channel to the owner.
    pub control_fd: Option<RawFd>,
    /// The depot.
    pub depot: Option<String>,
    /// Socket to a depot.
    pub relay_fd: Option<RawFd>,
    /// Kept open to the end.
    pub hold_fd: Option<RawFd>,
    /// The workload's own interface.
    pub agent_socket: PathBuf,
    /// Why it was started.
    pub launch: Launch,
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Asked {
    /// Run.
    Run(Box<Config>),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// Why the arguments do not say how to run.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Not an argument, or one without its value.
    #[error("see `suijuris-init --help`")]
    Arguments(#[from] lexopt::Error),
    /// No data directory.
    #[error("name the object's data directory with --data")]
    NoData,
    /// No way in.
    #[error("name the gate's address with --listen")]
    NoListen,
    /// A value that cannot be read.
    #[error("{0} cannot be read: {1}")]
    Value(&'static str, String),
}

/// Reads arguments (without the program's name) over the environment.
///
/// # Errors
/// [`UsageError`] says what to write instead.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Asked, UsageError> {
    use lexopt::prelude::*;
    let mut data = environment("SUIJURIS_DATA").map(PathBuf::from);
    let mut object_dir = environment("SUIJURIS_OBJECT_DIR").map(PathBuf::from);
    let mut listen = environment("SUIJURIS_LISTEN").map(|text| text.to_string_lossy().into_owned());
    let mut depot = environment("SUIJURIS_DEPOT").map(|text| text.to_string_lossy().into_owned());
    let region = environment(host::REGION_VARIABLE).map(|text| text.to_string_lossy().into_owned());
    let (mut relay_fd, mut hold_fd) = (None, None);
    let (mut listen_fd, mut control_fd, mut agent_socket, mut launch) = (None, None, None, None);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Asked::Help),
            Long("version") | Short('V') => return Ok(Asked::Version),
            Long("data") => data = Some(parser.value()?.into()),
            Long("object") => object_dir = Some(parser.value()?.into()),
            Long("listen") => listen = Some(parser.value()?.string()?),
            Long("listen-fd") => listen_fd = Some(parser.value()?.parse()?),
            Long("control-fd") => control_fd = Some(parser.value()?.parse()?),
            Long("depot") => depot = Some(parser.value()?.string()?),
            Long("relay-fd") => relay_fd = Some(parser.value()?.parse()?),
            Long("hold-fd") => hold_fd = Some(parser.value()?.parse()?),
            Long("agent-socket") => agent_socket = Some(parser.value()?.into()),
            Long("launch") => launch = Some(parser.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let data = data.ok_or(UsageError::NoData)?;
    let address = |text: String| {
        text.parse()
            .map_err(|_| UsageError::Value("--listen", format!("`{text}` is no ADDRESS:PORT")))
    };
    let listen = listen.filter(|_| listen_fd.is_none()).map(address).transpose()?;
    if listen.is_none() && listen_fd.is_none() {
        return Err(UsageError::NoListen);
    }
    let read = |text: String| {
        serde_json::from_str(&text).map_err(|error| UsageError::Value("--launch", error.to_string()))
    };
    Ok(Asked::Run(Box::new(Config {
        object_dir: object_dir.unwrap_or_else(|| data.clone()),
        agent_socket: agent_socket.unwrap_or_else(|| data.join("run").join("agent.sock")),
        listen,
        listen_fd,
        control_fd,
        depot: depot.filter(|_| relay_fd.is_none()),
        relay_fd,
        hold_fd,
        launch: match launch {
            Some(text) => read(text)?,
            None => Launch::boot(host::here(VEHICLE, region.as_deref())),
        },
        data,
    })))
}

#[cfg(test)]
mod tests {
    use suijuris_core::governance::TriggerKind;

    use super::*;

    fn run(arguments: &[&str]) -> Result<Asked, UsageError> {
        parse(arguments.iter().map(OsString::from), |_| None)
    }

    #[test]
    fn arguments_say_how_to_run() {
        let Ok(Asked::Run(config)) = run(&["--data", "/d", "--listen", "127.0.0.1:0"]) else {
            panic!("runs")
        };
        assert_eq!(config.agent_socket, PathBuf::from("/d/run/agent.sock"));
        assert_eq!(config.launch.trigger.kind, TriggerKind::Boot);
        assert!(matches!(run(&["--help"]), Ok(Asked::Help)));
    }

    #[test]
    fn what_cannot_run_says_what_is_missing() {
        for arguments in [
            &["--listen", "127.0.0.1:0"][..],
            &["--data", "/d"],
            &["--data", "/d", "--listen", "here"],
            &["--data", "/d", "--listen-fd", "3", "--launch", "{"],
            &["--data"],
            &["--what"],
        ] {
            assert!(run(arguments).is_err(), "{arguments:?}");
        }
    }
}
