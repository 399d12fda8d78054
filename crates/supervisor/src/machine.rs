//! The machine of one activation: the runtime as its first program, and the link to it.

pub(crate) mod copied;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::lineage::Refused;
use suijuris_core::manifest;
use suijuris_custody::chain;
use suijuris_custody::claim::LeaseGrant;
use suijuris_link::frame::StreamKind;
use suijuris_link::launch::{DepotRoute, Listen, ServedAs, Unattended};
use suijuris_link::message::Present;
use suijuris_link::transport::Bytes;
use suijuris_link::{ActivationId, Cause, Launch, LinkError, Nonce, Secret, SupervisorLink, ToSupervisor};
use suijuris_vehicle::{
    AttachError, Driver, Exit, Lifetime, Link, Machine as _, Mount, Network, Output, Program, Root, Spec,
    StartError, State,
};
use tokio::task::JoinSet;

use self::copied::{Begun, Frozen};
use crate::image::{self, ImageError, Places, Ready};
use crate::limits;
use crate::machine_notes::{MachineNote, MachineNotes};
use crate::paths::ObjectPaths;
use crate::services::{RuntimeProgram, Services};

/// Number of the link's socket inside the machine.
const LINK_FD: i32 = 3;

/// Number of the socket over which later supervisors come.
const INLET_FD: i32 = 4;

/// Number of the file by which a machine holds its image: as long as it runs, nothing of it is removed.
const IMAGE_FD: i32 = 5;

/// Time for a runtime to say how it is to a supervisor that attaches.
const PRESENT_WITHIN: Duration = Duration::from_secs(10);

