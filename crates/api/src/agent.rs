//! The agent socket: what a workload can ask of the object it runs in. HTTP/1.1 and JSON over a Unix socket.
//!
//! The committed schema is `docs/agent-socket.md` with `docs/agent-socket.schema.json`, made from these types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /v1/object`: who am I.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Status {
    /// Identity.
    pub object: String,
    /// Name.
    pub name: String,
    /// `waking`, `active`, `resuming` or `draining`.
    pub phase: String,
    /// Activation.
    pub epoch: u64,
    /// Records.
    pub seq: u64,
    /// Last durable record.
    pub head: String,
    /// Rules in force.
    pub bundle: String,
    /// Memory root, hexadecimal.
    pub memory_root: String,
    /// Holds in force, with the time they have left in milliseconds.
    pub holds: BTreeMap<String, u64>,
}

/// One field of `GET /v1/memory`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Field {
    /// What it holds; absent if nothing, `"<secret>"` for a secret in listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was last written, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// `fresh`, `stale`, `never_written` or `clock_unknown`.
    pub freshness: String,
}

/// `GET /v1/memory`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Memory {
    /// Root over all fields, hexadecimal.
    pub root: String,
    /// Position of the record it stands at.
    pub seq: u64,
    /// Fields by name.
    pub fields: BTreeMap<String, Field>,
}

/// `PATCH /v1/memory`: writes that take effect together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// New values by field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Value>,
    /// Items to add to sets, lists and maps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub append: BTreeMap<String, Value>,
    /// Numbers above zero to add to counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, i64>,
    /// Fields to empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
    /// Values that the fields must hold for the patch to be made; `null`: nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expect: BTreeMap<String, Value>,
    /// Root that memory must have for the patch to be made, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_root: Option<String>,
}

impl Patch {
    /// The fields that it writes, in no order; one may be named twice.
    pub fn fields(&self) -> impl Iterator<Item = &String> {
        let values = self.set.keys().chain(self.append.keys());
        values.chain(self.add.keys()).chain(&self.unset)
    }
}

/// Answer to a patch: it is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Patched {
    /// Position of the record.
    pub seq: u64,
    /// Root after it, hexadecimal.
    pub root: String,
}

/// `PUT /v1/holds/NAME`: stay awake, at most this long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Length, as in `30s`; at most `1h`. Put it again to prolong it.
    #[serde(rename = "for")]
    pub length: String,
}

/// `GET /v1/messages`: what waits for the object, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Messages {
    /// CloudEvents 1.0 in JSON, each with its `key` and the instant at which it was `accepted`; for owners also with how many
    /// `deliveries` it had, and whether it is `set_aside`.
    pub messages: Vec<Value>,
    /// How many waited when last counted; at most 1,000.
    pub waiting: u64,
}

/// `POST /v1/messages/ack`: these are dealt with, and do not come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Acknowledge {
    /// The `key` of each message.
    pub keys: Vec<String>,
}

/// `POST /v1/token`: an identity token for somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Who it is for.
    pub audience: String,
    /// Length, as in `1m`; at most `5m`.
    #[serde(rename = "for")]
    pub length: String,
}

/// Answer to a token request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Token {
    /// A JWT signed by the epoch's key (EdDSA).
    pub token: String,
    /// When it expires, RFC 3339.
    pub expires: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
