//! Documents of the control API of `suijuris serve`: what its objects and classes are, and what is added.
//! [`crate::routes`] has the routes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::agent::Patch;
use crate::control::Place;
use crate::event::{Stamped, Verdict};
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
    /// `archived` for an instance that slept longer than `archive_after`; `terminated`, `departed` or `quarantined` for one that its
    /// history keeps from waking.
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
    /// Number of its last activation; absent while the daemon does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
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

/// Takes an object out of the daemon: it is asked to sleep, and to leave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// The capsule to write, an absolute path on the daemon's host; in the daemon's archive where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub to: Option<PathBuf>,
    /// Whom its key is sealed to in the capsule: age recipients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seal_to: Vec<String>,
    /// Nothing of it is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forget: bool,
    /// Against its rules: recorded as the host's act.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// That it sleeps, signed by owners; asked by the host where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<Box<SignedRequest>>,
    /// That it leaves, signed by owners: `remove`, over the place that it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<SignedRequest>>,
}

/// Makes a child that begins with the memory of the object's suspended machine. Asked without approvals, it is prepared; its owners
/// sign for its id then, and the same is asked again with what they signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// What the child is called here: a DNS label.
    pub to: String,
    /// It gets the parent's secrets too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secrets: bool,
    /// That it is proposed, signed by owners: `fork`, over the parent's last record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Approval>,
    /// That this child is to be, signed by owners: `fork`, over its id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
}

/// Moves an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// Where to.
    pub to: MoveTo,
    /// Whom its key is sealed to in a capsule: age recipients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seal_to: Vec<String>,
    /// The workload's volume does not go into the file beside the capsule.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave_volume: bool,
    /// That it sleeps, signed by owners; asked by the host where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<Box<SignedRequest>>,
    /// That it moves, signed by owners: `migrate`, over the place that it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<SignedRequest>>,
}

/// Where an object moves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MoveTo {
    /// Another directory on the daemon's host, an absolute path; it arrives there.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    Dir(PathBuf),
    /// A capsule on the daemon's host, an absolute path; whoever imports it lets it arrive.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    File(PathBuf),
    /// Another server, which was offered it: it is packed for whoever carries it there.
    Server {
        /// Where that is, as rules see it.
        place: Place,
        /// How it is reached, for people.
        url: String,
    },
    /// Nowhere: it departed, has not arrived, and is taken back.
    Back,
}

/// What became of an object that was to leave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Left {
    /// The verdict by which it refuses; all else is absent then, and it is where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Verdict>,
    /// Position of the record of its departure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departed: Option<u64>,
    /// Position of the record of its arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived: Option<u64>,
    /// The capsule that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub capsule: Option<PathBuf>,
    /// The workload's volume beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub volume: Option<PathBuf>,
    /// The directory that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub data: Option<PathBuf>,
}

impl Left {
    /// It refuses.
    #[must_use]
    pub fn refused(verdict: Verdict) -> Self {
        Self {
            refused: Some(verdict),
            ..Self::default()
        }
    }
}

/// Offers an object to this server, before it departs from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The object.
    pub object: String,
    /// What it would be called here: a DNS label.
    pub name: String,
    /// The definition in force.
    pub bundle: BundleParts,
    /// That it moves here, signed by an owner whom this server receives from: `migrate`, over `arrives at this server`.
    pub signed: Box<SignedRequest>,
}

/// What an offer is answered with: it would be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Offered {
    /// Whom its key is sealed to: an age recipient, the same one as long as the same owners offer the object and it has not arrived.
    pub recipient: String,
    /// Where it would be, as its rules see that.
    pub place: Place,
}

/// How much of an object that was offered is here. What nobody goes on with is removed after a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Receiving {
    /// The object.
    pub object: String,
    /// Its capsule.
    pub capsule: PartState,
    /// Its packed volume.
    pub volume: PartState,
}

/// How much of a file is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartState {
    /// SHA-256 of the whole file as its sender named it, in hexadecimal digits; none where nothing is here, or none was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes of it that are here: its sender goes on behind them.
    pub bytes: u64,
    /// All of it is here, and is what its digest says.
    pub whole: bool,
}

/// A part of an object came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Received {
    /// The object.
    pub object: String,
}

/// Who has a key of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClassKey {
    /// Id of the class.
    pub class: String,
    /// The key.
    pub key: String,
    /// The object that has it, or had it.
    pub object: String,
    /// `founding`, `founded`, or `tombstone`: it was removed, and the key stays taken.
    pub state: String,
    /// Who holds or held the object: host and process.
    pub who: String,
}

/// Frees the key of a removed instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FreeKey {
    /// That it is freed, signed by an owner of the class: `remove` of the object that had it, over `free CLASS/KEY` with the
    /// id of the class.
    pub signed: Box<SignedRequest>,
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
