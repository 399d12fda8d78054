//! A machine as it is recorded: what it shall be, where it is, what is being done to it.
//!
//! ```text
//!            create                  start                       stop
//! (none) ──▶ creating ──▶ created ──▶ starting ──▶ started ──▶ stopping ──▶ stopped ─┐
//!                │                        ▲            │  ▲                          │ start
//!                ▼ no image               │    suspend ▼  │ start                    │
//!            destroyed                    │   suspending ──▶ suspended ──────────────┤
//!                ▲                        └─────────────────────────────────────────-┘
//!                └── destroying ◀── destroy, from every state at rest;  update: replacing, and back
//! ```
//!
//! [`plan`] says what comes next, and is pure; [`requests`] says what may be asked for, and is pure; [`actor`] performs. A
//! record is replaced as a whole in one commit, the step of its operation included, so that a daemon that is killed
//! anywhere finds out what it was at.

pub(crate) mod actor;
pub(crate) mod effects;
pub(crate) mod plan;
pub(crate) mod requests;
#[cfg(test)]
mod simulation;
mod spec;

use std::collections::VecDeque;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use suijuris_vehicle::Exit;

use crate::config::MachineConfig;

/// Events of a machine that are kept.
pub(crate) const MAX_EVENTS: usize = 50;
/// Versions of a machine that are kept.
const MAX_VERSIONS: usize = 20;

/// Where a machine is, in Fly's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Creating,
    Created,
    Starting,
    Started,
    Stopping,
    Stopped,
    Restarting,
    Suspending,
    Suspended,
    Failed,
    Replacing,
    Destroying,
    Destroyed,
}

impl State {
    /// All of them.
    pub(crate) const ALL: [Self; 13] = [
        Self::Creating,
        Self::Created,
        Self::Starting,
        Self::Started,
        Self::Stopping,
        Self::Stopped,
        Self::Restarting,
        Self::Suspending,
        Self::Suspended,
        Self::Failed,
        Self::Replacing,
        Self::Destroying,
        Self::Destroyed,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Restarting => "restarting",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Replacing => "replacing",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        }
    }

    /// The state of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether it stays so until somebody asks for something, or its program ends.
    pub(crate) const fn is_settled(self) -> bool {
        matches!(
            self,
            Self::Created | Self::Started | Self::Stopped | Self::Suspended | Self::Failed | Self::Destroyed
        )
    }

    /// Whether its shape is reserved on the host.
    pub(crate) const fn is_reserved(self) -> bool {
        matches!(
            self,
            Self::Starting
                | Self::Started
                | Self::Stopping
                | Self::Restarting
                | Self::Suspending
                | Self::Suspended
        )
    }
}

/// What a machine's image came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct ImageRef {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) digest: String,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    /// The signal that the image says it stops at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<i32>,
}

impl ImageRef {
    /// The whole name: `registry/repository:tag@digest`, without what is not known.
    pub(crate) fn name(&self) -> String {
        let part = |mark: char, part: &str| {
            if part.is_empty() {
                String::new()
            } else {
                format!("{mark}{part}")
            }
        };
        format!(
            "{}/{}{}{}",
            self.registry,
            self.repository.trim_start_matches('/'),
            part(':', &self.tag),
            part('@', &self.digest)
        )
    }
}

/// Who caused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    /// A caller of the API.
    User,
    /// The daemon.
    Flyd,
    /// The proxy.
    Proxy,
}

/// Something that happened to a machine; newest first in its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) source: By,
    /// Milliseconds since 1970.
    pub(crate) timestamp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Value>,
    /// In words; what clients read as `request` says how processes ended, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// How far a clock may go back before leases of the time after it are over.
const CLOCK_SLACK_MS: u64 = 60_000;

/// A claim to be the only one who changes a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) nonce: String,
    #[serde(default)]
    pub(crate) made_ms: u64,
    pub(crate) expires_ms: u64,
    pub(crate) owner: String,
    pub(crate) description: String,
}

/// An earlier or the present version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) version: String,
    pub(crate) config: MachineConfig,
}

/// One life of its processes: recorded before they are started, so that they are found whatever happens then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// What the driver's id begins with.
    pub(crate) name: String,
    /// Since when.
    pub(crate) since_ms: u64,
    /// Digest of its image.
    #[serde(default)]
    pub(crate) image: String,
}

