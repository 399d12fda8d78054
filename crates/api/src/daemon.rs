//! Documents of the control API of `suijuris serve`: what its objects and classes are, and what is added.
//!
//! | Route | |
//! |---|---|
//! | `GET /v1` | [`Daemon`] |
//! | `GET /v1/objects?class=&phase=&data=&after=&limit=` | [`ObjectList`] |
//! | `POST /v1/objects` | [`AddObject`], answered with [`Object`] |
//! | `GET /v1/objects/REF` | [`Object`]; `REF` is an id or a name |
//! | `DELETE /v1/objects/REF` | stops and forgets the object |
//! | `POST /v1/objects/REF/wake`, `…/sleep` | [`Signed`], answered with [`crate::control::Reply`] |
//! | `PATCH /v1/objects/REF/memory` | [`PatchMemory`], answered likewise |
//! | `POST /v1/objects/REF/amend` | [`Amend`], answered likewise |
//! | `POST /v1/objects/REF/terminate` | [`Terminate`], answered likewise |
//! | `PUT /v1/classes/CLASS` | [`AmendClass`], answered with [`Class`] |
//! | `GET`, `POST /v1/classes` | [`ClassList`]; [`AddClass`], answered with [`Class`] |
//! | `… /v1/classes/CLASS/instances/KEY …` | as below `objects/REF` |
//! | `GET /v1/events` | events of all objects as server-sent events, each [`ObjectEvent`] |

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use suijuris_core::class::ClassId;
use suijuris_core::governance::Action;
use suijuris_core::id::{BundleId, Digest, ObjectId};
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::{Approval, Statement};
use suijuris_core::owner_request::SignedRequest;

use crate::agent::Patch;
use crate::event::Stamped;

/// A daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Where callers reach its objects, without a path.
    pub urls: Vec<String>,
    /// What hosts of objects end with.
    pub domain: String,
    /// Its directory.
    pub root: PathBuf,
    /// What owners sign their requests to it for.
    pub server: PublicKey,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its id.
    pub object: String,
    /// Its name for people.
    pub name: String,
    /// Name of its class, for an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its key there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `opening`, `dormant`, `paused`, `waking`, `active`, `draining`, `suspended`, `broken`, `lost` or `stopped`;
    /// `terminated`, `departed` or `quarantined` for one that its history keeps from waking.
    pub phase: String,
    /// Where callers reach it.
    pub url: String,
    /// Where its data is, on the daemon's host.
    pub data: PathBuf,
    /// Where its definition is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_dir: Option<PathBuf>,
    /// How long it was awake in all its life, seconds.
    #[serde(default)]
    pub awake_seconds: u64,
}

/// Objects, a page of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectList {
    /// In the order of their ids.
    pub objects: Vec<Object>,
    /// Where the next page begins: give it as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Its name in this daemon.
    pub class: String,
    /// Its id.
    pub id: String,
    /// Instances that are here.
    pub instances: u64,
    /// Instances at most.
    pub max_instances: u64,
    /// How long all its instances that are here were awake, seconds.
    #[serde(default)]
    pub awake_seconds: u64,
    /// The template in force.
    pub bundle: String,
    /// Where callers reach an instance; `KEY` stands for its key.
    pub url: String,
    /// Where its definition is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_dir: Option<PathBuf>,
}

/// Classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassList {
    /// In the order of their names.
    pub classes: Vec<Class>,
}

/// A bundle, as it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleParts {
    /// The manifest, base64.
    pub manifest: String,
    /// The rules as text.
    pub governance: String,
    /// The decision program, base64.
    pub program: String,
}

/// Whose something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owners {
    /// Their keys.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
}

/// Ports for raw connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The first; 0: any one that is free.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// Each connection begins with a header of the PROXY protocol, and comes from a trusted proxy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy: bool,
}

/// Adds a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddClass {
    /// What it is called here: a DNS label.
    pub class: String,
    /// Its template.
    pub bundle: BundleParts,
    /// Its owners.
    pub owners: Owners,
    /// Where its definition is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_dir: Option<PathBuf>,
    /// Ports for its raw connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// Adds a single object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddObject {
    /// What it is called here: a DNS label.
    pub name: String,
    /// Its definition.
    pub bundle: BundleParts,
    /// Its owners.
    pub owners: Owners,
    /// Where its definition is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_dir: Option<PathBuf>,
    /// Ports for its raw connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// What owners signed of a request that says no more; nothing where the host asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<SignedRequest>>,
}

/// Writes memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchMemory {
    /// The writes.
    pub patch: Patch,
    /// What owners signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<SignedRequest>>,
}

/// Proposes a new definition to an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amend {
    /// The definition.
    pub bundle: BundleParts,
    /// What its owners signed: an approval for this object as it is now.
    pub approvals: Vec<Approval>,
}

/// Proposes to an object that it ends for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminate {
    /// What its owners signed.
    pub approvals: Vec<Approval>,
}

/// Changes the template from which new instances of a class are founded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmendClass {
    /// The template.
    pub bundle: BundleParts,
    /// What the class's owners signed ([`class_statement`]).
    pub approvals: Vec<Approval>,
}

/// What owners of a class sign to replace its template `from` by `to`.
#[must_use]
pub fn class_statement(class: ClassId, from: BundleId, to: BundleId) -> Statement {
    Statement {
        object: ObjectId::from_digest(*class.digest()),
        action: Action::Amend,
        content: Digest::of_parts(&[b"suijuris/v1/class-template", &from.digest().0, &to.digest().0]),
    }
}

/// An event and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEvent {
    /// The object.
    pub object: String,
    /// Its name for people.
    pub name: String,
    /// Name of its class, for an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its key there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub event: Stamped,
}
