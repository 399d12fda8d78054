//! Messages between the command line and `up`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::Patch;
use crate::event::Verdict;
use crate::history::Paused;
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
    /// Leave for another place, if the rules permit: whoever runs the object lets go of it once it has departed.
    Depart {
        /// The place, as rules see it.
        to: Place,
        /// The place, for people.
        place: String,
        /// What owners signed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Box<SignedRequest>>,
    },
    /// End the object, as these owners approve.
    Terminate {
        /// What they signed.
        approvals: Vec<Approval>,
    },
    /// How is it?
    Status,
}

/// A place where machines are, as rules see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its region.
    pub region: String,
    /// What carries machines there; `capsule` where it goes into a file, `nowhere` where it is forgotten.
    pub provider: String,
    /// Class of machine.
    pub class: String,
    /// Host.
    pub id: String,
}

/// A child of an object that begins with the memory of its suspended machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Forked {
    /// Its id.
    pub object: String,
    /// Its parent's.
    pub parent: String,
    /// Its directory.
    pub data: String,
    /// Position of the parent's record; absent while approvals are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Fields that the parent had written and the child does not get.
    pub left_out: Vec<String>,
    /// Owners who approved it.
    pub approved: usize,
    /// Owners who have to.
    pub needed: u32,
    /// Whether it begins with the memory of the parent's machine; where not, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<String>,
    /// Where callers reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
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
    /// A child was prepared, or is born.
    Forked(Box<Forked>),
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
        /// That the object is left alone after a failure, where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paused: Option<Paused>,
        /// Its holds: names, with the time they have left in milliseconds.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        holds: BTreeMap<String, u64>,
    },
    /// It could not be done.
    Error {
        /// Stable code with a page in `docs/errors`.
        code: String,
        /// What, and what to do.
        message: String,
    },
}
