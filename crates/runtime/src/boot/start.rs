//! What the boot works from, whoever told it: a supervisor over its link, or arguments and environment.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use suijuris_core::key::PublicKey;
use suijuris_core::witness::HolderId;
use suijuris_link::launch::{DepotRoute, Listen, ServedAs, Unattended};
use suijuris_link::transport::Plain;
use suijuris_link::{Cause, Launch, LinkError, Nonce, RuntimeLink};
use suijuris_sys::descriptors;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::descriptor;
use crate::config::Alone;
use crate::supervision::{Attached, Identity, Successors};

/// How long a supervisor may take to say why it started the machine: it does so before it starts it.
const LAUNCH_WITHIN: Duration = Duration::from_secs(30);

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
    /// How the object is called among others of its host.
    pub(crate) served_as: Option<ServedAs>,
    /// Why it was started.
    pub(crate) cause: Cause,
}

impl Config {
    /// As the arguments say.
    pub(super) fn alone(alone: Alone) -> Result<Self, Error> {
        let listen = match alone.listen {
            Listen::Descriptor(number) => Listen::Descriptor(descriptor(number)?),
            Listen::Address(address) => Listen::Address(address),
            Listen::Link => Listen::Link,
        };
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
            served_as: None,
            cause: Cause::boot(alone.host),
        })
    }

    /// As the supervisor says.
    fn launched(launch: Launch<OwnedFd>) -> Result<Self, Error> {
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
            served_as: launch.served_as,
            cause: launch.cause,
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

/// The supervisor that starts this machine, what it says first, and the way in for later ones where the machine outlives
/// it.
pub(super) async fn linked(
    number: i32,
    inlet: Option<i32>,
) -> Result<(Attached, Config, Option<Successors>), Error> {
    let system = |error| Error::System("use its link", error);
    let end = descriptor(number)?;
    let nonce = Nonce::fresh().map_err(|error| system(std::io::Error::other(error)))?;
    let (link, driver) = if descriptors::is_unix_socket(end.as_fd()) {
        descriptors::set_nonblocking(end.as_fd()).map_err(system)?;
        let socket = UnixStream::from_std(end.into()).map_err(system)?;
        RuntimeLink::launched(socket, nonce)
    } else {
        RuntimeLink::launched(Plain::new(end).map_err(system)?, nonce)
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
    // Taken over in any case: nothing that this process starts is to inherit it.
    let inlet = inlet.map(descriptor).transpose()?;
    let successors = match launch.unattended {
        Unattended::Stop => None,
        Unattended::Serve => {
            let inlet = inlet.ok_or(Error::Unattended)?;
            let successors = Successors::new(inlet, identity);
            Some(successors.map_err(|error| Error::System("watch its inlet", error))?)
        }
    };
    Ok((Attached::new(link, tasks), Config::launched(launch)?, successors))
}
