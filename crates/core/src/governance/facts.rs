//! Everything a decision may look at, borrowed: built per request without allocation.
//!
//! A section that an action has no use for stays `None`; a rule cannot name it there, since the Cedar schema lacks
//! it. Texts are borrowed from the request or the shell's own state.

use std::net::IpAddr;

use super::action::{PrincipalKind, Protocol, TriggerKind};
use crate::memory::{Cells, Value};
use crate::time::{Now, Span, Timestamp};

/// Who proposes.
#[derive(Debug, Clone, Copy)]
pub enum Principal<'a> {
    /// Whoever sent a request.
    Caller(Caller<'a>),
    /// The host and its scheduler.
    Host,
    /// A timer that the bundle declares; its name is in [`Trigger::name`].
    Timer,
    /// Another object, by id.
    Peer(&'a str),
    /// The owner, by the ids of the keys that signed.
    Controller(&'a [&'a str]),
    /// The program inside the machine.
    Workload,
    /// The object itself.
    Own,
}

/// What is known of a caller; all of it from a verified token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    /// Whether a token was verified. Without one all else is empty.
    pub authenticated: bool,
    /// `sub`.
    pub subject: Option<&'a str>,
    /// `iss`.
    pub issuer: Option<&'a str>,
    /// `aud`.
    pub audience: &'a [&'a str],
    /// `scope`, split at spaces.
    pub scopes: &'a [&'a str],
    /// Further claims by their position in the vocabulary.
    pub claims: &'a [Option<Value>],
}

impl Principal<'_> {
    /// The sort of this principal.
    #[must_use]
    pub const fn kind(&self) -> PrincipalKind {
        match self {
            Self::Caller(_) => PrincipalKind::Caller,
            Self::Host => PrincipalKind::Host,
            Self::Timer => PrincipalKind::Timer,
            Self::Peer(_) => PrincipalKind::Peer,
            Self::Controller(_) => PrincipalKind::Controller,
            Self::Workload => PrincipalKind::Workload,
            Self::Own => PrincipalKind::Own,
        }
    }

    /// The entity id in rules: a caller's subject (empty without one), a peer's object id, else the sort in lower
    /// case, as in `Host::"host"`.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Caller(caller) => caller.subject.unwrap_or(""),
            Self::Peer(id) => id,
            Self::Host => "host",
            Self::Timer => "timer",
            Self::Controller(_) => "controller",
            Self::Workload => "workload",
            Self::Own => "self",
        }
    }
}

/// The object itself, as it stands between two records.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// Object id.
    pub id: &'a str,
    /// Name from the bundle.
    pub name: &'a str,
    /// Memory; its schema is the vocabulary's.
    pub memory: &'a Cells,
    /// What lineage says.
    pub lineage: Lineage,
    /// Which instance of which class it is, if any.
    pub instance: Option<Instance<'a>>,
}

/// Which instance of which class an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance<'a> {
    /// Id of the class.
    pub class: &'a str,
    /// Its key in the class.
    pub key: &'a str,
}

/// How many instances there are, and how many are being founded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Founding {
    /// Instances so far.
    pub instances: i64,
    /// Instances at most.
    pub max_instances: i64,
    /// Instances founded for this peer in the last second.
    pub peer_rate: i64,
    /// Instances founded in the last second.
    pub class_rate: i64,
}

/// What rules may know of the lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lineage {
    /// Number of records.
    pub length: i64,
    /// Number of activations.
    pub epoch: i64,
    /// Whether the last activation ended without a dormancy record or seal.
    pub unsealed: bool,
    /// Instant of the inception record.
    pub born: Timestamp,
    /// Instant of the last `woke` record.
    pub last_woke: Option<Timestamp>,
    /// Instant of the last `dormant` record.
    pub last_dormant: Option<Timestamp>,
    /// Refusals recorded since the last wake.
    pub refused: i64,
    /// Activations that were cut off since the last `dormant` record.
    pub crashes: i64,
    /// Time awake in activations that ended.
    pub awake: Span,
    /// Since when the running activation is awake, where one runs.
    pub awake_since: Option<Timestamp>,
}

impl Lineage {
    /// Time awake so far, at `now`.
    #[must_use]
    pub fn awake_at(&self, now: Timestamp) -> Span {
        let running = self.awake_since.map_or(0, |since| now.since(since).0.max(0));
        Span(self.awake.0.saturating_add(running))
    }
}

/// Where the object is, or would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Host<'a> {
    /// Region code.
    pub region: &'a str,
    /// Vendor or `local`.
    pub provider: &'a str,
    /// Class of the host.
    pub class: &'a str,
    /// Id of the host.
    pub id: &'a str,
}

