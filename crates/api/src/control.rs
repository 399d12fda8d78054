//! Messages between whoever owns a machine (`up`) and the runtime in it, and between the command line and `up`.

use serde::{Deserialize, Serialize};
use suijuris_core::governance::TriggerKind;
use suijuris_core::inputs::{Host, Principal, Request, Trigger};
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::Fired;
use suijuris_core::owner_request::SignedRequest;
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
    /// Who proposes, as whoever starts the machine verified.
    pub principal: Principal,
    /// Timer occurrences that this wake deals with.
    #[serde(default)]
    pub fired: Fired,
    /// Where the machine runs.
    pub host: Host,
    /// The name under which whoever starts the machine holds the object; it goes on under it.
    #[serde(default)]
    pub holder: Option<HolderId>,
    /// Whoever starts the machine claims the object beside its start; [`ToRuntime::Granted`] follows.
    #[serde(default)]
    pub granted: bool,
    /// The server that owners' requests are signed for; none are heard without one.
    #[serde(default)]
    pub server: Option<PublicKey>,
}

impl Launch {
    /// A machine on `host` that somebody just started.
    #[must_use]
    pub const fn boot(host: Host) -> Self {
        Self {
            trigger: Trigger::new(TriggerKind::Boot),
            request: None,
            principal: Principal::Host,
            fired: Fired::new(),
            host,
            holder: None,
            granted: false,
            server: None,
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
    /// What the claim came to that whoever started the machine made for it, where [`Launch::granted`] says that it follows:
    /// the first message then. Behind the JSON, where the machine need not ask again: what it goes on with.
    Granted,
    /// Refusals at the door while the machine was frozen, for the runtime to record. Behind the JSON: a
    /// `suijuris_core::lineage::Refused`, DAG-CBOR.
    Refused {
        /// Names the record; [`FromRuntime::Recorded`] repeats it.
        id: u64,
    },
    /// The machine was frozen and runs again, for this reason.
    Thawed(Box<Launch>),
    /// Somebody asks the object to sleep: the host, or owners who signed.
    Sleep {
        /// Names the request; the reply repeats it.
        id: u64,
        /// What owners signed; its nonce is spent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Box<SignedRequest>>,
    },
    /// Somebody writes memory: the host, or owners who signed.
    Patch {
        /// Names the request.
        id: u64,
        /// The writes.
        patch: Patch,
        /// What owners signed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Box<SignedRequest>>,
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

/// From the command line to `up`: one JSON line each. What nobody signed is asked by the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToUp {
    /// Wake the object.
    Wake,
    /// Put it to sleep.
    Sleep,
    /// Write memory.
    Patch(Patch),
    /// What owners signed says what is asked.
    Owner {
        /// The request.
        signed: Box<SignedRequest>,
        /// What a write writes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        patch: Option<Patch>,
    },
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
        /// The key that owners' requests to this `up` are signed for.
        server: PublicKey,
    },
    /// It could not be done.
    Error {
        /// Stable code with a page in `docs/errors`.
        code: String,
        /// What, and what to do.
        message: String,
    },
}
