//! The bundle manifest: an object's definition, immutable and content-addressed.
//!
//! The manifest names everything else in the bundle by digest (governance text, decision program), so that its CID,
//! the `BundleId`, stands for the whole. Authoring (`object.toml`) is in the bundle crate; this is what machines read.

pub mod egress;
mod faults;
mod machine;
pub mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use egress::Destination;
pub use machine::{HostMount, MIN_BYTES, UseLimits};

use crate::class::Class;
use crate::codec;
use crate::id::{BlobId, BundleId, Digest, ObjectId};
use crate::memory::{Kind, Name, Schema};
use crate::rates::Rate;
use crate::time::Span;
use crate::trigger::{ScheduleError, Triggers};

/// Version of the manifest's format.
pub const VERSION: u32 = 1;

/// Size of an encoded manifest at most, bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Digest of the manifest of the OCI image that the command lives in; absent for a command of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Program and arguments. When it is spawned, `{port}` is replaced by the port, `{data}` by the object's data
    /// directory, `{object}` by the directory of `object.toml`; so in `env` and `cwd`. Empty: the image's own entrypoint and
    /// command.
    pub argv: Vec<String>,
    /// Environment in addition to that of the image, and to `PATH`, `HOME`, `PORT`, `SUIJURIS_AGENT_SOCKET`, `SUIJURIS_DATA`, `SUIJURIS_OBJECT`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Further variables, whose values are secrets: the field of memory for each, a `string` with `secret`. Left out of the
    /// bytes where there are none. `{secret_file:FIELD}` in `argv` and `env` is replaced by the path of a file with that secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_env: BTreeMap<String, Name>,
    /// Working directory; where absent that of the image, or without one the object's data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User to run as; where absent that of the image, or without one the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// TCP port on loopback that the workload listens on; `0`: the runtime picks a free one and says it by `{port}`.
    pub port: u16,
    /// How the runtime knows that the workload can serve.
    pub ready: Ready,
    /// Time from spawn to ready at most.
    pub ready_within: Span,
    /// How the runtime knows that it still can; left out of the bytes where it is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// Signal that asks the workload to stop, by number; 0: the image's own.
    pub stop_signal: i32,
    /// Time from that signal to SIGKILL.
    pub stop_within: Span,
    /// Network of the machine.
    pub network: Network,
    /// What it may reach all the same where that is private; left out of the bytes where there is nothing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub egress: BTreeSet<Destination>,
    /// What it may use up; left out of the bytes where nothing is limited.
    #[serde(default, skip_serializing_if = "UseLimits::is_none")]
    pub limits: UseLimits,
    /// What of its host it sees besides; left out of the bytes where that is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<HostMount>,
    /// Whether the rest of its host's files is read-only for it; left out of the bytes where it is.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub read_only: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_yes(flag: &bool) -> bool {
    *flag
}

/// How the runtime knows that the workload can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ready {
    /// The port accepts a connection.
    Tcp,
    /// A GET of this path is answered with a status below 500.
    Http(String),
    /// The workload says so over the agent socket.
    Agent,
    /// As soon as it runs: a workload that serves nobody.
    Spawned,
    /// The workload says so to the socket in `NOTIFY_SOCKET`, as `sd_notify(3)` does.
    Notify,
    /// This program, with its arguments, ends with status 0.
    Command(Vec<String>),
}

/// How the runtime knows that a workload that was ready still can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// The question: `tcp`, `http` and `command` are asked, by `notify` the workload says so itself (`WATCHDOG=1`).
    pub by: Ready,
    /// Time between two questions, and for the answer to one; by `notify` between two words at most.
    pub every: Span,
    /// Answers missing one after the other until it is ended.
    pub failures: u32,
}

/// What the machine's network reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A network of its own with nothing but loopback: nobody reaches the workload but the gate, and it reaches
    /// what [`Workload::egress`] names.
    Private,
    /// The host's network: the workload can call out; its port is on loopback, where other local users can reach it.
    Host,
}

/// What the gate speaks to the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 to the workload; HTTP/1.1, HTTP/2 and WebSocket from outside. Every request is decided.
    Http,
    /// HTTP/2 without TLS to the workload. Every request is decided.
    H2c,
    /// Bytes. Every connection is decided.
    Tcp,
    /// The connection itself is handed to the workload over a Unix socket; every connection is decided.
    #[serde(rename = "handover")]
    FdPassing,
}

/// The gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Protocol.
    pub protocol: Protocol,
    /// Request headers that rules may look at, lower case.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Requests held at most while the object wakes.
    pub max_held: u32,
    /// How long a request is held at most.
    pub hold: Span,
    /// Connections open at most.
    pub max_connections: u32,
    /// How long requests in flight may take when the object goes to sleep.
    pub drain: Span,
    /// How long a refused machine stays to answer the burst that woke it.
    pub linger: Span,
    /// The object itself answers callers below `/.suijuris/`; left out of the bytes where it does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub api: bool,
    /// Origins whose pages may read the gate's own answers, or `*`; left out of the bytes where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cors: Vec<String>,
}

