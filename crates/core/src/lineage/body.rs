//! What a record says: one struct for each kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::approval::Approval;
use crate::class::Instantiation;
use crate::governance::{Action, Explanation};
use crate::id::{BundleId, Digest, ObjectId, RecordId};
use crate::inputs::{Inputs, Principal};
use crate::key::PublicKey;
use crate::memory::{Change, Name};
use crate::ticket::SignedTicket;
use crate::time::{Span, Timestamp};

/// The kinds of record, as a keyed union: `{"woke": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The object begins.
    Inception(Box<Inception>),
    /// An activation begins.
    Woke(Box<Woke>),
    /// An activation begins again after the machine was suspended.
    Resumed(Box<Resumed>),
    /// Memory changed.
    Mutated(Mutated),
    /// Signs everything since the last signed record.
    Seal(Seal),
    /// The activation ends by the object's own act.
    Dormant(Box<Dormant>),
    /// A proposal was refused; repeated ones are counted.
    Refused(Box<Refused>),
    /// The object left for another host.
    Departed(Departed),
    /// The object came from another host.
    Arrived(Arrived),
    /// A child was created.
    Forked(Forked),
    /// The rules changed.
    Amended(Amended),
    /// An activation was found to have ended without the object's act.
    Unsealed(Unsealed),
    /// The object shut itself away until its controllers decide.
    Quarantined(Quarantined),
    /// The end.
    Terminated(Terminated),
    /// An older history, or one that shut itself away, became the object's again by its controllers' will.
    Restored(Restored),
}

impl Body {
    /// Name of the kind, as in logs and JSON.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Inception(_) => "inception",
            Self::Woke(_) => "woke",
            Self::Resumed(_) => "resumed",
            Self::Mutated(_) => "mutated",
            Self::Seal(_) => "seal",
            Self::Dormant(_) => "dormant",
            Self::Refused(_) => "refused",
            Self::Departed(_) => "departed",
            Self::Arrived(_) => "arrived",
            Self::Forked(_) => "forked",
            Self::Amended(_) => "amended",
            Self::Unsealed(_) => "unsealed",
            Self::Quarantined(_) => "quarantined",
            Self::Terminated(_) => "terminated",
            Self::Restored(_) => "restored",
        }
    }

    /// Latest occurrences of timers that this record deals with.
    #[must_use]
    pub fn fired(&self) -> Option<&Fired> {
        match self {
            Self::Woke(body) => Some(&body.fired),
            Self::Resumed(body) => Some(&body.fired),
            Self::Refused(body) => Some(&body.fired),
            Self::Seal(body) => Some(&body.fired),
            _ => None,
        }
    }
}

/// Latest occurrence dealt with, by timer.
pub type Fired = BTreeMap<Name, Timestamp>;

/// The answer to a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// Yes.
    Permit,
    /// No: the rules refused, or an invariant did that no rule can override.
    Refuse(Option<Invariant>),
}

/// What no rule can override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// The proposal is for another object than the resident one.
    WrongObject,
    /// The rules at hand are not the bundle's in force.
    WrongBundle,
    /// The object has been quarantined.
    Quarantined,
    /// The object has been terminated.
    Terminated,
    /// The object has left for another host.
    Departed,
    /// Not allowed in the current phase.
    WrongPhase,
    /// The machine cannot run the workload.
    Incapable,
    /// A witness is required and there is none.
    NoWitness,
    /// The witness knows a newer history.
    RolledBack,
    /// The witness knows another live copy.
    Twin,
    /// The workload could not be started, or did not become ready.
    WorkloadFailed,
    /// The workload ended, so nothing keeps the object awake.
    WorkloadGone,
    /// The class has as many instances as it may.
    ClassFull,
}

impl Invariant {
    /// The code used in problem documents and JSON; each has a page under `docs/errors`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrongObject => "wrong_object",
            Self::WrongBundle => "wrong_bundle",
            Self::Quarantined => "quarantined",
            Self::Terminated => "terminated",
            Self::Departed => "departed",
            Self::WrongPhase => "wrong_phase",
            Self::Incapable => "incapable",
            Self::NoWitness => "no_witness",
            Self::RolledBack => "rolled_back",
            Self::Twin => "twin",
            Self::WorkloadFailed => "workload_failed",
            Self::WorkloadGone => "workload_gone",
            Self::ClassFull => "class_full",
        }
    }
}

/// A verdict with everything it was made from, so that it can be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// What was proposed.
    pub action: Action,
    /// The answer.
    pub outcome: Outcome,
    /// The rules' answer in words; absent where an invariant answered before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    /// Facts from outside; memory and lineage are those at the previous record.
    pub inputs: Inputs,
}

