//! What an object was and did, as documents: its state, its log, decisions explained, asked about and verified. The control
//! API of a daemon answers with them, and commands print them with `--json`, whoever made them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{Field, Memory};
use crate::daemon::BundleParts;
use crate::event::Verdict;

/// Kinds of record.
pub const KINDS: [&str; 15] = [
    "inception",
    "woke",
    "resumed",
    "mutated",
    "seal",
    "dormant",
    "refused",
    "departed",
    "arrived",
    "forked",
    "amended",
    "unsealed",
    "quarantined",
    "restored",
    "terminated",
];

/// A timer that will propose `wake`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NextTimer {
    /// Its name.
    pub name: String,
    /// When it is due, RFC 3339; not later than now where it waits to be dealt with.
    pub at: String,
}

/// An object that is left alone after a failure; an owner's wake is tried at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Paused {
    /// For so long yet, seconds.
    pub seconds: u64,
    /// After what: `crashed (exit 1)`.
    pub why: String,
}

/// An object as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct State {
    /// Its id.
    pub object: String,
    /// Its name.
    pub name: String,
    /// `dormant`, `active`, …, or `crashed`: the last run did not shut down cleanly.
    pub phase: String,
    /// Whether somebody runs it, or works at it.
    pub running: bool,
    /// Process that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Where callers reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Activation.
    pub epoch: u64,
    /// Position of the last record.
    pub seq: u64,
    /// The last record.
    pub head: String,
    /// Rules in force.
    pub bundle: String,
    /// When it was made, RFC 3339.
    pub born: String,
    /// Whom it was forked from, as proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// When the last record was made.
    pub at: String,
    /// When it woke last.
    pub last_woke: Option<String>,
    /// When it fell asleep last.
    pub last_dormant: Option<String>,
    /// The previous run did not shut down cleanly.
    pub unsealed: bool,
    /// Records at the end that no signature covers yet.
    pub uncovered: u64,
    /// Refusals, counted.
    pub refused: u64,
    /// Time awake in all its life, seconds.
    pub awake_seconds: Option<u64>,
    /// Activations in a row that were cut off, or whose workload crashed or never became ready.
    pub crashes: u64,
    /// That it is left alone after a failure, where somebody runs it and it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Its holds, where somebody runs it: names, with the time they have left in milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<String, u64>,
    /// The last write is incomplete; the next start removes it.
    pub torn: bool,
    /// The timer that is due next, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_timer: Option<NextTimer>,
    /// Messages that wait, where that could be seen; those set aside among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Messages that are set aside.
    #[serde(default)]
    pub set_aside: u64,
    /// Its owners' keys.
    pub controllers: Vec<String>,
    /// How many of them must sign.
    pub threshold: u32,
    /// Where its data is, on its host.
    pub data: String,
    /// Its memory.
    pub memory: Memory,
}

/// A parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Parent {
    /// Its id.
    pub object: String,
    /// Its name.
    pub name: String,
    /// The parent's record of the birth.
    pub record: String,
    /// Position of that record.
    pub seq: u64,
}

/// Fields that were written, as they stand then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemoryChange {
    /// Position of the record that memory stands at.
    pub seq: u64,
    /// The fields by name.
    pub fields: BTreeMap<String, Field>,
}

/// A page of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Log {
    /// Records, oldest first.
    pub records: Vec<Record>,
    /// Position from which to go on, as `from`.
    pub next: u64,
    /// Whether there are further records now.
    pub more: bool,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Record {
    /// Its position.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// One of [`KINDS`].
    pub kind: String,
    /// When it was made, RFC 3339.
    pub at: String,
    /// Activation.
    pub epoch: u64,
    /// Whether it carries a signature of its own.
    pub signed: bool,
    /// Root of memory after it, hexadecimal.
    pub memory: String,
    /// Rules in force.
    pub bundle: String,
    /// What it says, in a line.
    pub summary: String,
    /// The decision that it keeps.
    pub verdict: Option<Verdict>,
    /// Its body as in `spec/records.md`, writes in the plain form of their fields.
    pub body: Value,
}

/// A rule with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuleText {
    /// Its id.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// Its reason.
    pub reason: Option<String>,
    /// Line in `governance.cedar`, from 1.
    pub line: u64,
    /// As it is written.
    pub text: String,
}

/// Something that was known when a decision was made, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fact {
    /// What it is about.
    pub name: String,
    /// In words.
    pub text: String,
}

/// A decision for people: who proposed it and what led to it, but rules and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explained {
    /// Who proposed it, and what made them.
    pub proposed: String,
    /// What led to it, a sentence each.
    pub grounds: Vec<String>,
    /// What was known.
    pub facts: Vec<Fact>,
}

