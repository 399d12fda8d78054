//! Documents of the control API of `suijuris serve`: what its objects and classes are, and what is added.
//! [`crate::routes`] has the routes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::agent::Patch;
use crate::event::Stamped;
use crate::owner::{Approval, SignedRequest};

/// A daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub root: PathBuf,
    /// What owners sign their requests to it for.
    pub server: String,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub data: PathBuf,
    /// Where its definition is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub object_dir: Option<PathBuf>,
    /// How long it was awake in all its life, seconds.
    #[serde(default)]
    pub awake_seconds: u64,
}

/// Objects, a page of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObjectList {
    /// In the order of their ids.
    pub objects: Vec<Object>,
    /// Where the next page begins: give it as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub object_dir: Option<PathBuf>,
}

/// Classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClassList {
    /// In the order of their names.
    pub classes: Vec<Class>,
}

/// A bundle, as it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Owners {
    /// Their keys.
    pub controllers: Vec<String>,
    /// How many of them must sign.
    pub threshold: u32,
}

/// Ports for raw connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub object_dir: Option<PathBuf>,
    /// Ports for its raw connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// Adds a single object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub object_dir: Option<PathBuf>,
    /// Ports for its raw connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// What owners signed of a request that says no more; nothing where the host asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<SignedRequest>>,
}

/// Writes memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PatchMemory {
    /// The writes.
    pub patch: Patch,
    /// What owners signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<SignedRequest>>,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look.
    Read,
    /// Look, and ask for what rules permit the host, or what owners signed.
    Operate,
}

/// A token of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiToken {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// Tokens of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiTokenList {
    /// By name.
    pub tokens: Vec<ApiToken>,
}

/// Makes a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakeApiToken {
    /// Its name: a DNS label.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
}

/// A token that was made; its text is shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewApiToken {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// The token: `Authorization: Bearer TOKEN`.
    pub token: String,
}

impl std::fmt::Debug for NewApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiToken")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// An owner's approval of an amendment, as `suijuris approve` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnerApproval {
    /// The object.
    pub object: String,
    /// `amend`.
    pub action: String,
    /// The definition that is approved.
    pub bundle: String,
    /// What binds the approval to the rules now in force, hexadecimal.
    pub content: String,
    /// The owner's key.
    pub key: String,
    /// Its signature.
    pub sig: String,
}

/// Approvals that wait for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApprovalList {
    /// How many owners must sign.
    pub threshold: u32,
    /// Those that hold for the rules now in force.
    pub approvals: Vec<OwnerApproval>,
}

/// Proposes a new definition to an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Amend {
    /// The definition.
    pub bundle: BundleParts,
    /// What its owners signed: an approval for this object as it is now.
    pub approvals: Vec<Approval>,
}

/// Proposes to an object that it ends for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Terminate {
    /// What its owners signed.
    pub approvals: Vec<Approval>,
}

/// Changes the template from which new instances of a class are founded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AmendClass {
    /// The template.
    pub bundle: BundleParts,
    /// What the class's owners signed.
    pub approvals: Vec<Approval>,
}

/// An event and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
