//! Facts from outside, owned: what a shell saw when it asked for a decision, in the form that lineage keeps.
//!
//! Together with the state before the record they are everything a decision looks at, so that it can be made again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::governance::{Protocol, TriggerKind};
use crate::id::ObjectId;
use crate::key::PublicKey;
use crate::lineage::{Approval, Statement};
use crate::memory::{Name, Value};
use crate::owner_request::Signers;
use crate::rates::Asker;
use crate::time::{Now, Quality, Span, Timestamp};

/// Who proposes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Principal {
    /// Somebody at the gate.
    Caller(Box<Caller>),
    /// The host or the platform.
    Host,
    /// A timer of the bundle.
    Timer,
    /// Another object.
    Peer(ObjectId),
    /// An owner, with the keys that signed.
    Controller(Owners),
    /// The program inside.
    Workload,
    /// The object itself.
    #[serde(rename = "self")]
    Own,
}

/// Owners whose signatures were verified: [`Principal::controller`] and [`Principal::approving`] make them, and records
/// that were decided on them are read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owners(Vec<PublicKey>);

impl Owners {
    /// Their keys.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }
}

impl Principal {
    /// Owners who signed a request.
    #[must_use]
    pub fn controller(signers: &Signers) -> Self {
        Self::Controller(Owners(signers.keys().to_vec()))
    }

    /// Those of `controllers` who approved `statement`; possibly nobody.
    #[must_use]
    pub fn approving(statement: &Statement, approvals: &[Approval], controllers: &[PublicKey]) -> Self {
        Self::Controller(Owners(statement.approving(approvals, controllers)))
    }

    /// Owners of a proposal that nobody made: what an object would say, were it to come. Never recorded.
    #[must_use]
    pub const fn supposed_controller(keys: Vec<PublicKey>) -> Self {
        Self::Controller(Owners(keys))
    }

    /// The word used in records, events and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Caller(_) => "caller",
            Self::Host => "host",
            Self::Timer => "timer",
            Self::Peer(_) => "peer",
            Self::Controller(_) => "controller",
            Self::Workload => "workload",
            Self::Own => "self",
        }
    }
}

/// What a caller's verified token says; all empty for an anonymous caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// A token was shown and verified.
    pub authenticated: bool,
    /// `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `iss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `aud`.
    #[serde(default)]
    pub audience: BTreeSet<String>,
    /// `scope`, split at spaces.
    #[serde(default)]
    pub scopes: BTreeSet<String>,
    /// Declared claims, typed.
    #[serde(default)]
    pub claims: BTreeMap<Name, Value>,
}

/// Who asks, for the rates; none where there is no request.
#[must_use]
pub fn asker<'a>(principal: &'a Principal, request: Option<&Request>) -> Option<Asker<'a>> {
    let peer = request?.peer_ip;
    Some(match principal {
        Principal::Caller(caller) => caller.asker(peer),
        _ => Asker {
            subject: None,
            issuer: None,
            peer,
        },
    })
}

impl Caller {
    /// The caller at this address, for the rates.
    #[must_use]
    pub fn asker(&self, peer: IpAddr) -> Asker<'_> {
        Asker {
            subject: self.subject.as_deref(),
            issuer: self.issuer.as_deref(),
            peer,
        }
    }
}

/// Where an object is, or its machine would run. Only [`Host::of`] makes one, so that the same place has the same words
/// whoever proposes; records are read back as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Host {
    /// Region code.
    pub region: String,
    /// `process`, `fly`, `qemu`, ….
    pub provider: String,
    /// Class of machine.
    pub class: String,
    /// Host or machine id; never identity.
    pub id: String,
}

/// The region of a host that names none.
pub const LOCAL_REGION: &str = "local";

/// What a vehicle's driver says of the machines it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vehicle<'a> {
    /// `process`, `fly`, `qemu`, ….
    pub provider: &'a str,
    /// Class of machine; empty where there is one only.
    pub class: &'a str,
}

impl Host {
    /// The place of `vehicle`'s machines on the host called `name`; in [`LOCAL_REGION`] where nobody said otherwise.
    #[must_use]
    pub fn of(vehicle: Vehicle<'_>, region: Option<&str>, name: &str) -> Self {
        let region = region.map(str::trim).filter(|region| !region.is_empty());
        Self {
            region: region.unwrap_or(LOCAL_REGION).to_owned(),
            provider: vehicle.provider.to_owned(),
            class: vehicle.class.to_owned(),
            id: name.trim().to_owned(),
        }
    }
}

/// What proposes a wake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Its sort.
    pub kind: TriggerKind,
    /// Timer, for `timer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Topic, for `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Field, for `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Occurrences of the timer that came due and do not fire.
    #[serde(default)]
    pub missed: u64,
}

/// The request that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Method; empty for a raw connection.
    pub method: String,
    /// Path without query, in canonical form.
    pub path: String,
    /// Query without `?`; empty where there is none.
    pub query: String,
    /// Host asked for, in canonical form, without its port.
    pub host: String,
    /// Port asked for, where the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the peer.
    pub peer_ip: IpAddr,
    /// Length that the request declares, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length: Option<u64>,
    /// Declared headers that the request has.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What TLS came to, where it ended at somebody whose word counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The verified certificate that the client showed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<Box<ClientCert>>,
}