/// A key that callers' tokens are verified against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerKey {
    /// Key id of the token header; where absent the key is tried for every token of its algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Algorithm: a token of another is refused whatever its header says.
    pub algorithm: Algorithm,
    /// Public key in PEM (SPKI).
    pub pem: String,
    /// Issuer that the token must name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Audience that the token must name; the object's id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// Signature algorithms of caller tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

/// Where requests go that are for another object; see `Manifest::elsewhere`. One of `app`, `region` and `instance` at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The object that lives there.
    pub object: ObjectId,
    /// The app of its machine; this one's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Regions of its machine, in order, parted by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Whether it is said in the body, as JSON, and not in a header.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub json: bool,
}

/// What becomes of the machine while the object sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SleepMode {
    /// It stops; nothing of it is left in RAM.
    Stop,
    /// It is suspended with its RAM.
    Suspend,
}

/// How much the object relies on a witness outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// Asked where there is one.
    Optional,
    /// No wake without one.
    Required,
}

/// How long a renewal at the witness holds where the manifest does not say: an outage of some seconds goes unnoticed, and
/// after a crash another copy waits less than a quarter of a minute.
pub const LEASE: Span = Span(10_000);

const fn lease() -> Span {
    LEASE
}

fn is_lease(lease: &Span) -> bool {
    *lease == LEASE
}

fn is_no_grace(grace: &Span) -> bool {
    *grace == Span(0)
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub v: u32,
    /// Name for people: a DNS label.
    pub name: String,
    /// What runs.
    pub workload: Workload,
    /// The gate.
    pub gate: Gate,
    /// Memory fields.
    pub memory: Schema,
    /// Digest of the Cedar text.
    pub governance: BlobId,
    /// Digest of the decision program that the text compiles to.
    pub program: BlobId,
    /// What proposes a wake.
    pub triggers: Triggers,
    /// Keys that callers' tokens are verified against.
    #[serde(default)]
    pub callers: Vec<CallerKey>,
    /// Claims of callers' tokens that rules may look at.
    #[serde(default)]
    pub claims: BTreeMap<Name, Kind>,
    /// Rates of requests that rules may look at; left out of the bytes where there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<Name, Rate>,
    /// What becomes of the machine while the object sleeps.
    pub sleep: SleepMode,
    /// How much the object relies on a witness.
    pub witness: Witness,
    /// How long a renewal at the witness holds, 1 s to 5 min; left out of the bytes where it is [`LEASE`].
    #[serde(default = "lease", skip_serializing_if = "is_lease")]
    pub lease: Span,
    /// How long the object may serve on when its lease could not be renewed, at most 5 min, with an optional witness only.
    /// Other copies wait for it as for the lease.
    #[serde(default, skip_serializing_if = "is_no_grace")]
    pub grace: Span,
    /// What makes the bundle a template of which objects are founded; absent for a bundle of one object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Where requests for these hosts go, in canonical form, on a platform whose proxy replays; left out of the bytes where
    /// there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<String, Place>,
    /// Whether children may begin with the memory of its suspended machine, secrets of its workload included; left out of the bytes
    /// where not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warm_forks: bool,
    /// A signed record follows each mutation after this time at the latest; zero signs each mutation.
    pub seal_within: Span,
}

/// Why a manifest is not one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the canonical bytes of a manifest.
    #[error("the bundle manifest cannot be read; build the bundle again")]
    Encoding(#[from] codec::Error),
    /// Of a later format.
    #[error(
        "the bundle manifest has version {0}, this program reads version {VERSION}; use a newer suijuris"
    )]
    Version(u32),
    /// A part out of bounds.
    #[error("{part}: {why}")]
    Part {
        /// Which part, as `object.toml` names it.
        part: &'static str,
        /// What is wrong and what is right.
        why: String,
    },
    /// A timer that cannot be used.
    #[error("timer `{0}`")]
    Timer(Name, #[source] ScheduleError),
}

impl Manifest {
    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, codec::Error> {
        codec::encode(self)
    }

    /// Reads a manifest and checks every part; the id is that of the bytes.
    ///
    /// # Errors
    /// The first [`Error`] found.
    pub fn decode(bytes: &[u8]) -> Result<(BundleId, Self), Error> {
        let manifest: Self = codec::decode(bytes, MAX_BYTES)?;
        if manifest.v != VERSION {
            return Err(Error::Version(manifest.v));
        }
        match manifest.faults().into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok((BundleId::of(bytes), manifest)),
        }
    }
}

/// Whether `name` is a DNS label that starts with a letter.
#[must_use]
pub fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= 63
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && name.bytes().all(inner)
        && !name.ends_with('-')
}
