//! What the boot works from, whoever told it: a supervisor over its link, or arguments and environment.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use suijuris_api::access::Detail;
use suijuris_core::bundle::Files;
use suijuris_core::codec;
use suijuris_core::inputs::Host;
use suijuris_core::key::PublicKey;
use suijuris_core::witness::HolderId;
use suijuris_link::launch::{DepotRoute, Image, Listen, ServedAs, Unattended};
use suijuris_link::transport::{Bytes, Plain};
use suijuris_link::{Cause, Driver, Launch, LinkError, Nonce, RuntimeLink};
use suijuris_store::Stamps;
use suijuris_sys::descriptors;
use suijuris_sys::link::Inlet;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::descriptor;
use crate::config::{Alone, OwnMachine};
use crate::resident::amending;
use crate::resident::files::{self, FilesError};
use crate::resident::platform::Platform;
use crate::supervision::{Attached, Identity, Successors};

/// How long a supervisor may take to say why it started the machine: it does so before it starts it.
const LAUNCH_WITHIN: Duration = Duration::from_secs(30);

/// Size of what says which files are verified, at most, bytes.
const MAX_STAMPS: usize = 4 << 20;

/// Why the runtime cannot run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An inherited descriptor is not one.
    #[error("descriptor {0} was not inherited: start the machine again")]
    Descriptor(i32),
    /// The gate's address.
    #[error("cannot listen on {0}: is the port in use?")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The supervisor and this runtime do not understand each other.
    #[error("the supervisor did not say how to run")]
    Link(#[source] LinkError),
    /// The supervisor says nothing.
    #[error("the supervisor did not say how to run within {} s", LAUNCH_WITHIN.as_secs())]
    Silent,
    /// It is to go on where nobody is at the other end, and nobody could come.
    #[error(
        "a machine that outlives its supervisor needs a way in for the next one: start it with --inlet-fd"
    )]
    Unattended,
    /// What the image carries.
    #[error("the image cannot be used")]
    Image(#[from] FilesError),
    /// The object's files, in a machine that is a copy.
    #[error("the copied machine does not get the object's files: {0}")]
    Files(&'static str),
    /// Something of the system.
    #[error("the runtime cannot {0}")]
    System(&'static str, #[source] std::io::Error),
}

/// How to run.
#[derive(Debug)]
pub(crate) struct Config {
    /// The object's data directory.
    pub(crate) data: PathBuf,
    /// Directory that `{object}` stands for.
    pub(crate) object_dir: PathBuf,
    /// The workload's own interface.
    pub(crate) agent_socket: PathBuf,
    /// Where the gate takes connections from beside those that come over the link; none where all do.
    pub(crate) listener: Option<TcpListener>,
    /// The way to the depot.
    pub(crate) depot: DepotRoute<OwnedFd>,
    /// Kept open to the end: whoever sees it held knows that this machine runs.
    pub(crate) presence: Option<OwnedFd>,
    /// The name under which whoever started the machine holds the object.
    pub(crate) holder: Option<HolderId>,
    /// The link says next what the claim of the object came to.
    pub(crate) granted: bool,
    /// The server that owners' requests are signed for.
    pub(crate) server: Option<PublicKey>,
    /// The lineage's files as whoever started the machine verified them whole.
    pub(crate) verified: Option<Stamps>,
    /// How the object is called among others of its host.
    pub(crate) served_as: Option<ServedAs>,
    /// The image that the machine has its files from.
    pub(crate) image: Option<Image>,
    /// Where the object may move to of its own accord.
    pub(crate) places: Vec<Host>,
    /// What is told of each request.
    pub(crate) requests: Option<Detail>,
    /// The machine's network is its own, and the bundle says what is reached all the same.
    pub(crate) egress: bool,
    /// Why it was started.
    pub(crate) cause: Cause,
    /// What it carries, where nobody else sees to its object.
    pub(crate) own: Option<Own>,
}

/// What a machine is that carries its object by itself.
#[derive(Debug)]
pub(crate) struct Own {
    /// The volume.
    pub(crate) volume: PathBuf,
    /// The definition in the image.
    pub(crate) bundle: Files,
    /// The owners' word by which an empty volume gets its object.
    pub(crate) ticket: Option<String>,
    /// What they signed of the definition, where another is in force.
    pub(crate) amend: Option<String>,
    /// The depot, by its address.
    pub(crate) depot: Option<String>,
    /// Where the platform's socket is to be.
    pub(crate) socket: PathBuf,
    /// What carries the machine, where it can be asked.
    pub(crate) platform: Option<Platform>,
    /// Until when it answers at least where it refuses.
    pub(crate) stays_until: Instant,
}

impl Own {
    fn of(own: OwnMachine, depot: Option<String>) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        Ok(Self {
            bundle: files::bundle(&own.files)?,
            volume: own.volume,
            ticket: own.ticket,
            amend: variable(amending::APPROVALS),
            depot,
            platform: Platform::at(&own.platform, variable),
            socket: own.platform,
            stays_until: Instant::now() + own.stay,
        })
    }

    /// How much longer it answers at least where it refuses.
    pub(crate) fn stays(&self) -> Duration {
        self.stays_until.saturating_duration_since(Instant::now())
    }
}

impl Config {
    /// As the arguments say.
    pub(super) fn alone(alone: Alone) -> Result<Self, Error> {
        let listen = match alone.listen {
            Listen::Descriptor(number) => Listen::Descriptor(descriptor(number)?),
            Listen::Address(address) => Listen::Address(address),
            Listen::Link => Listen::Link,
        };
        let image = match &alone.own {
            Some(own) => files::image(&own.files)?,
            None => None,
        };
        let own = alone
            .own
            .map(|own| Own::of(own, alone.depot.clone()))
            .transpose()?;
        Ok(Self {
            data: alone.data,
            object_dir: alone.object_dir,
            agent_socket: alone.agent_socket,
            listener: listener(listen)?,
            depot: alone.depot.map_or(DepotRoute::None, DepotRoute::Url),
            presence: None,
            holder: None,
            granted: false,
            server: None,
            verified: None,
            served_as: None,
            image,
            places: Vec::new(),
            requests: None,
            egress: false,
            cause: Cause::boot(alone.host),
            own,
        })
    }

    /// As the supervisor says.
    pub(super) fn launched(launch: Launch<OwnedFd>) -> Result<Self, Error> {
        Ok(Self {
            data: launch.data,
            object_dir: launch.object_dir,
            agent_socket: launch.agent_socket,
            listener: listener(launch.listen)?,
            depot: launch.depot,
            presence: launch.presence,
            holder: launch.holder,
            granted: launch.granted,
            server: launch.server,
            // What cannot be read says nothing.
            verified: launch
                .verified
                .and_then(|stamps| codec::decode(&stamps, MAX_STAMPS).ok()),
            served_as: launch.served_as,
            image: launch.image,
            places: launch.places,
            requests: launch.requests,
            egress: launch.egress,
            cause: launch.cause,
            own: None,
        })
    }
}

/// The gate's own listener, where it has one.
fn listener(listen: Listen<OwnedFd>) -> Result<Option<TcpListener>, Error> {
    Ok(match listen {
        Listen::Descriptor(descriptor) => Some(TcpListener::from(descriptor)),
        Listen::Address(address) => {
            let bound = TcpListener::bind(address.0);
            Some(bound.map_err(|error| Error::Listen(address.0, error))?)
        }
        Listen::Link => None,
    })
}

/// The link over an inherited descriptor.
fn over(end: OwnedFd, nonce: Nonce) -> std::io::Result<(RuntimeLink, Driver)> {
    if descriptors::is_unix_socket(end.as_fd()) {
        descriptors::set_nonblocking(end.as_fd())?;
        let socket = UnixStream::from_std(end.into())?;
        return Ok(RuntimeLink::launched(socket, nonce));
    }
    Ok(RuntimeLink::launched(Plain::new(end)?, nonce))
}

/// The supervisor that starts this machine, what it says first, and the way in for later ones where the machine outlives
/// it.
pub(super) async fn linked(
    number: Option<i32>,
    inlet: Option<i32>,
) -> Result<(Attached, Config, Option<Successors>), Error> {
    let system = |error| Error::System("use its link", error);
    // Taken over in any case: nothing that this process starts is to inherit it.
    let inlet = inlet.map(descriptor).transpose()?;
    let inlet = inlet.map(Inlet::new).transpose().map_err(system)?;
    let nonce = Nonce::fresh().map_err(|error| system(std::io::Error::other(error)))?;
    let (link, driver) = match (number, &inlet) {
        (Some(number), _) => over(descriptor(number)?, nonce).map_err(system)?,
        (None, Some(inlet)) => {
            let first = tokio::time::timeout(LAUNCH_WITHIN, inlet.accept()).await;
            let first = first.map_err(|_late| Error::Silent)?.map_err(system)?;
            let first = first.ok_or(Error::Link(LinkError::Closed))?;
            first.set_nonblocking(true).map_err(system)?;
            // Whoever carries it here carries bytes alone.
            let bytes = Bytes(UnixStream::from_std(first).map_err(system)?);
            RuntimeLink::launched(bytes, nonce)
        }
        (None, None) => return Err(Error::Silent),
    };
    let mut tasks = JoinSet::new();
    // How it ended is for whoever receives.
    tasks.spawn_local(async { drop(driver.await) });
    let launch = tokio::time::timeout(LAUNCH_WITHIN, link.first()).await;
    let launch = launch.map_err(|_late| Error::Silent)?.map_err(Error::Link)?;
    let identity = Identity {
        activation: launch.activation,
        secret: launch.secret.clone(),
    };
    let successors = match launch.unattended {
        Unattended::Stop => None,
        Unattended::Serve => {
            let inlet = inlet.ok_or(Error::Unattended)?;
            Some(Successors::new(inlet, identity, number.is_some()))
        }
    };
    Ok((Attached::new(link, tasks), Config::launched(launch)?, successors))
}