/// A running machine and the link to its runtime.
pub(crate) struct Running<M> {
    pub(crate) machine: Arc<M>,
    pub(crate) link: SupervisorLink,
    /// Its image in words, where it has one and was started here.
    pub(crate) image: Option<String>,
    /// How often the machine was resumed.
    pub(crate) generation: u64,
    /// Refusals that the runtime was told to record and has not yet.
    pub(crate) told: BTreeMap<u64, Refused>,
    /// What it is noted by, where it outlives this process.
    pub(crate) note: Option<MachineNote>,
    /// Moves the link; ends with this.
    _moving: JoinSet<LinkError>,
    /// What the machine was not given itself.
    _outside: Option<Outside>,
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
    #[error("the workload's image cannot be run")]
    Image(#[from] ImageError),
    #[error("the machine cannot be started")]
    Start(#[from] StartError),
    #[error("the copied machine did not take the object's files: {0}")]
    Copy(String),
    #[error("its start was given up")]
    GivenUp,
    #[error("the machine that an earlier process left has ended")]
    Ended,
    #[error("the machine that an earlier process left cannot be found again")]
    Lost(#[from] AttachError),
    #[error("there is no way to the machine's runtime")]
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
    verified: Option<Vec<u8>>,
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
        verified: verified.map(Into::into),
        served_as,
        image: None,
        requests: None,
        egress: false,
        files: None,
        places: Vec::new(),
    })
}

/// The image of `workload`, if it has one; what the runtime has to know of it and of its places is put into `launch`.
async fn image<D: Driver>(
    services: &Services<D>,
    launch: &mut Launch<OwnedFd>,
    workload: &manifest::Workload,
) -> Result<Option<Ready>, NoMachine> {
    let Some(digest) = workload.image else {
        return Ok(None);
    };
    let places = Places {
        data: launch.data.clone(),
        object_dir: launch.object_dir.clone(),
        agent_socket: launch.agent_socket.clone(),
    };
    let (store, workload) = (services.images.clone(), workload.clone());
    let (runtime, vehicle) = (services.runtime.clone(), services.driver.describe().clone());
    let ready = tokio::task::spawn_blocking(move || {
        image::ready(store.as_ref(), digest, &workload, &places, (&runtime, &vehicle))
    });
    let ready = ready.await.map_err(|_ended| NoMachine::GivenUp)??;
    launch.data = image::DATA.into();
    launch.object_dir = image::DATA.into();
    launch.agent_socket = image::agent_socket(&launch.agent_socket);
    launch.image = Some(ready.told.clone());
    Ok(Some(ready))
}

/// Copies the files of an image, since overlayfs cannot be mounted here.
async fn copy(mut ready: Ready, data: PathBuf, why: String) -> Result<Ready, NoMachine> {
    let copied = tokio::task::spawn_blocking(move || {
        let (files, how) = image::copied(&ready.hold, &data)?;
        ready.root.files = files;
        ready.words = format!("{how}: {why}");
        Ok::<Ready, ImageError>(ready)
    });
    Ok(copied.await.map_err(|_ended| NoMachine::GivenUp)??)
}

/// Starts a machine. What its runtime has to know is said over the link, and waits there for it.
pub(crate) async fn start<D: Driver>(
    services: &Services<D>,
    object: ObjectId,
    mut launch: Launch<OwnedFd>,
    workload: &manifest::Workload,
    frozen: Option<Frozen>,
) -> Result<Running<D::Machine>, NoMachine> {
    let driver = &services.driver;
    if !driver.describe().descriptors {
        let why = match frozen {
            None => None,
            Some(frozen) => match copied::start(services, object, launch, frozen).await? {
                Begun::Copied(running) => return Ok(*running),
                Begun::Not(unused, why) => {
                    launch = *unused;
                    Some(why)
                }
            },
        };
        let mut running = start_apart(services, object, launch, workload).await?;
        running.image = running
            .image
            .into_iter()
            .chain(why)
            .reduce(|one, other| format!("{one}; {other}"));
        return Ok(running);
    }
    let data = launch.data.clone();
    let mut image = image(services, &mut launch, workload).await?;
    let private = workload.network == manifest::Network::Private && driver.describe().private_network;
    launch.egress = private && !workload.egress.is_empty();
    let (activation, secret) = (launch.activation, launch.secret.clone());
    let (ours, theirs) = UnixStream::pair().map_err(NoMachine::Link)?;
    let cwd = launch.object_dir.clone();
    let run = launch.agent_socket.parent().map(Path::to_owned);
    let kept: Vec<PathBuf> = [launch.data.clone(), launch.object_dir.clone()]
        .into_iter()
        .chain(run)
        .collect();
    ours.set_nonblocking(true).map_err(NoMachine::Link)?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(NoMachine::Link)?;
    let (link, moves) = SupervisorLink::launch(ours, launch, Nonce::fresh()?)?;
    let mut moving = JoinSet::new();
    moving.spawn_local(moves);
    let mut program = match &image {
        Some(image) => image.runtime.program.clone(),
        None => Program {
            exe: services.runtime.exe.clone(),
            argv: services.runtime.argv.clone(),
        },
    };
    let argv = &mut program.argv;
    argv.extend([OsString::from("--link-fd"), LINK_FD.to_string().into()]);
    let detached = services.machines.is_some();
    if detached {
        argv.extend([OsString::from("--inlet-fd"), INLET_FD.to_string().into()]);
    }
    let limited = limits::limited(&workload.limits, driver.describe());
    let mut env = environment();
    env.insert("SUIJURIS_LIMITED".into(), limited.as_a_whole.into());
    let theirs = OwnedFd::from(theirs);
    let spec = |image: Option<&Ready>| {
        let mut inherit = vec![(theirs.try_clone()?, LINK_FD)];
        if let Some(image) = image {
            inherit.push((image.hold.as_fd().try_clone_to_owned()?, IMAGE_FD));
        }
        // In an image nothing of the host is in view.
        let (hidden, kept) = match image {
            Some(_) => (Vec::new(), Vec::new()),
            None => ((services.private)(), kept.clone()),
        };
        std::io::Result::Ok(Spec {
            hidden,
            kept,
            mounts: image.map_or_else(Vec::new, |image| image.mounts.clone()),
            root: image.map_or(Root::Host, |image| Root::Image(image.root.clone())),
            owners: image.map_or_else(Vec::new, |image| image.owners.clone()),
            may_mount: driver.describe().mounts,
            env: env.clone(),
            resources: limited.resources,
            cwd: cwd.clone(),
            inherit,
            stdout: Output::Lines,
            stderr: Output::Lines,
            link: detached.then_some(INLET_FD),
            stands_by: image.is_none().then(|| stands_by(&services.runtime)),
            program: program.clone(),
            ..plain_spec(services, workload, program.exe.clone())
        })
    };
    let started = driver.start(spec(image.as_ref()).map_err(NoMachine::Link)?).await;
    let machine = match (started, image.take_if(|image| image.is_layered())) {
        // The store's file system would do, and the kernel refuses: a copy does without it.
        (Err(error), Some(ready)) if image::is_no_overlay(&error) => {
            image = Some(copy(ready, data, chain(&error)).await?);
            driver
                .start(spec(image.as_ref()).map_err(NoMachine::Link)?)
                .await?
        }
        (started, ready) => {
            image = ready.or(image);
            started?
        }
    };
    // The runtime has it now, and the link ends with it.
    drop(theirs);
    let words = image.map(|image| image.words);
    let notes = services.machines.as_ref();
    let note = notes.map(|notes| noted(notes, object, &machine, activation, secret));
    Ok(Running {
        machine: Arc::new(machine),
        link,
        image: words,
        generation: 0,
        told: BTreeMap::new(),
        note,
        _moving: moving,
        _outside: None,
    })
}

/// What the machine of a workload is, whatever object it is for.
fn plain_spec<D: Driver>(services: &Services<D>, workload: &manifest::Workload, exe: PathBuf) -> Spec {
    let private =
        workload.network == manifest::Network::Private && services.driver.describe().private_network;
    Spec {
        network: if private { Network::Private } else { Network::Host },
        lifetime: match services.machines {
            Some(_) => Lifetime::Detached,
            None => Lifetime::WithCaller,
        },
        ..Spec::new("object", exe)
    }
}

/// The runtime's arguments by which it stands by.
fn stands_by(runtime: &RuntimeProgram) -> Vec<OsString> {
    let own = runtime.argv.iter().cloned();
    own.chain(["--standby-fd".into()]).collect()
}

/// What the next machine of an object with this workload will be like, where its runtime can be started ahead.
pub(crate) fn next<D: Driver>(services: &Services<D>, workload: &manifest::Workload) -> Option<Spec> {
    let can = workload.image.is_none() && services.driver.describe().descriptors;
    can.then(|| Spec {
        stands_by: Some(stands_by(&services.runtime)),
        ..plain_spec(services, workload, services.runtime.exe.clone())
    })
}

/// Notes a machine that outlives this process.
fn noted(
    notes: &MachineNotes,
    object: ObjectId,
    machine: &impl suijuris_vehicle::Machine,
    activation: ActivationId,
    secret: Secret,
) -> MachineNote {
    let note = MachineNote {
        machine: machine.id().clone(),
        activation,
        secret,
        generation: 0,
    };
    // One that is not noted is killed by the next process, and its end recorded.
    let _ = notes.write(object, &note);
    note
}

/// What a machine is not given that no descriptor reaches: it is kept here for it, as long as it runs.
struct Outside {
    _presence: Option<OwnedFd>,
    /// Carries what the machine says to its depot.
    _depot: JoinSet<()>,
}

/// Starts a machine that no descriptor reaches and that has another file system: the object's data is a disk of its own there,
/// which comes back when the machine ends; its definition and its program are given to it. Its link and its way to the depot
/// are streams.
async fn start_apart<D: Driver>(
    services: &Services<D>,
    object: ObjectId,
    mut launch: Launch<OwnedFd>,
    workload: &manifest::Workload,
) -> Result<Running<D::Machine>, NoMachine> {
    let driver = &services.driver;
    let presence = launch.presence.take();
    launch.listen = Listen::Link;
    launch.egress = workload.network == manifest::Network::Private && !workload.egress.is_empty();
    let notes = services.machines.as_ref().filter(|_| driver.describe().detached);
    if notes.is_none() {
        // Nobody is there who could come later.
        launch.unattended = Unattended::Stop;
    }
    let (activation, secret) = (launch.activation, launch.secret.clone());
    let depot = depot_over_link(&mut launch);
    let given = given(&launch.data, &launch.object_dir, workload);
    let image = image(services, &mut launch, workload).await?;
    let (mut program, mounts) = match &image {
        Some(image) => (image.runtime.program.clone(), image.mounts.clone()),
        None => {
            let RuntimeProgram { exe, argv } = services.runtime.clone();
            (Program { exe, argv }, given)
        }
    };
    program
        .argv
        .extend([OsString::from("--inlet-fd"), INLET_FD.to_string().into()]);
    let limited = limits::limited(&workload.limits, driver.describe());
    let mut env = environment();
    env.insert("SUIJURIS_LIMITED".into(), limited.as_a_whole.into());
    let network = match workload.network {
        manifest::Network::Private => Network::Private,
        manifest::Network::Host => Network::Host,
    };
    let spec = Spec {
        root: image
            .as_ref()
            .map_or(Root::Host, |image| Root::Image(image.root.clone())),
        env,
        resources: limited.resources,
        mounts,
        network,
        stdout: Output::Lines,
        stderr: Output::Lines,
        link: Some(INLET_FD),
        lifetime: match notes {
            Some(_) => Lifetime::Detached,
            None => Lifetime::WithCaller,
        },
        program: program.clone(),
        ..Spec::new("object", program.exe)
    };
    let machine = driver.start(spec).await?;
    let note = notes.map(|notes| noted(notes, object, &machine, activation, secret));
    let stream = Bytes(machine.link().await?.stream);
    let (link, moves) = SupervisorLink::launch(stream, launch, Nonce::fresh()?)?;
    let mut moving = JoinSet::new();
    moving.spawn_local(moves);
    let carrying = carried_depot(&link, depot)?;
    Ok(Running {
        machine: Arc::new(machine),
        link,
        image: image.map(|image| image.words),
        generation: 0,
        told: BTreeMap::new(),
        note,
        _moving: moving,
        _outside: Some(Outside {
            _presence: presence,
            _depot: carrying,
        }),
    })
}

/// Leads the machine to its depot by a stream of its link; what that stream is to reach.
fn depot_over_link(launch: &mut Launch<OwnedFd>) -> Option<OwnedFd> {
    match std::mem::replace(&mut launch.depot, DepotRoute::None) {
        DepotRoute::Descriptor(depot) => {
            launch.depot = DepotRoute::Link;
            Some(depot)
        }
        other => {
            launch.depot = other;
            None
        }
    }
}

/// Carries that stream.
fn carried_depot(link: &SupervisorLink, depot: Option<OwnedFd>) -> Result<JoinSet<()>, NoMachine> {
    let mut carrying = JoinSet::new();
    if let Some(depot) = depot {
        let depot = UnixStream::from(depot);
        depot.set_nonblocking(true).map_err(NoMachine::Link)?;
        let depot = tokio::net::UnixStream::from_std(depot).map_err(NoMachine::Link)?;
        carrying.spawn_local(carry_depot(link.clone(), depot));
    }
    Ok(carrying)
}

/// What a machine with a file system of its own is given of this host's.
fn given(data: &Path, object_dir: &Path, workload: &manifest::Workload) -> Vec<Mount> {
    let read = |path: PathBuf| Mount::Bind {
        from: path.clone(),
        to: path,
        read_only: true,
    };
    let mut mounts = vec![Mount::Bind {
        from: data.to_owned(),
        to: data.to_owned(),
        read_only: false,
    }];
    if object_dir != data {
        mounts.push(read(object_dir.to_owned()));
    }
    mounts.extend(program(object_dir, workload).map(read));
    mounts
}

/// The workload's program on this host, which is given to the machine with the libraries that it is linked with.
fn program(object_dir: &Path, workload: &manifest::Workload) -> Option<PathBuf> {
    let name = workload
        .argv
        .first()?
        .replace("{object}", &object_dir.to_string_lossy());
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(&name))
        .find(|path| path.is_absolute() && path.is_file())
}

