//! How the runtime was started.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use suijuris_core::inputs::{Host, Vehicle};
use suijuris_custody::host;
use suijuris_link::launch::{Address, Listen};

use crate::resident::{files, founding, platform};

/// What carries a runtime that nobody says anything of: it was started as a process.
const VEHICLE: Vehicle<'_> = Vehicle {
    provider: "process",
    class: "",
};

/// What carries a machine that has the environment of Fly's.
const FLY: Vehicle<'_> = Vehicle {
    provider: "fly",
    class: "",
};

/// Where the volume of a machine of its own is.
const VOLUME: &str = "/data";
/// Where its gate listens.
const LISTEN: &str = "0.0.0.0:8474";
/// How long it answers at least where it refuses: whoever starts it for each request starts it three times a minute.
const STAY: Duration = Duration::from_secs(20);
/// Longest that may be said, seconds.
const MAX_STAY_S: u64 = 3_600;

/// What `--help` says.
pub const HELP: &str = "\
suijuris-init: the runtime of one object inside its machine, as PID 1 or as an entrypoint

usage: suijuris-init --resident DIR [options]
       suijuris-init --data DIR --listen ADDR [options]
       suijuris-init --link-fd N [--inlet-fd N]
       suijuris-init --inlet-fd N
       suijuris-init --standby-fd N

  --resident DIR        what `suijuris build` put into the image: the object lives on its volume, by itself, without a supervisor;
                        with it --data is the volume [default: /data] and --listen has a default [0.0.0.0:8474]
  --platform PATH       socket by which the machine stops or suspends itself, with --resident [default: /.fly/api]
  --stay SECONDS        with --resident, how long the machine answers at least where it refuses [default: 20] (or SUIJURIS_STAY):
                        nobody starts it more often than that
  --data DIR            the object's data directory (or SUIJURIS_DATA)
  --object DIR          directory that `{object}` of the workload's command stands for (or SUIJURIS_OBJECT_DIR)
  --listen ADDR         address of the gate, as in 0.0.0.0:8474 (or SUIJURIS_LISTEN); not with --listen-fd
  --listen-fd N         listening socket inherited from whoever starts the machine
  --depot URL           depot with the witness and the inbox, as in file:///var/lib/depot (or SUIJURIS_DEPOT)
  --agent-socket PATH   the workload's own interface [default: DIR/run/agent.sock]
  --identify            print which object the volume --data holds [default: /data], as JSON, and end
  --link-fd N           socket to the supervisor that starts the machine; it says all of the above
  --inlet-fd N          socket over which later supervisors come, where the machine may outlive the first; without --link-fd the
                        first comes there too, over a stream that carries bytes alone, as in a virtual machine
  --standby-fd N        socket over which a machine is assigned to this program, which is started ahead and waits there; the
                        arguments that it goes on with come along, among them one of the two above
  --help, --version

Environment of --resident besides: SUIJURIS_TICKET, by which an empty volume gets its object; FLY_APP_NAME, FLY_MACHINE_ID,
FLY_REGION, as platforms of that kind set them.

Exit codes: 0 asleep by its own decision, 1 refused, 2 usage, 3 broken input or environment,
            4 stopped by the host without a decision of the object; with --resident 0 for these three, so that a
            platform that restarts on failure lets it rest
";

