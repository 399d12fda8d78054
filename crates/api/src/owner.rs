//! What owners sign, as it travels: requests of a running object, and approvals that stand in records. `spec/owner-requests.md`
//! says what the signatures are over.

use serde::{Deserialize, Serialize};

/// A request and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignedRequest {
    /// The request.
    pub request: OwnerRequest,
    /// Signatures, 1 to 32, each of another key.
    pub signatures: Vec<Signed>,
}

/// What an owner signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnerRequest {
    /// The object's id.
    pub object: String,
    /// `wake`, `sleep`, `write`, `amend`, `messages`, `remove`, `migrate` or `terminate`.
    pub ask: String,
    /// SHA-256 of what is asked of it, hexadecimal.
    pub content: String,
    /// The key of the server that is asked.
    pub audience: String,
    /// What makes it good for one use.
    pub once: Once,
    /// Until when it is good, at most 60 s ahead: milliseconds since 1970.
    pub expires: i64,
}

/// What makes a request good for one use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Once {
    /// The last record it stands on; whatever is recorded spends it.
    Head(String),
    /// 16 bytes drawn for it.
    Nonce(Vec<u8>),
}

/// One owner's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The owner's key.
    pub key: String,
    /// Its signature.
    pub sig: String,
}

/// An owner's approval of an amendment, for one object and one definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The owner's key.
    pub key: String,
    /// Its signature.
    pub sig: String,
}