/// Live requests to stay awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holds<'a> {
    /// Names, each once.
    pub names: &'a [&'a str],
}

/// What made somebody propose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger<'a> {
    /// Its sort.
    pub kind: TriggerKind,
    /// Name of the timer.
    pub name: Option<&'a str>,
    /// Topic of the message.
    pub topic: Option<&'a str>,
    /// Memory field that changed.
    pub field: Option<&'a str>,
    /// Timer runs missed while nobody ran.
    pub missed: i64,
}

/// A request or connection.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the peer. An IPv4 address mapped into IPv6 counts as IPv4.
    pub peer_ip: IpAddr,
    /// Method; empty on raw connections, as are path, query and host.
    pub method: &'a str,
    /// Path in canonical form, percent-encoded, without the query.
    pub path: &'a str,
    /// Query without `?`.
    pub query: &'a str,
    /// Host asked for, in canonical form, without its port.
    pub host: &'a str,
    /// Port asked for, where the request names one.
    pub port: Option<i64>,
    /// Body length, where declared.
    pub content_length: Option<i64>,
    /// Header values by their position in the vocabulary.
    pub headers: &'a [Option<&'a str>],
    /// What TLS came to, where it ended at somebody whose word counts.
    pub tls: Option<Tls<'a>>,
    /// The verified certificate that the client showed there.
    pub client_cert: Option<ClientCert<'a>>,
}

/// A session of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tls<'a> {
    /// `1.2` or `1.3`.
    pub version: &'a str,
    /// The name that the client asked for.
    pub sni: Option<&'a str>,
}

/// A verified certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCert<'a> {
    /// Its first DNS name, or the common name of its subject.
    pub name: Option<&'a str>,
    /// Its subject, as RFC 4514 writes it.
    pub subject: &'a str,
    /// Its issuer, likewise.
    pub issuer: &'a str,
    /// SHA-256 of it, in lower-case hexadecimal.
    pub fingerprint: &'a str,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

/// What goes on while the object is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Time since the wake.
    pub active: Span,
    /// Time since the last traffic.
    pub idle: Span,
    /// Open connections.
    pub connections: i64,
    /// Requests not yet answered.
    pub in_flight: i64,
}

/// What a write would leave in one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed<'a> {
    /// Position of the field in name order.
    pub position: u16,
    /// The value after the write; none after one that empties the field.
    pub new: Option<&'a Value>,
}

/// All facts of one decision.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Who proposes.
    pub principal: Principal<'a>,
    /// The object.
    pub object: Object<'a>,
    /// Time with its quality.
    pub now: Now,
    /// Live holds.
    pub holds: Holds<'a>,
    /// Messages not yet acknowledged.
    pub messages: i64,
    /// Where the object is.
    pub host: Host<'a>,
    /// `wake`: what made somebody propose.
    pub trigger: Option<Trigger<'a>>,
    /// `admit`, and `wake` or `instantiate` by a request.
    pub request: Option<Request<'a>>,
    /// `remain` and `sleep`.
    pub activity: Option<Activity>,
    /// `mutate`: names of the fields written.
    pub fields: &'a [&'a str],
    /// `mutate`: what the write would leave in fields that the rules judge by value, by position, ascending; what they hold
    /// before it stands in the object's memory.
    pub changes: &'a [Changed<'a>],
    /// `migrate`: where to.
    pub target: Option<Host<'a>>,
    /// `fork`: the scope of the child.
    pub scope: Option<&'a str>,
    /// `fork`: whether the child begins with the memory of the parent's suspended machine.
    pub warm: bool,
    /// `read`: the field read.
    pub field: Option<&'a str>,
    /// `instantiate`: how many instances there are.
    pub founding: Option<Founding>,
    /// `admit`, and `wake` by a request: how often whoever asks did so in the running windows, in the order of the rates'
    /// names.
    pub rates: &'a [i64],
}

impl<'a> Facts<'a> {
    /// Facts that every action has; the sections of single actions are empty.
    #[must_use]
    pub const fn new(principal: Principal<'a>, object: Object<'a>, now: Now, host: Host<'a>) -> Self {
        Self {
            principal,
            object,
            now,
            holds: Holds { names: &[] },
            messages: 0,
            host,
            trigger: None,
            request: None,
            activity: None,
            fields: &[],
            changes: &[],
            target: None,
            scope: None,
            warm: false,
            field: None,
            founding: None,
            rates: &[],
        }
    }
}
