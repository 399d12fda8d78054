//! RFC 9457 problem documents: what a refused caller reads.
//!
//! One refusal, one document, whoever gives it (gate, door, agent socket), so that a client needs one parser.

use serde::{Deserialize, Serialize};

/// Media type of a serialised [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One rule that took part in a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `@id` of the rule, or its position (`policy3`) where it has none.
    pub id: String,
    /// `@reason` of the rule, empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// An RFC 9457 problem document with the extension members of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Address of the page that explains `code`: `https://suijuris.dev/errors/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short text, the same for every occurrence of `code`.
    pub title: String,
    /// HTTP status, repeated in the body as RFC 9457 asks.
    pub status: u16,
    /// Stable machine-readable code; each has a page `docs/errors/<code>.md`.
    pub code: String,
    /// What happened this time and what to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Identity of the object that answered, empty where none is resident.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// Action that was refused (`wake`, `admit`, …), empty where none was proposed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// Id of the refusal, where one is recorded: the owner finds it with `suijuris why ID`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Rules that decided; on the agent socket only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Seconds until a retry may succeed; the same number stands in the `Retry-After` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem of `code` with its fixed `title` and HTTP `status`.
    #[must_use]
    pub fn new(status: u16, code: &str, title: &str) -> Self {
        Self {
            kind: format!("https://suijuris.dev/errors/{code}"),
            title: title.to_owned(),
            status,
            code: code.to_owned(),
            detail: String::new(),
            object: String::new(),
            action: String::new(),
            id: String::new(),
            rules: Vec::new(),
            retry_after: None,
        }
    }

    /// The same problem without what is said of this occurrence.
    #[must_use]
    pub fn bare(self) -> Self {
        Self {
            detail: String::new(),
            object: String::new(),
            action: String::new(),
            id: String::new(),
            rules: Vec::new(),
            retry_after: None,
            ..self
        }
    }

    /// What a 401 says in `WWW-Authenticate` (RFC 6750, section 3): a token is needed, or the one shown is not valid.
    #[must_use]
    pub fn challenge(&self) -> Option<&'static str> {
        match (self.status, self.code.as_str()) {
            (401, "invalid_token") => Some("Bearer error=\"invalid_token\""),
            (401, _) => Some("Bearer"),
            _ => None,
        }
    }

    /// The same problem with a text about this occurrence.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}