/// Body of `inception`. The record's CID is the object's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inception {
    /// Name for people.
    pub name: String,
    /// Owners: they sign amend, fork and terminate.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
    /// Commitment to the key of the first epoch.
    pub next: Digest,
    /// Makes two objects of one definition two.
    #[serde(with = "serde_bytes")]
    pub nonce: Vec<u8>,
    /// The object that this one was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The class that this object is an instance of, and the verdict that founded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Instantiation>,
    /// What its owners let it begin by, where it founded itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<SignedTicket>,
}

/// Link from a child to its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The parent.
    pub object: ObjectId,
    /// The parent's head when the child was created.
    pub head: RecordId,
}

/// Body of `woke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Woke {
    /// The verdict on `wake`.
    pub decision: Decision,
    /// Commitment to the key of the next epoch.
    pub next: Digest,
    /// Timers dealt with by this wake.
    #[serde(default)]
    pub fired: Fired,
}

/// Body of `resumed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumed {
    /// The verdict on `wake`.
    pub decision: Decision,
    /// Commitment to the key of the next epoch.
    pub next: Digest,
    /// How long the machine was suspended, as far as its clocks tell.
    pub paused: Span,
    /// Timers dealt with by this wake.
    #[serde(default)]
    pub fired: Fired,
}

/// Body of `mutated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutated {
    /// Who: `workload`, `controller`, `runtime`, `host`, `caller`, `peer`.
    pub by: String,
    /// Who exactly, where it was a caller, by what their token said, or another object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Box<Principal>>,
    /// What.
    pub change: Change,
}

/// Body of `seal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Timers dealt with while active.
    #[serde(default)]
    pub fired: Fired,
    /// Admissions since the last record of this kind, by deciding rules.
    #[serde(default)]
    pub admitted: Vec<Count>,
}

/// Verdicts of one kind, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Ids of the rules that decided.
    pub rules: Vec<String>,
    /// How often.
    pub times: u64,
}

/// Body of `dormant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dormant {
    /// Why: the verdict on `remain` that refused, or on `sleep` that permitted.
    pub decision: Decision,
    /// How the workload ended: `exited 0`, `killed by signal 9`, `none`.
    pub workload: String,
    /// Admissions not yet counted in a seal.
    #[serde(default)]
    pub admitted: Vec<Count>,
    /// The machine is to be suspended, not stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// Body of `refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The first refusal of its kind in full.
    pub decision: Decision,
    /// How many this record stands for.
    pub times: u64,
    /// From the first to the last of them.
    pub window: Span,
    /// Where it was refused: `runtime`, `door`, `gate`.
    pub at: String,
    /// Timer occurrences that were refused with it.
    #[serde(default)]
    pub fired: Fired,
}

/// Body of `departed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departed {
    /// The verdict on `migrate`.
    pub decision: Decision,
    /// Where to, as far as known.
    pub to: String,
}

/// Body of `arrived`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrived {
    /// Facts of the new host.
    pub inputs: Inputs,
}

/// Body of `forked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forked {
    /// The verdict on `fork`.
    pub decision: Decision,
    /// The child.
    pub child: ObjectId,
    /// The controllers' signatures.
    pub approvals: Vec<Approval>,
}

/// Body of `amended`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amended {
    /// The verdict on `amend` by the old rules.
    pub decision: Decision,
    /// The rules until now; the record's own `bundle` is the new one.
    pub from: BundleId,
    /// The controllers' signatures.
    pub approvals: Vec<Approval>,
}

/// Body of `unsealed`: written at the next boot, by the next epoch's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsealed {
    /// Mutations that no signature covered.
    pub mutations: u64,
    /// The last signed record of the activation.
    pub sealed: u64,
}

/// Body of `quarantined`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// What was found.
    pub reason: String,
}

/// Body of `terminated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminated {
    /// The verdict on `terminate`.
    pub decision: Decision,
    /// The controllers' signatures.
    pub approvals: Vec<Approval>,
}

/// Body of `restored`. The record's epoch is the greater of its history's and `epoch`, so that the next activation is
/// newer than any of the abandoned history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    /// The newest record that a witness knew of the history that is given up.
    pub abandoned: RecordId,
    /// Its position.
    pub seq: u64,
    /// The newest epoch that a witness knew of it.
    pub epoch: u64,
    /// The controllers' signatures over [`super::Restoration`].
    pub approvals: Vec<Approval>,
}