/// Carries the one stream that a runtime opens to its depot.
async fn carry_depot(link: SupervisorLink, mut depot: tokio::net::UnixStream) {
    if let Some(mut stream) = link.accept(StreamKind::Depot).await {
        // What breaks it is found out at both ends.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut depot).await;
    }
}

impl<M> Running<M> {
    /// The way of a machine that was taken over to its depot: what is at the other end of `socket` serves it.
    pub(crate) fn depot_route(&mut self, passes_descriptors: bool, socket: OwnedFd) -> DepotRoute<OwnedFd> {
        if passes_descriptors {
            return DepotRoute::Descriptor(socket);
        }
        let stream = UnixStream::from(socket);
        let Ok(depot) = stream
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(stream))
        else {
            return DepotRoute::None;
        };
        let mut carrying = JoinSet::new();
        carrying.spawn_local(carry_depot(self.link.clone(), depot));
        self._outside = Some(Outside {
            _presence: None,
            _depot: carrying,
        });
        DepotRoute::Link
    }
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
    let Link {
        stream,
        passes_descriptors,
    } = machine.link().await?;
    let (activation, secret, nonce) = (note.activation, note.secret.clone(), Nonce::fresh()?);
    let (link, moves) = match passes_descriptors {
        true => SupervisorLink::attach(stream, activation, secret, nonce),
        false => SupervisorLink::attach(Bytes(stream), activation, secret, nonce),
    };
    let mut moving = JoinSet::new();
    moving.spawn_local(moves);
    let mut running = Running {
        machine: Arc::new(machine),
        link,
        image: None,
        generation: note.generation,
        told: BTreeMap::new(),
        note: Some(note),
        _moving: moving,
        _outside: None,
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