/// What is being done, and how far it got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) step: Step,
    /// The state before.
    pub(crate) from: State,
    pub(crate) by: By,
}

/// What is being done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Create {
        launch: bool,
    },
    Start {
        not_before_ms: u64,
    },
    Stop {
        signal: i32,
        budget_ms: u64,
        restart: bool,
    },
    Suspend,
    Update {
        next: Box<Version>,
        launch: bool,
    },
    Destroy {
        force: bool,
    },
}

impl Kind {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Start { .. } => "start",
            Self::Stop { restart: false, .. } => "stop",
            Self::Stop { restart: true, .. } => "restart",
            Self::Suspend => "suspend",
            Self::Update { .. } => "update",
            Self::Destroy { .. } => "destroy",
        }
    }
}

/// How far it got. Not each operation has each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Begun,
    /// The image is there.
    Fetched,
    /// Its files are as they shall be.
    Prepared,
    /// Its processes may be there.
    Launching,
    /// It shall end by then.
    Halting {
        until_ms: u64,
        signalled: bool,
    },
    /// Nothing of it runs.
    Halted,
}

/// Why the last operation came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) operation: String,
    pub(crate) why: String,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) app: String,
    pub(crate) org: String,
    /// The name of its org's private network that it is in.
    #[serde(default = "default_network")]
    pub(crate) network: String,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) state: State,
    /// The present version, Fly's `instance_id`.
    pub(crate) version: String,
    pub(crate) config: MachineConfig,
    pub(crate) image: Option<ImageRef>,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    pub(crate) events: VecDeque<Event>,
    pub(crate) versions: VecDeque<Version>,
    pub(crate) cordoned: bool,
    pub(crate) lease: Option<Lease>,
    pub(crate) operation: Option<Operation>,
    pub(crate) run: Option<Run>,
    /// How many lives it has had.
    pub(crate) lives: u64,
    /// When it was started again by itself lately.
    pub(crate) restarts_ms: Vec<u64>,
    /// Its root file system stays as it is at the next start.
    pub(crate) keeps_rootfs: bool,
    /// Secrets of the app that it sees.
    pub(crate) secrets_version: u64,
    pub(crate) failure: Option<Failure>,
    /// No request starts it before this.
    #[serde(default)]
    pub(crate) not_before_ms: Option<u64>,
    /// How long it has run.
    #[serde(default)]
    pub(crate) awake: Awake,
    #[serde(skip)]
    pub(crate) shown: Shown,
}

/// How long a machine has run in all its lives: its processes were there, and not suspended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Awake {
    ms: u64,
    since_ms: Option<u64>,
}

impl Awake {
    /// From now on it is in `state`.
    fn enter(&mut self, state: State, now_ms: u64) {
        match state {
            State::Started => self.since_ms = self.since_ms.or(Some(now_ms)),
            State::Stopping
            | State::Restarting
            | State::Suspending
            | State::Replacing
            | State::Destroying => {}
            _ => {
                *self = Self {
                    ms: self.until(now_ms),
                    since_ms: None,
                }
            }
        }
    }

    /// Milliseconds until `now_ms`.
    pub(crate) fn until(self, now_ms: u64) -> u64 {
        let running = self.since_ms.map_or(0, |since| now_ms.saturating_sub(since));
        self.ms.saturating_add(running)
    }
}

/// A record as clients see it, as text, once somebody has asked: each record is made into text once, and no part of what it is.
#[derive(Debug, Default)]
pub(crate) struct Shown(OnceLock<Box<str>>);

impl Shown {
    /// The text, which `make` makes where there is none.
    pub(crate) fn text(&self, make: impl FnOnce() -> String) -> &str {
        self.0.get_or_init(|| make().into())
    }
}

impl Clone for Shown {
    /// What is cloned is about to be changed.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Shown {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The instant of a change, and what its ids are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) now_ms: u64,
    pub(crate) random: u128,
}

impl Stamp {
    /// The nth id of this change.
    pub(crate) fn id(&self, n: u128) -> String {
        ulid::Ulid::from_parts(self.now_ms, self.random.wrapping_add(n)).to_string()
    }
}