/// How the runtime was started.
#[derive(Debug)]
pub enum Start {
    /// By a supervisor, which says everything else over this link.
    Linked {
        /// The link; where there is none, the first that arrives at the inlet.
        link: Option<RawFd>,
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
    /// What it is told where it carries its object itself.
    pub own: Option<OwnMachine>,
}

/// What a machine is told that carries an object by itself.
#[derive(Debug)]
pub struct OwnMachine {
    /// What the image has of ours; see [`crate::resident::files`].
    pub files: PathBuf,
    /// The volume.
    pub volume: PathBuf,
    /// The owners' word by which an empty volume gets its object.
    pub ticket: Option<String>,
    /// The platform's socket.
    pub platform: PathBuf,
    /// How long it answers at least where it refuses.
    pub stay: Duration,
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Asked {
    /// Run.
    Run(Start),
    /// Wait for the machine that this process is to be, at this socket.
    StandBy(RawFd),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
    /// Say which object the volume holds.
    Identify(PathBuf),
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
    let text = |name: &str| environment(name).map(|text| text.to_string_lossy().into_owned());
    let mut stay = text("SUIJURIS_STAY");
    let mut identify = false;
    let (mut resident, mut platform) = (None, PathBuf::from(platform::SOCKET));
    let (mut listen_fd, mut link_fd, mut inlet, mut standby) = (None, None, None, None);
    let mut agent_socket = None;
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Asked::Help),
            Long("version") | Short('V') => return Ok(Asked::Version),
            Long("resident") => resident = Some(PathBuf::from(parser.value()?)),
            Long("platform") => platform = parser.value()?.into(),
            Long("stay") => stay = Some(parser.value()?.string()?),
            Long("identify") => identify = true,
            Long("data") => data = Some(parser.value()?.into()),
            Long("object") => object_dir = Some(parser.value()?.into()),
            Long("listen") => listen = Some(parser.value()?.string()?),
            Long("listen-fd") => listen_fd = Some(parser.value()?.parse()?),
            Long("link-fd") => link_fd = Some(parser.value()?.parse()?),
            Long("inlet-fd") => inlet = Some(parser.value()?.parse()?),
            Long("standby-fd") => standby = Some(parser.value()?.parse()?),
            Long("depot") => depot = Some(parser.value()?.string()?),
            Long("agent-socket") => agent_socket = Some(parser.value()?.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(number) = standby {
        return Ok(Asked::StandBy(number));
    }
    if link_fd.is_some() || inlet.is_some() {
        return Ok(Asked::Run(Start::Linked { link: link_fd, inlet }));
    }
    if identify {
        let volume = data.unwrap_or_else(|| VOLUME.into());
        return Ok(Asked::Identify(volume.join(founding::OBJECT)));
    }
    let own = resident.map(|files| {
        Ok::<_, UsageError>(OwnMachine {
            files,
            volume: data.take().unwrap_or_else(|| VOLUME.into()),
            ticket: text("SUIJURIS_TICKET").filter(|ticket| !ticket.is_empty()),
            platform,
            stay: stay.as_deref().map_or(Ok(STAY), seconds)?,
        })
    });
    let own = own.transpose()?;
    if let Some(own) = &own {
        data = Some(own.volume.join(founding::OBJECT));
        object_dir = object_dir.or_else(|| Some(own.files.join(files::OBJECT)));
        listen = listen.or_else(|| Some(LISTEN.to_owned()));
    }
    let data = data.ok_or(UsageError::NoData)?;
    let vehicle = match (&own, text(platform::MACHINE)) {
        (Some(_), Some(_)) => FLY,
        _ => VEHICLE,
    };
    let region = region.or_else(|| text("FLY_REGION").filter(|_| own.is_some()));
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
        host: host::here(vehicle, region.as_deref()),
        data,
        own,
    }))))
}

fn seconds(text: &str) -> Result<Duration, UsageError> {
    let number = text.parse().ok().filter(|seconds| *seconds <= MAX_STAY_S);
    let wrong = || format!("`{text}` is not a number of seconds, at most {MAX_STAY_S}");
    number
        .map(Duration::from_secs)
        .ok_or_else(|| UsageError::Value("--stay", wrong()))
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
            Ok(Asked::Run(Start::Linked {
                link: Some(3),
                inlet: None
            }))
        ));
        assert!(matches!(
            run(&["--link-fd", "3", "--inlet-fd", "4"]),
            Ok(Asked::Run(Start::Linked {
                link: Some(3),
                inlet: Some(4)
            }))
        ));
        assert!(matches!(
            run(&["--inlet-fd", "4"]),
            Ok(Asked::Run(Start::Linked {
                link: None,
                inlet: Some(4)
            }))
        ));
        assert!(matches!(run(&["--standby-fd", "16"]), Ok(Asked::StandBy(16))));
        assert!(matches!(run(&["--help"]), Ok(Asked::Help)));
    }

    #[test]
    fn a_machine_of_its_own_needs_to_be_told_nothing() {
        let Ok(Asked::Run(Start::Alone(alone))) = run(&["--resident", "/.suijuris"]) else {
            panic!("runs")
        };
        assert_eq!(alone.data, PathBuf::from("/data/object"));
        assert_eq!(alone.object_dir, PathBuf::from("/.suijuris/object"));
        assert_eq!(alone.own.as_ref().unwrap().stay, STAY);
        assert!(matches!(alone.listen, Listen::Address(address) if address.0.port() == 8474));
        assert!(run(&["--resident", "/x", "--stay", "soon"]).is_err());
        assert!(run(&["--resident", "/x", "--stay", "3601"]).is_err());
    }

    #[test]
    fn what_cannot_run_says_what_is_missing() {
        for arguments in [
            &["--listen", "127.0.0.1:0"][..],
            &["--data", "/d"],
            &["--data", "/d", "--listen", "here"],
            &["--link-fd", "three"],
            &["--link-fd"],
            &["--standby-fd", "here"],
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
