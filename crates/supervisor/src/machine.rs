//! The machine of one activation: the runtime as its first program, and the link to it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use suijuris_core::lineage::Refused;
use suijuris_core::manifest;
use suijuris_custody::claim::LeaseGrant;
use suijuris_link::launch::{DepotRoute, Listen, Unattended};
use suijuris_link::{ActivationId, Cause, Launch, LinkError, Nonce, Secret, SupervisorLink};
use suijuris_vehicle::{Driver, Network, Output, Program, Spec, StartError};
use tokio::task::JoinSet;

use crate::paths::ObjectPaths;
use crate::services::Services;

/// Number of the link's socket inside the machine.
const LINK_FD: i32 = 3;

/// A running machine and the link to its runtime.
pub(crate) struct Running<M> {
    pub(crate) machine: Arc<M>,
    pub(crate) link: SupervisorLink,
    /// How often the machine was resumed.
    pub(crate) generation: u64,
    /// Refusals that the runtime was told to record and has not yet.
    pub(crate) told: BTreeMap<u64, Refused>,
    /// Moves the link; ends with this.
    _moving: JoinSet<LinkError>,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoMachine {
    #[error("the system provides no randomness")]
    Random(#[from] getrandom::Error),
    #[error("no link to the machine can be made")]
    Link(#[source] std::io::Error),
    #[error("the launch is too large for the link")]
    Launch(#[from] suijuris_link::mux::QueueError),
    #[error("the records before it are not durable")]
    Record(#[from] suijuris_store::StageError),
    #[error("the machine cannot be started")]
    Start(#[from] StartError),
    #[error("its start was given up")]
    GivenUp,
}

/// Where the runtime takes connections from.
#[derive(Debug)]
pub enum Front {
    /// The object has this socket to itself, and its runtime accepts there while it is awake.
    Own(TcpListener),
    /// The supervisor accepts for many objects, and hands connections over.
    Shared,
}

/// What its runtime has to know.
pub(crate) fn launch(
    paths: &ObjectPaths,
    front: &Front,
    (cause, server): (Cause, suijuris_core::key::PublicKey),
    grant: LeaseGrant,
) -> Result<Launch<OwnedFd>, NoMachine> {
    let held = grant.presence.as_ref().and_then(|held| held.descriptor());
    let listen = match front {
        Front::Own(listener) => Listen::Descriptor(listener.try_clone().map_err(NoMachine::Link)?.into()),
        Front::Shared => Listen::Link,
    };
    Ok(Launch {
        secret: Secret::fresh()?,
        activation: ActivationId::fresh()?,
        cause,
        data: paths.data.clone(),
        object_dir: paths.object_dir.clone().unwrap_or_else(|| paths.data.clone()),
        agent_socket: paths.agent_socket(),
        listen,
        depot: grant.relay.map_or(DepotRoute::None, DepotRoute::Descriptor),
        unattended: Unattended::Stop,
        presence: held
            .map(|held| held.try_clone_to_owned())
            .transpose()
            .map_err(NoMachine::Link)?,
        holder: grant.holder,
        // Nothing begins in it before the hand-over.
        granted: true,
        server: Some(server),
    })
}

/// Starts a machine. What its runtime has to know is said over the link, and waits there for it.
pub(crate) async fn start<D: Driver>(
    services: &Services<D>,
    launch: Launch<OwnedFd>,
    wanted: manifest::Network,
) -> Result<Running<D::Machine>, NoMachine> {
    let (ours, theirs) = UnixStream::pair().map_err(NoMachine::Link)?;
    let cwd = launch.object_dir.clone();
    ours.set_nonblocking(true).map_err(NoMachine::Link)?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(NoMachine::Link)?;
    let (link, moves) = SupervisorLink::launch(ours, launch, Nonce::fresh()?)?;
    let mut moving = JoinSet::new();
    moving.spawn_local(moves);
    let runtime = &services.runtime;
    let mut argv = runtime.argv.clone();
    argv.extend([OsString::from("--link-fd"), LINK_FD.to_string().into()]);
    let driver = &services.driver;
    let private = wanted == manifest::Network::Private && driver.describe().private_network;
    let spec = Spec {
        program: Program::Command {
            exe: runtime.exe.clone(),
            argv,
        },
        env: environment(),
        cwd,
        inherit: vec![(theirs.into(), LINK_FD)],
        network: if private { Network::Private } else { Network::Host },
        stdout: Output::Lines,
        stderr: Output::Lines,
        ..Spec::new("object", runtime.exe.clone())
    };
    let machine = driver.start(spec).await?;
    Ok(Running {
        machine: Arc::new(machine),
        link,
        generation: 0,
        told: BTreeMap::new(),
        _moving: moving,
    })
}

/// What the runtime sees of the environment; the workload gets less.
fn environment() -> BTreeMap<OsString, OsString> {
    let kept = ["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE"];
    kept.iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect()
}
