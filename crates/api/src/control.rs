//! Messages between the command line and `up`.

use serde::{Deserialize, Serialize};

use crate::agent::Patch;
use crate::event::Verdict;
use crate::owner::{Approval, SignedRequest};

/// From the command line to `up`: one JSON line each. What nobody signed is asked by the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
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
    /// End the object, as these owners approve.
    Terminate {
        /// What they signed.
        approvals: Vec<Approval>,
    },
    /// How is it?
    Status,
}

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
        server: String,
    },
    /// It could not be done.
    Error {
        /// Stable code with a page in `docs/errors`.
        code: String,
        /// What, and what to do.
        message: String,
    },
}