impl Machine {
    /// Notes what happened: `kind` is Fly's type of event, the status is the present state.
    pub(crate) fn note(&mut self, stamp: &Stamp, kind: &str, by: By, request: Option<Value>) {
        let n = self
            .events
            .iter()
            .take_while(|event| event.timestamp == stamp.now_ms)
            .count();
        self.events.push_front(Event {
            id: stamp.id(u128::try_from(n).unwrap_or_default()),
            kind: kind.to_owned(),
            status: self.state.name().to_owned(),
            source: by,
            timestamp: stamp.now_ms,
            request,
            message: None,
        });
        self.events.truncate(MAX_EVENTS);
        self.updated_ms = stamp.now_ms;
    }

    /// Notes what happened, in words.
    pub(crate) fn tell(&mut self, stamp: &Stamp, kind: &str, by: By, message: &str) {
        self.note(stamp, kind, by, None);
        if let Some(event) = self.events.front_mut() {
            event.message = Some(message.to_owned());
        }
    }

    /// It is in `state` now; noted.
    pub(crate) fn enter(&mut self, stamp: &Stamp, state: State, kind: &str, by: By) {
        self.state = state;
        self.note(stamp, kind, by, None);
    }

    /// A version becomes the present one.
    pub(crate) fn adopt(&mut self, version: Version) {
        self.version.clone_from(&version.version);
        self.config = version.config.clone();
        self.versions.push_front(version);
        self.versions.truncate(MAX_VERSIONS);
    }

    /// Counts for how long it has run, before it is recorded.
    pub(crate) fn count(&mut self, now_ms: u64) {
        self.awake.enter(self.state, now_ms);
    }

    /// The lease, unless it is over.
    pub(crate) fn lease_at(&self, now_ms: u64) -> Option<&Lease> {
        // Seen from before it was made, the clock went back, and how long it has held nobody knows.
        let began = |lease: &Lease| lease.made_ms <= now_ms.saturating_add(CLOCK_SLACK_MS);
        let lease = self.lease.as_ref()?;
        (lease.expires_ms > now_ms && began(lease)).then_some(lease)
    }

    /// How it is asked to stop, and how long it is waited for: as its config says, else as its image does.
    pub(crate) fn stopping(&self) -> (i32, u64) {
        let of_image = self.image.as_ref().and_then(|image| image.stop_signal);
        self.config.stopping(of_image)
    }

    /// Whether it runs an image, and no program of this host.
    pub(crate) fn has_image(&self) -> bool {
        self.image.as_ref().is_some_and(|image| !image.digest.is_empty())
    }
}

/// The private network of apps that name none.
pub(crate) fn default_network() -> String {
    "default".to_owned()
}

/// What an exit event says.
pub(crate) fn exit_request(exit: Exit, requested: bool, restarting: bool, count: usize, at_ms: u64) -> Value {
    let (code, signal, oom) = match exit {
        Exit::Code(code) => (code, -1, false),
        Exit::Signal(signal) => (128_i32.saturating_add(signal), signal, false),
        Exit::OutOfMemory => (137, 9, true),
        Exit::Panicked | Exit::Lost => (-1, -1, false),
    };
    let exit_event = json!({
        "exit_code": code, "guest_exit_code": if signal < 0 { code } else { 0 }, "guest_signal": signal, "signal": signal,
        "oom_killed": oom, "requested_stop": requested, "restarting": restarting, "exited_at": crate::clock::rfc3339(at_ms),
    });
    json!({"exit_event": exit_event, "MonitorEvent": {"exit_event": exit_event}, "restart_count": count})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_awake_until_it_has_ended_or_is_suspended() {
        let mut awake = Awake::default();
        for (state, at, expected) in [
            (State::Starting, 10, 0),
            (State::Started, 20, 0),
            (State::Started, 25, 5),
            (State::Suspending, 30, 10),
            (State::Suspended, 40, 20),
            (State::Starting, 100, 20),
            (State::Started, 110, 20),
            (State::Replacing, 120, 30),
            (State::Stopped, 130, 40),
            (State::Stopped, 500, 40),
        ] {
            awake.enter(state, at);
            assert_eq!(awake.until(at), expected, "{state:?} at {at}");
        }
        awake.enter(State::Started, 600);
        assert_eq!(awake.until(500), 40, "a clock that goes back takes nothing away");
    }
}