/// A session of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// `1.2` or `1.3`.
    pub version: String,
    /// The name that the client asked for, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

/// A client's certificate, verified where TLS ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCert {
    /// Its first DNS name, or the common name of its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its subject, as RFC 4514 writes distinguished names.
    pub subject: String,
    /// Its issuer, likewise.
    pub issuer: String,
    /// SHA-256 of its DER encoding, in lower-case hexadecimal.
    pub fingerprint: String,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

impl Tls {
    /// As rules see it.
    #[must_use]
    pub fn facts(&self) -> crate::governance::Tls<'_> {
        crate::governance::Tls {
            version: &self.version,
            sni: self.sni.as_deref(),
        }
    }
}

impl ClientCert {
    /// As rules see it.
    #[must_use]
    pub fn facts(&self) -> crate::governance::ClientCert<'_> {
        crate::governance::ClientCert {
            name: self.name.as_deref(),
            subject: &self.subject,
            issuer: &self.issuer,
            fingerprint: &self.fingerprint,
            not_after: self.not_after,
        }
    }
}

/// How busy the object is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activity {
    /// Time since the activation began.
    pub active: Span,
    /// Time since the last traffic, or since the activation began.
    pub idle: Span,
    /// Connections open.
    pub connections: u64,
    /// Requests in flight.
    pub in_flight: u64,
}

/// What the shell found about things that rules cannot override.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// What the witness says.
    #[serde(default, skip_serializing_if = "Witnessed::is_absent")]
    pub witness: Witnessed,
    /// The machine cannot run the workload.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incapable: bool,
    /// What became of the workload, where that ends the activation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadEnd>,
}

/// How a workload ends an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadEnd {
    /// It could not be started, or ended or timed out before it was ready.
    Failed,
    /// It ended after it had been ready: well, or since it was asked to.
    Gone,
    /// It ended by itself after it had been ready, and not well; or it did not answer any more and was ended.
    Crashed,
}

impl WorkloadEnd {
    /// Whether it counts in `lineage.crashes`.
    #[must_use]
    pub const fn is_crash(self) -> bool {
        matches!(self, Self::Failed | Self::Crashed)
    }
}

/// What the witness says of this copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Witnessed {
    /// There is none, and none is required.
    #[default]
    Absent,
    /// There is none that answers, and one is required.
    Missing,
    /// This copy holds the newest history.
    Agrees,
    /// The witness knows a newer history.
    Newer,
    /// Another copy is live.
    Twin,
}

impl Witnessed {
    fn is_absent(&self) -> bool {
        *self == Self::Absent
    }
}

/// How many instances a class has when one more is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// Instances so far, those being founded included.
    pub instances: u64,
    /// Instances at most.
    pub max_instances: u64,
    /// Instances founded for this peer in the last second.
    pub peer_rate: u64,
    /// Instances founded in the last second.
    pub class_rate: u64,
}

/// Everything from outside that one decision looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The time it was decided with.
    pub now: Now,
    /// Who proposed.
    pub principal: Principal,
    /// Where.
    pub host: Host,
    /// What no rule can override.
    #[serde(default)]
    #[serde(rename = "standing")]
    pub conditions: Conditions,
    /// What proposed a wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// How busy the object was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Names of the holds in force.
    #[serde(default)]
    pub holds: BTreeSet<String>,
    /// Messages not yet taken.
    #[serde(default)]
    pub pending: u64,
    /// Fields to be written (mutate) or read (read).
    #[serde(default)]
    pub fields: BTreeSet<String>,
    /// What the write would leave in the fields that rules judge by value; nothing where it empties them (mutate).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub written: BTreeMap<Name, Option<Value>>,
    /// Where to (migrate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Host>,
    /// Scope of the child (fork).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whether the child begins with the memory of the parent's suspended machine (fork); left out where not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warm: bool,
    /// How many instances there are (instantiate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founding: Option<Founding>,
    /// How often the one who asks did so in the running windows of the declared rates, this time included (admit; wake by a
    /// request).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<Name, i64>,
}

impl Trigger {
    /// A bare trigger of this sort.
    #[must_use]
    pub const fn new(kind: TriggerKind) -> Self {
        Self {
            kind,
            name: None,
            topic: None,
            field: None,
            missed: 0,
        }
    }
}

impl Inputs {
    /// Bare facts: a time, who asks, and where.
    #[must_use]
    pub fn new(now: Now, principal: Principal, host: Host) -> Self {
        Self {
            now,
            principal,
            host,
            conditions: Conditions::default(),
            trigger: None,
            request: None,
            activity: None,
            holds: BTreeSet::new(),
            pending: 0,
            fields: BTreeSet::new(),
            written: BTreeMap::new(),
            to: None,
            scope: None,
            warm: false,
            founding: None,
            rates: BTreeMap::new(),
        }
    }

    /// Facts of a test: the epoch, a clock of unknown quality, and nowhere.
    #[must_use]
    pub fn timeless(principal: Principal) -> Self {
        let now = Now {
            at: Timestamp(0),
            quality: Quality::Unknown,
        };
        let nowhere = Host {
            region: String::new(),
            provider: String::new(),
            class: String::new(),
            id: String::new(),
        };
        Self::new(now, principal, nowhere)
    }
}
