//! Everything that a runtime has to know at its start. None of it stands in arguments or the environment, where whoever
//! may look at `/proc` would read it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;
use suijuris_api::access::Detail;
use suijuris_core::governance::TriggerKind;
use suijuris_core::id::Digest;
use suijuris_core::inputs::{Host, Principal, Request, Trigger};
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::Fired;
use suijuris_core::witness::HolderId;

use crate::identity::{ActivationId, Secret};
use crate::message::MessageError;

/// Why a machine was started or resumed: what its owner knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// What proposes the wake.
    pub trigger: Trigger,
    /// The request, for that trigger.
    pub request: Option<Request>,
    /// Who proposes, with what was shown of them.
    pub by: Principal,
    /// Timer occurrences that this wake deals with.
    pub fired: Fired,
    /// Where the machine runs.
    pub host: Host,
}

impl Cause {
    /// A machine on `host` that somebody just started.
    #[must_use]
    pub const fn boot(host: Host) -> Self {
        Self {
            trigger: Trigger::new(TriggerKind::Boot),
            request: None,
            by: Principal::Host,
            fired: Fired::new(),
            host,
        }
    }
}

/// An address with a port; its text where it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// Where the gate takes connections from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listen<D> {
    /// A listening socket.
    Descriptor(D),
    /// An address of the machine's own.
    Address(Address),
    /// Nowhere: each connection comes over the link.
    Link,
}

/// How the runtime reaches its depot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepotRoute<D> {
    /// There is none.
    None,
    /// A socket to one that the supervisor serves.
    Descriptor(D),
    /// A stream of the link, which the runtime opens, to one that the supervisor serves.
    Link,
    /// By itself.
    Url(String),
}

impl<D> DepotRoute<D> {
    pub(crate) fn map<E>(
        self,
        change: &mut impl FnMut(D) -> Result<E, MessageError>,
    ) -> Result<DepotRoute<E>, MessageError> {
        Ok(match self {
            Self::None => DepotRoute::None,
            Self::Descriptor(descriptor) => DepotRoute::Descriptor(change(descriptor)?),
            Self::Link => DepotRoute::Link,
            Self::Url(url) => DepotRoute::Url(url),
        })
    }
}

/// What the runtime does while no supervisor is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unattended {
    /// It stops, as if the host had asked.
    Stop,
    /// It goes on, until one attaches again.
    Serve,
}

/// A whole launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch<D> {
    /// Proves, when a supervisor attaches later, that it is ours, and to it that we are.
    pub secret: Secret,
    /// The activation, as in the hello.
    pub activation: ActivationId,
    /// Why.
    pub cause: Cause,
    /// The object's data directory, inside the machine.
    #[serde(with = "path")]
    pub data: PathBuf,
    /// The directory that `{object}` of the workload's command stands for.
    #[serde(with = "path")]
    pub object_dir: PathBuf,
    /// Where the workload's own interface is to be.
    #[serde(with = "path")]
    pub agent_socket: PathBuf,
    /// Where connections come from.
    pub listen: Listen<D>,
    /// The way to the depot.
    pub depot: DepotRoute<D>,
    /// What is done while nobody is at the other end.
    pub unattended: Unattended,
    /// Kept open as long as the machine runs: whoever sees it held knows that it does.
    pub presence: Option<D>,
    /// The name under which whoever starts the machine holds the object; it goes on under it.
    pub holder: Option<HolderId>,
    /// Whoever starts the machine claims the object beside its start; [`crate::ToRuntime::Granted`] follows.
    pub granted: bool,
    /// The server that owners' requests are signed for; none are heard without one.
    pub server: Option<PublicKey>,
    /// The files of the lineage as whoever starts the machine verified them whole, in the words of the store, opaque here; what
    /// has changed since is read again. Only where both have one kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<ByteBuf>,
    /// How the object is called, where whoever starts the machine serves others too; any host is its own without.
    pub served_as: Option<ServedAs>,
    /// The image that the machine has its files from; left out where they are the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Where the object may move to of its own accord, as rules see it; left out where there is no such place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Host>,
    /// What is told of each request; left out where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Detail>,
    /// The machine has a network of its own, and what the bundle lets its workload reach is reached by streams of the link; left out
    /// where not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub egress: bool,
    /// The machine is a copy of another one, which was suspended: so many files of the object follow as
    /// [`crate::ToRuntime::File`], in place of what its disk has, and [`crate::ToSupervisor::FilesWritten`] answers. Paths, the image and
    /// the network are those of that one. Left out where the machine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
}

/// What an image says of its program, as far as it applies to this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Entrypoint and command.
    pub argv: Vec<String>,
    /// Environment, each name once.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute.
    #[serde(with = "path")]
    pub cwd: PathBuf,
    /// What asks it to end, by number.
    pub stop_signal: i32,
    /// Whom the workload runs as: user, group, further groups. Numbers, since names are looked up by whoever starts the
    /// machine, in the image's own files.
    pub account: (u32, u32, Vec<u32>),
}

/// The hosts of an object among others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedAs {
    /// What hosts of objects end with.
    pub domain: String,
    /// Those of this one: canonical, without port.
    pub hosts: Vec<String>,
}

impl ServedAs {
    /// Whether a request for this canonical host is meant for another object.
    #[must_use]
    pub fn is_anothers(&self, host: &str) -> bool {
        let below = host
            .strip_suffix(self.domain.as_str())
            .is_some_and(|rest| rest.ends_with('.'));
        below && !self.hosts.iter().any(|own| own == host)
    }
}

impl<D> Launch<D> {
    pub(crate) fn map<E>(
        self,
        change: &mut impl FnMut(D) -> Result<E, MessageError>,
    ) -> Result<Launch<E>, MessageError> {
        let listen = match self.listen {
            Listen::Descriptor(descriptor) => Listen::Descriptor(change(descriptor)?),
            Listen::Address(address) => Listen::Address(address),
            Listen::Link => Listen::Link,
        };
        let depot = self.depot.map(change)?;
        Ok(Launch {
            secret: self.secret,
            activation: self.activation,
            cause: self.cause,
            data: self.data,
            object_dir: self.object_dir,
            agent_socket: self.agent_socket,
            listen,
            depot,
            unattended: self.unattended,
            presence: self.presence.map(change).transpose()?,
            holder: self.holder,
            granted: self.granted,
            server: self.server,
            verified: self.verified,
            served_as: self.served_as,
            image: self.image,
            places: self.places,
            requests: self.requests,
            egress: self.egress,
            files: self.files,
        })
    }
}

/// A path as the bytes that the system knows it by; not all are text.
mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize as _, Deserializer, Serializer};
    use serde_bytes::ByteBuf;

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(path.as_os_str().as_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let bytes = ByteBuf::deserialize(deserializer)?;
        Ok(PathBuf::from(OsString::from_vec(bytes.into_vec())))
    }
}
