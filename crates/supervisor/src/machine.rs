//! The machine of one activation: the runtime as its first program, and the link to it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::lineage::Refused;
use suijuris_core::manifest;
use suijuris_custody::claim::LeaseGrant;
use suijuris_link::launch::{DepotRoute, Listen, ServedAs, Unattended};
use suijuris_link::message::Present;
use suijuris_link::{ActivationId, Cause, Launch, LinkError, Nonce, Secret, SupervisorLink, ToSupervisor};
use suijuris_vehicle::{
    AttachError, Driver, Exit, Lifetime, Machine as _, Network, Output, Program, Spec, StartError, State,
};
use tokio::task::JoinSet;

use crate::limits;
use crate::machine_notes::MachineNote;
use crate::paths::ObjectPaths;
use crate::services::Services;

/// Number of the link's socket inside the machine.
const LINK_FD: i32 = 3;

/// Number of the socket over which later supervisors come.
const INLET_FD: i32 = 4;

/// Time for a runtime to say how it is to a supervisor that attaches.
const PRESENT_WITHIN: Duration = Duration::from_secs(10);

/// A running machine and the link to its runtime.
pub(crate) struct Running<M> {
    pub(crate) machine: Arc<M>,
    pub(crate) link: SupervisorLink,
    /// How often the machine was resumed.
    pub(crate) generation: u64,
    /// Refusals that the runtime was told to record and has not yet.
    pub(crate) told: BTreeMap<u64, Refused>,
    /// What it is noted by, where it outlives this process.
    pub(crate) note: Option<MachineNote>,
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
    #[error("the machine that an earlier process left has ended")]
    Ended,
    #[error("the machine that an earlier process left cannot be found again")]
    Lost(#[from] AttachError),
    #[error("there is no way to the runtime of the machine that an earlier process left")]
    Way(#[from] suijuris_vehicle::LinkError),
    #[error("the machine that an earlier process left was killed ({0}), since it cannot be taken over: {1}")]
    Attach(Exit, String),
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
    (unattended, served_as): (Unattended, Option<ServedAs>),
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
        unattended,
        presence: held
            .map(|held| held.try_clone_to_owned())
            .transpose()
            .map_err(NoMachine::Link)?,
        holder: grant.holder,
        // Nothing begins in it before the hand-over.
        granted: true,
        server: Some(server),
        served_as,
    })
}

/// Starts a machine. What its runtime has to know is said over the link, and waits there for it.
pub(crate) async fn start<D: Driver>(
    services: &Services<D>,
    object: ObjectId,
    launch: Launch<OwnedFd>,
    workload: &manifest::Workload,
) -> Result<Running<D::Machine>, NoMachine> {
    let (activation, secret) = (launch.activation, launch.secret.clone());
    let (ours, theirs) = UnixStream::pair().map_err(NoMachine::Link)?;
    let cwd = launch.object_dir.clone();
    let run = launch.agent_socket.parent().map(Path::to_owned);
    let kept = [launch.data.clone(), launch.object_dir.clone()]
        .into_iter()
        .chain(run)
        .collect();
    ours.set_nonblocking(true).map_err(NoMachine::Link)?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(NoMachine::Link)?;
    let (link, moves) = SupervisorLink::launch(ours, launch, Nonce::fresh()?)?;
    let mut moving = JoinSet::new();
    moving.spawn_local(moves);
    let runtime = &services.runtime;
    let mut argv = runtime.argv.clone();
    argv.extend([OsString::from("--link-fd"), LINK_FD.to_string().into()]);
    let detached = services.machines.is_some();
    if detached {
        argv.extend([OsString::from("--inlet-fd"), INLET_FD.to_string().into()]);
    }
    let driver = &services.driver;
    let limited = limits::limited(&workload.limits, driver.describe());
    let mut env = environment();
    env.insert("SUIJURIS_LIMITED".into(), limited.as_a_whole.into());
    let private = workload.network == manifest::Network::Private && driver.describe().private_network;
    let spec = Spec {
        hidden: (services.private)(),
        kept,
        may_mount: driver.describe().mounts,
        program: Program::Command {
            exe: runtime.exe.clone(),
            argv,
        },
        env,
        resources: limited.resources,
        cwd,
        inherit: vec![(theirs.into(), LINK_FD)],
        network: if private { Network::Private } else { Network::Host },
        stdout: Output::Lines,
        stderr: Output::Lines,
        link: detached.then_some(INLET_FD),
        lifetime: if detached {
            Lifetime::Detached
        } else {
            Lifetime::WithCaller
        },
        ..Spec::new("object", runtime.exe.clone())
    };
    let machine = driver.start(spec).await?;
    let note = services.machines.as_ref().map(|notes| {
        let note = MachineNote {
            machine: machine.id().clone(),
            activation,
            secret,
            generation: 0,
        };
        // One that is not noted is killed by the next process, and its end recorded.
        let _ = notes.write(object, &note);
        note
    });
    Ok(Running {
        machine: Arc::new(machine),
        link,
        generation: 0,
        told: BTreeMap::new(),
        note,
        _moving: moving,
    })
}

/// Takes over a machine that an earlier process started; how its object is, where that can be said.
pub(crate) async fn attach<D: Driver>(
    services: &Services<D>,
    note: MachineNote,
) -> Result<(Running<D::Machine>, Option<Present>), NoMachine> {
    let machine = services.driver.attach(&note.machine).await?;
    let state = machine.state();
    if let State::Exited(_) = state {
        return Err(NoMachine::Ended);
    }
    let stream = machine.link().await?.stream;
    let (link, moves) = SupervisorLink::attach(stream, note.activation, note.secret.clone(), Nonce::fresh()?);
    let mut moving = JoinSet::new();
    moving.spawn_local(moves);
    let mut running = Running {
        machine: Arc::new(machine),
        link,
        generation: note.generation,
        told: BTreeMap::new(),
        note: Some(note),
        _moving: moving,
    };
    // One that is suspended answers once it is resumed.
    if state == State::Suspended {
        return Ok((running, None));
    }
    match tokio::time::timeout(PRESENT_WITHIN, running.link.receive()).await {
        Ok(Ok(Some(ToSupervisor::Present(present)))) => {
            running.generation = present.generation;
            Ok((running, Some(*present)))
        }
        Ok(Err(error)) => Err(NoMachine::Attach(running.machine.kill().await, error.to_string())),
        Ok(Ok(_)) | Err(_) => {
            let why = "its runtime does not say how it is".to_owned();
            Err(NoMachine::Attach(running.machine.kill().await, why))
        }
    }
}

/// What the runtime sees of the environment; the workload gets less.
fn environment() -> BTreeMap<OsString, OsString> {
    let kept = ["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE"];
    kept.iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect()
}
