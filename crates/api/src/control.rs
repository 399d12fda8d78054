//! Messages between whoever owns a machine (`up`) and the runtime in it, and between the command line and `up`.

use serde::{Deserialize, Serialize};
use suijuris_core::governance::TriggerKind;
use suijuris_core::inputs::{Caller, Host, Request, Trigger};
use suijuris_core::lineage::Fired;
use suijuris_core::witness::HolderId;

use crate::agent::Patch;
use crate::event::{Stamped, Verdict};
use crate::problem::Problem;

/// Why the machine was started: what its owner knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// What proposes the wake.
    pub trigger: Trigger,
    /// The request, for that trigger.
    #[serde(default)]
    pub request: Option<Request>,
    /// Who proposes: `caller`, `timer`, `controller` or `host`.
    pub by: String,
    /// The caller, where a verified one proposes.
    #[serde(default)]
    pub caller: Option<Caller>,
    /// Timer occurrences that this wake deals with.
    #[serde(default)]
    pub fired: Fired,
    /// Where the machine runs.
    #[serde(default)]
    pub host: Host,
    /// The name under which whoever starts the machine holds the object; it goes on under it.
    #[serde(default)]
    pub holder: Option<HolderId>,
}

impl Default for Launch {
    /// A machine that somebody just started.
    fn default() -> Self {
        let host = Host {
            provider: "process".to_owned(),
            ..Host::default()
        };
        Self {
            trigger: Trigger::new(TriggerKind::Boot),
            request: None,
            by: "host".to_owned(),
            caller: None,
            fired: Fired::new(),
            host,
            holder: None,
        }
    }
}

/// To the runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToRuntime {
    /// A connection accepted while the object slept. The message carries its descriptor, and behind the JSON the
    /// bytes already read from it. The owner keeps the connection until [`FromRuntime::Taken`].
    Connection {
        /// Names the connection.
        id: u64,
    },
    /// Refusals at the door while the machine was frozen, for the runtime to record. Behind the JSON: a
    /// `suijuris_core::lineage::Refused`, DAG-CBOR.
    Refused {
        /// Names the record; [`FromRuntime::Recorded`] repeats it.
        id: u64,
    },
    /// The machine was frozen and runs again, for this reason.
    Thawed(Box<Launch>),
    /// Somebody asks the object to sleep.
    Sleep {
        /// Names the request; the reply repeats it.
        id: u64,
        /// Who: `controller` or `host`.
        by: String,
    },
    /// An owner writes memory.
    Patch {
        /// Names the request.
        id: u64,
        /// The writes.
        patch: Patch,
    },
}

/// From the runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromRuntime {
    /// Something happened.
    Event(Stamped),
    /// A request was answered.
    Reply {
        /// The request.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// The gate has taken a connection: it is the runtime's alone from now on. A connection that the runtime leaves
    /// without having taken is still its owner's, untouched.
    Taken {
        /// The connection.
        id: u64,
    },
    /// A refusal of [`ToRuntime::Refused`] is durable.
    Recorded {
        /// The record.
        id: u64,
    },
    /// The runtime leaves; its machine can be stopped or frozen.
    Leaving {
        /// `stop`, `suspend`, `refused`, `host_stop` or `failed`.
        how: String,
        /// What its gate answered everybody, where it refused everybody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Box<Problem>>,
    },
}

/// From the command line to `up`: one JSON line each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToUp {
    /// Wake the object.
    Wake,
    /// Put it to sleep.
    Sleep,
    /// Write memory.
    Patch(Patch),
    /// How is it?
    Status,
}

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Decided, and done if permitted.
    Verdict(Verdict),
    /// Memory was written; it is durable.
    Patched {
        /// Position of the record.
        seq: u64,
        /// Root after it, hexadecimal.
        root: String,
    },
    /// How it is.
    Status {
        /// `dormant`, `waking`, `active`, `draining` or `suspended`.
        phase: String,
        /// Process id of `up`.
        pid: u32,
        /// Where callers reach the object.
        url: String,
    },
    /// It could not be done.
    Error {
        /// Stable code with a page in `docs/errors`.
        code: String,
        /// What, and what to do.
        message: String,
    },
}
