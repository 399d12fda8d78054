//! What happens, as one JSON object a line: `up --json`, the runtime's reports, tests.

use serde::{Deserialize, Serialize};

/// An event and its instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stamped {
    /// RFC 3339, UTC, milliseconds.
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened. The name stands in the member `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// `up` listens; always the first event.
    Listening {
        /// Where callers reach the object.
        url: String,
        /// Its identity.
        object: String,
        /// Its name.
        name: String,
        /// Socket of the workload's own interface.
        agent_socket: String,
        /// Rules in force.
        bundle: String,
        /// How machines are isolated and suspended here.
        machine: String,
    },
    /// Somebody proposed a transition.
    Proposal {
        /// The transition.
        action: String,
        /// Who: `caller`, `timer`, `controller`, ….
        by: String,
        /// What made them: `request`, `timer`, `memory`, `manual`, `message`, `boot`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trigger: Option<String>,
        /// More about it: `GET /`, a timer's name, a field.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// It was answered.
    Verdict(Verdict),
    /// An activation began; the record is durable.
    Woke {
        /// Its number.
        epoch: u64,
        /// Position of the record.
        seq: u64,
    },
    /// The activation went on after the machine was suspended.
    Resumed {
        /// Number of the new epoch.
        epoch: u64,
        /// Position of the record.
        seq: u64,
        /// How long it was suspended, milliseconds.
        paused_ms: i64,
    },
    /// The activation ended by the object's own act; the record is durable.
    Dormant {
        /// Position of the record.
        seq: u64,
        /// The rules' reasons, or what ended it.
        reason: String,
        /// Requests and connections that were under way when the time to drain was over, and ended with it.
        #[serde(default, skip_serializing_if = "crate::access::is_zero")]
        cut: u64,
    },
    /// The object ended for good; the record is durable.
    Terminated {
        /// Position of the record.
        seq: u64,
    },
    /// The object left for another place; the record is durable.
    Departed {
        /// Position of the record.
        seq: u64,
        /// Where to.
        to: String,
    },
    /// The object came from another place; the record is durable.
    Arrived {
        /// Position of the record.
        seq: u64,
    },
    /// A proposal was refused; the first of its kind, then with a count.
    Refused {
        /// The transition.
        action: String,
        /// Invariant, or `rules`.
        reason: String,
        /// Rules that decided.
        rules: Vec<String>,
        /// Their reasons.
        reasons: Vec<String>,
        /// How many this event stands for.
        times: u64,
        /// Both sides, where another copy was preferred: reasons `twin` and `rolled_back`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<Box<Evidence>>,
    },
    /// Memory changed.
    Mutated {
        /// Fields written.
        fields: Vec<String>,
        /// Who wrote.
        by: String,
        /// Position of the record.
        seq: u64,
    },
    /// The workload.
    Workload {
        /// `spawned`, `ready` or `exited`.
        state: String,
        /// Process id inside the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// How it ended: `exited 0`, `killed by signal 9`.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        how: String,
        /// Time since it was spawned, milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        took_ms: Option<u64>,
    },
    /// A line that the workload wrote.
    Output {
        /// The line, without its end; at most 4 KiB.
        line: String,
    },
    /// The machine.
    Machine {
        /// `started`, `stopped`, `suspended` or `resumed`.
        state: String,
        /// How it ended, or what carries it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// A step of the boot, in order: `open`, `verify`, `hydrate`, `witness`, `decide`, `commit`, `spawn`, `serve`.
    Boot {
        /// The step.
        step: String,
    },
    /// The definition in the files was looked at.
    Definition {
        /// `changed`: it is another than the one in force. `in_force`.
        state: String,
        /// Its id.
        bundle: String,
        /// Recorded decisions that were replayed under it.
        judged: u64,
        /// How many of them would come out otherwise.
        would_change: u64,
        /// The newest of those.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changed: Vec<ChangedDecision>,
    },
    /// Something is wrong.
    Error {
        /// Stable code with a page in `docs/errors`.
        code: String,
        /// What, and what to do.
        message: String,
    },
}

/// A recorded decision that would come out otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangedDecision {
    /// Position of its record.
    pub seq: u64,
    /// How many decisions the record stands for.
    pub times: u64,
    /// The transition.
    pub action: String,
    /// `permit` or `refuse`.
    pub was: String,
    /// `permit` or `refuse`.
    pub would_be: String,
    /// Reasons of the answer that it would get.
    pub reasons: Vec<String>,
}

/// Why another copy was preferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Evidence {
    /// The newest record of the copy that was refused.
    pub ours: Point,
    /// The newest one that the witness knows; absent where it has lost what it knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<Point>,
    /// Who holds the object: host and process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

/// A place in a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Point {
    /// Position of the record.
    pub seq: u64,
    /// The record.
    pub head: String,
    /// Activation it belongs to, or that was claimed after it.
    pub epoch: u64,
}

/// The answer to a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verdict {
    /// The transition.
    pub action: String,
    /// `permit` or `refuse`.
    pub outcome: String,
    /// Ids of the rules that decided.
    pub rules: Vec<String>,
    /// Their reasons, and what else explains the answer.
    pub reasons: Vec<String>,
    /// The invariant that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invariant: Option<String>,
    /// Seconds until asking again may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Where it was decided: `door` or `runtime`.
    pub place: String,
}
