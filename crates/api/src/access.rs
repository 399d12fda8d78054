//! Requests as the access log tells them: one JSON object each. No header field is among them, and no part of a body.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Bytes of a path or a query that are told at most; the rest is cut off.
pub const MAX_TARGET: usize = 1_024;

/// How much of each request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// All but the query, which may hold what nobody else should read.
    Path,
    /// The query too.
    Query,
}

/// A request that was answered, or whose client left before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// When it ended: RFC 3339, UTC, milliseconds. Empty until somebody with a clock has it.
    pub at: String,
    /// Whose it is, as rules see it.
    pub peer: IpAddr,
    /// `1.0`, `1.1` or `2`.
    pub version: String,
    /// As sent.
    pub method: String,
    /// Canonical, as rules see it.
    pub host: String,
    /// Canonical, as rules see it; at most [`MAX_TARGET`] bytes.
    pub path: String,
    /// Without `?`; only where [`Detail::Query`] asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Of the answer; none where the client left, or was cut off, before it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Of the problem document, where it was not the workload that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Bytes of the answer's body that were sent, as framed.
    pub bytes: u64,
    /// From its head to the end of the answer, milliseconds.
    pub took_ms: u64,
    /// Requests before this one that are not in the log, since what takes it was too slow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
pub(crate) const fn is_zero(count: &u64) -> bool {
    *count == 0
}
