//! What a door is told: where to listen, which depot, how hosts name objects, who starts machines, and every bound.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use suijuris_core::ObjectId;
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::time::Span;

use crate::heads::Trust;
use crate::waker;

/// Configuration of a door. Unknown keys are refused; everything but `depot` has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on; the caller binds them.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// URL of the depot; the caller opens it.
    pub depot: String,
    /// Objects by host name, lower case, without port. A host whose first label is an object's id needs no entry.
    #[serde(default, deserialize_with = "objects")]
    pub map: BTreeMap<String, ObjectId>,
    /// Who starts machines.
    #[serde(default)]
    pub waker: waker::Choice,
    /// On whose word heads are believed.
    #[serde(default)]
    pub trust: Trust,
    /// Where the machines are, as `context.host` of rules: region, provider, class, id. The command fills in of the host it
    /// runs on what is left empty.
    #[serde(default)]
    pub place: Location,
    /// Reads all announcements at the start, so that the first request of each object is quick.
    #[serde(default)]
    pub preload: bool,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// Where the machines of a door's objects are.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Location {
    /// Region code.
    pub region: String,
    /// `process`, `fly`, ….
    pub provider: String,
    /// Class of machine.
    pub class: String,
    /// Host or machine id.
    pub id: String,
}

impl Location {
    /// As rules see it.
    #[must_use]
    pub fn host(&self) -> Host {
        let vehicle = Vehicle {
            provider: &self.provider,
            class: &self.class,
        };
        Host::of(vehicle, Some(&self.region), &self.id)
    }
}

/// Bounds of a door. Each default is fit for a small machine.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of sleeping objects and their bundles: 1 GiB holds some millions.
    pub table_bytes: usize,
    /// Connections open at once; further ones wait to be accepted.
    pub connections: usize,
    /// Bytes of a request head: what nginx, Envoy and Apache pass on.
    pub head_bytes: usize,
    /// Header fields in a head.
    pub headers: usize,
    /// From the first byte of a head to its last; also how long a connection may be idle.
    #[serde(deserialize_with = "span")]
    pub head_within: Duration,
    /// Bytes of a message's body: a message, and as much again for JSON and base64.
    pub body_bytes: usize,
    /// From the end of a head to the end of its body.
    #[serde(deserialize_with = "span")]
    pub body_within: Duration,
    /// One answer of the depot.
    #[serde(deserialize_with = "span")]
    pub depot_within: Duration,
    /// Questions to the depot at once.
    pub depot_reads: usize,
    /// How old a look at an object's mark may be. An object that has just fallen asleep or woken is decided for by what
    /// was true this long ago; the object decides again.
    #[serde(deserialize_with = "span")]
    pub fresh_for: Duration,
    /// How old it may be while the depot does not answer.
    #[serde(deserialize_with = "span")]
    pub stale_for: Duration,
    /// Wakes under way at once; further ones wait for their turn.
    pub wakes: usize,
    /// From a wake's beginning to the object's `woke` in its mark.
    #[serde(deserialize_with = "span")]
    pub wake_within: Duration,
    /// Objects that wake or rest after a failure, at once.
    pub pauses: usize,
    /// Objects whose refusals are told apart in a minute.
    pub noted: usize,
    /// Time between two looks for due timers in the depot.
    #[serde(deserialize_with = "span")]
    pub timers_every: Duration,
    /// Requests in flight at the end get this long.
    #[serde(deserialize_with = "span")]
    pub leave_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            table_bytes: 1 << 30,
            connections: 4_096,
            head_bytes: 32 << 10,
            headers: 128,
            head_within: Duration::from_secs(10),
            body_bytes: 512 << 10,
            body_within: Duration::from_secs(30),
            depot_within: Duration::from_secs(5),
            depot_reads: 128,
            fresh_for: Duration::from_secs(1),
            stale_for: Duration::from_secs(30),
            wakes: 64,
            wake_within: Duration::from_secs(30),
            pauses: 65_536,
            noted: 4_096,
            timers_every: Duration::from_secs(10),
            leave_within: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// The defaults with this depot.
    #[must_use]
    pub fn new(depot: impl Into<String>) -> Self {
        Self {
            listen: Vec::new(),
            depot: depot.into(),
            map: BTreeMap::new(),
            waker: waker::Choice::None,
            trust: Trust::Mark,
            place: Location::default(),
            preload: false,
            limits: Limits::default(),
        }
    }
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span: Span = text.parse().map_err(serde::de::Error::custom)?;
    let positive = u64::try_from(span.0).ok().filter(|ms| *ms > 0);
    positive
        .map(Duration::from_millis)
        .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a duration above zero, as in 10s")))
}

fn objects<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, ObjectId>, D::Error> {
    let map = BTreeMap::<String, String>::deserialize(deserializer)?;
    let entry = |(host, id): (String, String)| {
        let object = id.parse().map_err(|error| {
            serde::de::Error::custom(format!("`{id}`, for host `{host}`, is not an object id: {error}"))
        })?;
        Ok((host.to_ascii_lowercase(), object))
    };
    map.into_iter().map(entry).collect()
}
