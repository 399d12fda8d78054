//! The machine of one activation: the runtime as a process of its own, in namespaces where the host allows them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context as _;
use suijuris_api::Event;
use suijuris_core::key::PublicKey;
use suijuris_core::manifest;
use suijuris_custody::claim::LeaseGrant;
use suijuris_link::launch::{DepotRoute, Listen, Unattended};
use suijuris_link::{ActivationId, Cause, Launch, LinkError, Nonce, Secret, SupervisorLink};
use suijuris_vehicle::process::{Machine, Process};
use suijuris_vehicle::{Driver as _, Machine as _, Network, Output, Program, Since, Spec};
use tokio::task::JoinSet;

use crate::event_printer::EventPrinter;
use crate::object_paths::ObjectPaths;

/// Number of the link's socket inside the machine.
const LINK_FD: i32 = 3;

/// A running machine and the link to its runtime.
pub(super) struct Running {
    pub(super) machine: Machine,
    pub(super) link: SupervisorLink,
    /// Moves the link; ends with this.
    _driver: JoinSet<LinkError>,
}

/// Why a runtime did not know what it was asked, in words.
pub(super) fn another_version() -> String {
    let (program, _) = runtime();
    format!(
        "the runtime `{}` is of another version than this program: build or install both together, or remove it",
        program.display()
    )
}

/// The program that is the runtime, and its first arguments: a static `suijuris-init` beside this program, or this
/// program itself.
fn runtime() -> (PathBuf, Vec<OsString>) {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|dir| dir.join("suijuris-init")));
    match beside.filter(|path| path.is_file()) {
        Some(path) => (path, vec!["suijuris-init".into()]),
        None => (
            PathBuf::from("/proc/self/exe"),
            vec!["suijuris".into(), "__init".into()],
        ),
    }
}

/// Starts a machine for the object of `place`. What its runtime has to know is said over the link, and waits there for it.
pub(super) async fn start(
    driver: &Process,
    place: &ObjectPaths,
    listener: &TcpListener,
    wanted: manifest::Network,
    (cause, server): (Cause, PublicKey),
    grant: LeaseGrant,
) -> anyhow::Result<Running> {
    let (ours, theirs) = UnixStream::pair().context("no link to the machine can be made")?;
    let launch = launch(place, listener, (cause, server), grant)?;
    let cwd = launch.object_dir.clone();
    ours.set_nonblocking(true)?;
    let ours = tokio::net::UnixStream::from_std(ours)?;
    let (link, moves) = SupervisorLink::launch(ours, launch, Nonce::fresh().context(NO_RANDOMNESS)?)?;
    let mut moving = JoinSet::new();
    moving.spawn_local(moves);
    let (exe, mut argv) = runtime();
    argv.extend([OsString::from("--link-fd"), LINK_FD.to_string().into()]);
    let private = wanted == manifest::Network::Private && driver.describe().private_network;
    let spec = Spec {
        program: Program::Command {
            exe: exe.clone(),
            argv,
        },
        env: environment(),
        cwd,
        inherit: vec![(theirs.into(), LINK_FD)],
        network: if private { Network::Private } else { Network::Host },
        stdout: Output::Lines,
        stderr: Output::Lines,
        ..Spec::new("object", exe)
    };
    let machine = driver
        .start(spec)
        .await
        .context("the machine cannot be started")?;
    Ok(Running {
        machine,
        link,
        _driver: moving,
    })
}

const NO_RANDOMNESS: &str = "the system gives no randomness";

fn launch(
    place: &ObjectPaths,
    listener: &TcpListener,
    (cause, server): (Cause, PublicKey),
    grant: LeaseGrant,
) -> anyhow::Result<Launch<OwnedFd>> {
    let held = grant.presence.as_ref().and_then(|held| held.descriptor());
    Ok(Launch {
        secret: Secret::fresh().context(NO_RANDOMNESS)?,
        activation: ActivationId::fresh().context(NO_RANDOMNESS)?,
        cause,
        data: place.data.clone(),
        object_dir: place.object_dir.clone().unwrap_or_else(|| place.data.clone()),
        agent_socket: place.agent_socket(),
        listen: Listen::Descriptor(listener.try_clone()?.into()),
        depot: grant.relay.map_or(DepotRoute::None, DepotRoute::Descriptor),
        // Machines of `up` end with it.
        unattended: Unattended::Stop,
        presence: held.map(|held| held.try_clone_to_owned()).transpose()?,
        holder: grant.holder,
        granted: grant.holder.is_some(),
        server: Some(server),
    })
}

/// What the runtime sees of the environment; the workload gets less.
fn environment() -> BTreeMap<OsString, OsString> {
    let kept = ["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE"];
    kept.iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect()
}

impl Running {
    /// Prints what machine and workload write, line by line; the task ends with the machine.
    pub(super) fn forward_output(&self, say: &Rc<EventPrinter>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Ok(mut lines) = self.machine.output(Since::Kept) {
            let say = say.clone();
            tasks.spawn_local(async move {
                while let Some(line) = lines.next().await {
                    let line = line.text.trim_end().to_owned();
                    say.event(Event::Output { line });
                }
            });
        }
        tasks
    }
}
