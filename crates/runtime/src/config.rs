//! How the runtime was started.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use suijuris_core::inputs::{Host, Vehicle};
use suijuris_custody::host;
use suijuris_link::launch::{Address, Listen};

/// What carries a runtime that nobody says anything of: it was started as a process.
const VEHICLE: Vehicle<'_> = Vehicle {
    provider: "process",
    class: "",
};

/// What `--help` says.
pub const HELP: &str = "\
suijuris-init: the runtime of one object inside its machine, as PID 1 or as an entrypoint

usage: suijuris-init --data DIR --listen ADDR [options]
       suijuris-init --link-fd N [--inlet-fd N]

  --data DIR            the object's data directory (or SUIJURIS_DATA)
  --object DIR          directory that `{object}` of the workload's command stands for (or SUIJURIS_OBJECT_DIR)
  --listen ADDR         address of the gate, as in 0.0.0.0:8080 (or SUIJURIS_LISTEN); not with --listen-fd
  --listen-fd N         listening socket inherited from whoever starts the machine
  --depot URL           depot with the witness and the inbox, as in file:///var/lib/depot (or SUIJURIS_DEPOT)
  --agent-socket PATH   the workload's own interface [default: DIR/run/agent.sock]
  --link-fd N           socket to the supervisor that starts the machine; it says all of the above
  --inlet-fd N          socket over which later supervisors come, where the machine may outlive the first
  --help, --version

Exit codes: 0 asleep by its own decision, 1 refused, 2 usage, 3 broken input or environment,
            4 stopped by the host without a decision of the object
";

/// How the runtime was started.
#[derive(Debug)]
pub enum Start {
    /// By a supervisor, which says everything else over this link.
    Linked {
        /// The link.
        link: RawFd,
        /// Where the links of later supervisors arrive.
        inlet: Option<RawFd>,
    },
    /// By somebody who says nothing more: the entrypoint of a machine of its own.
    Alone(Box<Alone>),
}

/// What an entrypoint was told.
#[derive(Debug)]
pub struct Alone {
    /// The object's data directory.
    pub data: PathBuf,
    /// Directory that `{object}` stands for.
    pub object_dir: PathBuf,
    /// The gate's socket or address.
    pub listen: Listen<RawFd>,
    /// The depot.
    pub depot: Option<String>,
    /// The workload's own interface.
    pub agent_socket: PathBuf,
    /// Where it runs.
    pub host: Host,
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Asked {
    /// Run.
    Run(Start),
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
    let (mut listen_fd, mut link_fd, mut inlet, mut agent_socket) = (None, None, None, None);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Asked::Help),
            Long("version") | Short('V') => return Ok(Asked::Version),
            Long("data") => data = Some(parser.value()?.into()),
            Long("object") => object_dir = Some(parser.value()?.into()),
            Long("listen") => listen = Some(parser.value()?.string()?),
            Long("listen-fd") => listen_fd = Some(parser.value()?.parse()?),
            Long("link-fd") => link_fd = Some(parser.value()?.parse()?),
            Long("inlet-fd") => inlet = Some(parser.value()?.parse()?),
            Long("depot") => depot = Some(parser.value()?.string()?),
            Long("agent-socket") => agent_socket = Some(parser.value()?.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(link) = link_fd {
        return Ok(Asked::Run(Start::Linked { link, inlet }));
    }
    let data = data.ok_or(UsageError::NoData)?;
    let listen = match (listen_fd, listen) {
        (Some(number), _) => Listen::Descriptor(number),
        (None, Some(text)) => Listen::Address(address(&text)?),
        (None, None) => return Err(UsageError::NoListen),
    };
    Ok(Asked::Run(Start::Alone(Box::new(Alone {
        object_dir: object_dir.unwrap_or_else(|| data.clone()),
        agent_socket: agent_socket.unwrap_or_else(|| data.join("run").join("agent.sock")),
        listen,
        depot,
        host: host::here(VEHICLE, region.as_deref()),
        data,
    }))))
}

fn address(text: &str) -> Result<Address, UsageError> {
    let wrong = |_| UsageError::Value("--listen", format!("`{text}` is not ADDRESS:PORT"));
    text.parse().map(Address).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Asked, UsageError> {
        parse(arguments.iter().map(OsString::from), |_| None)
    }

    #[test]
    fn arguments_say_how_to_run() {
        let Ok(Asked::Run(Start::Alone(alone))) = run(&["--data", "/d", "--listen", "127.0.0.1:0"]) else {
            panic!("runs")
        };
        assert_eq!(alone.agent_socket, PathBuf::from("/d/run/agent.sock"));
        assert!(matches!(
            run(&["--link-fd", "3"]),
            Ok(Asked::Run(Start::Linked { link: 3, inlet: None }))
        ));
        assert!(matches!(
            run(&["--link-fd", "3", "--inlet-fd", "4"]),
            Ok(Asked::Run(Start::Linked {
                link: 3,
                inlet: Some(4)
            }))
        ));
        assert!(matches!(run(&["--help"]), Ok(Asked::Help)));
    }

    #[test]
    fn what_cannot_run_says_what_is_missing() {
        for arguments in [
            &["--listen", "127.0.0.1:0"][..],
            &["--data", "/d"],
            &["--data", "/d", "--listen", "here"],
            &["--link-fd", "three"],
            &["--link-fd"],
            // What older programs were told in their arguments.
            &["--data", "/d", "--listen-fd", "3", "--control-fd", "4"],
            &["--data", "/d", "--listen-fd", "3", "--launch", "{}"],
            &["--data"],
            &["--what"],
        ] {
            assert!(run(arguments).is_err(), "{arguments:?}");
        }
    }
}