/// A recorded decision explained, and made again from its recorded inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Why {
    /// Position of the record that keeps it.
    pub seq: u64,
    /// That record.
    pub record: String,
    /// Its kind.
    pub kind: String,
    /// When it was made, RFC 3339.
    pub at: String,
    /// Activation.
    pub epoch: u64,
    /// Position of the record that the decision was made after; 0 for what founded an instance of a class.
    pub after: u64,
    /// Rules that decided.
    pub bundle: String,
    /// Which instance of which class it founded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The decision.
    pub verdict: Verdict,
    /// The same for people.
    #[serde(flatten)]
    pub explained: Explained,
    /// The rules that decided.
    pub rules: Vec<RuleText>,
    /// Fields that were not fresh.
    pub not_fresh: Vec<Value>,
    /// Rules that nearly permitted it.
    pub near_misses: Vec<Value>,
    /// The recorded inputs, as in `spec/records.md`.
    pub inputs: Value,
    /// Memory that it was decided on.
    pub memory: Memory,
    /// The decision made again.
    pub replay: Replay,
}

/// A decision made again from its recorded inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Replay {
    /// Whether it is identical.
    pub same: bool,
    /// Digest of the recorded one, hexadecimal.
    pub recorded: String,
    /// Digest of the other.
    pub again: String,
    /// What would be decided now: `permit` or `refuse`.
    pub outcome: String,
}

/// A proposal that nobody made: what `what-if` asks an object about. What is left out is what the action suggests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Supposed {
    /// `wake`, `remain`, `admit`, `sleep`, `mutate`, `read`, `migrate`, `fork`, `amend`, `terminate` or, in tests of a class, `instantiate`.
    pub action: String,
    /// Who proposes: `caller`, `host`, `timer`, `controller`, `workload` or `self`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What made them: `request`, `timer`, `manual`, `memory`, `message` or `boot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Timer that fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<String>,
    /// Topic of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Fields that changed, or that are to be written or read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Method of the request; `GET` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path of the request, query included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Host that the request names; `localhost` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Address of the peer; `127.0.0.1` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// `http/1.1`, `http/2`, `websocket` or `tcp`; the first where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Headers of the request that the rules may read, `NAME=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// What TLS came to, where it ended at somebody whose word counts, `NAME=VALUE`: `version`, `sni`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<String>,
    /// The client's verified certificate, `NAME=VALUE`: `name`, `subject`, `issuer`, `fingerprint`, `not_after`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_cert: Vec<String>,
    /// Subject of the caller's verified token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Scopes of that token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Claims of that token, `NAME=VALUE`; the value is JSON, or text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// How often the one who asks did so in the running window, this time included, `NAME=N`; 1 where a rate is not named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<String>,
    /// Holds in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<String>,
    /// Time without traffic, as in `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// Time since the wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// When: RFC 3339, or a length of time from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What a `mutate` writes; for any other action, as if this were written now. `FIELD=VALUE`; the value is JSON, or text
    /// for a field that holds text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// The same for counters: added to them, `FIELD=NUMBER`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// The same for sets, lists and maps: items added to them, `FIELD=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub append: Vec<String>,
    /// The same: fields that are emptied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

/// What would be decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WhatIf {
    /// The decision.
    pub verdict: Verdict,
    /// The same for people.
    #[serde(flatten)]
    pub explained: Explained,
    /// The rules that decide.
    pub rules: Vec<RuleText>,
    /// The facts that were supposed.
    pub inputs: Value,
}

/// Asks for the recorded decisions under another definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rejudge {
    /// The definition.
    pub bundle: BundleParts,
}

/// Recorded decisions under another definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rejudged {
    /// That definition.
    pub bundle: String,
    /// Recorded decisions, those that were only counted included.
    pub judged: u64,
    /// How many of them would come out otherwise.
    pub would_change: u64,
    /// The first of those.
    pub changed: Vec<Changed>,
}

/// A recorded decision that would come out otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changed {
    /// Position of its record.
    pub seq: u64,
    /// When that was made, RFC 3339.
    pub at: String,
    /// How many decisions the record stands for.
    pub times: u64,
    /// Who proposed it, and what made them.
    pub proposed: String,
    /// As it was decided.
    pub was: Verdict,
    /// As it would be.
    pub would_be: Verdict,
}

/// A whole history, verified: every record, every signature, every bundle compiled again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verification {
    /// Whether all of it holds.
    pub verified: bool,
    /// The object.
    pub object: Option<String>,
    /// Records that hold.
    pub records: u64,
    /// The last of them.
    pub head: Option<String>,
    /// Records at the end that no signature covers yet.
    pub uncovered: u64,
    /// Bundles that the history names.
    pub bundles: Vec<String>,
    /// What does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What does not hold of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fault {
    /// Position of the first bad record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Its file, in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Byte in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub message: String,
}

/// What became of a message that waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MessageOutcome {
    /// Its key in the inbox.
    pub key: String,
    /// `retried` or `dropped`.
    pub outcome: String,
}

/// A message was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sent {
    /// `stored`, or `duplicate` of one that was accepted before.
    pub outcome: String,
    /// The object.
    pub object: String,
    /// Id of the message within its source.
    pub id: String,
    /// Where it comes from.
    pub source: String,
    /// Its key in the inbox.
    pub key: String,
    /// Whether its type is a topic that wakes the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakes: Option<bool>,
}
