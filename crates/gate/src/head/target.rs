//! Request targets: origin form, absolute form, and `*` (RFC 9112 §3.2).

use crate::canonical::is_authority;

use super::{Reject, bad};

/// The parts of a request target.
pub(super) struct Target<'a> {
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    pub(super) fn of(method: &str, target: &'a str) -> Result<Self, Reject> {
        if method == "CONNECT" {
            let detail = "this is no forward proxy";
            return Err(Reject {
                status: 501,
                code: "not_implemented",
                detail,
            });
        }
        // A fragment is for the client alone. The parser of HTTP/2 leaves it out too, so that both take the same.
        let target = target.split('#').next().unwrap_or_default();
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad(
                "the request target has a character that must be percent-encoded",
            ));
        }
        // Not taken over HTTP/2 either.
        let query = target.split_once('?').map_or("", |(_, query)| query);
        if query.bytes().any(|byte| b"\"<>".contains(&byte)) {
            return Err(bad("the query has one of \"<> unescaped"));
        }
        if target.starts_with('/') {
            return Ok(Self::origin(target, None));
        }
        if target == "*" && method == "OPTIONS" {
            return Ok(Self {
                path: target,
                query: None,
                authority: None,
            });
        }
        Self::absolute(target).ok_or(bad("the request target is neither a path nor an http address"))
    }

    fn origin(target: &'a str, authority: Option<&'a str>) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Self {
            path,
            query,
            authority,
        }
    }

    fn absolute(target: &'a str) -> Option<Self> {
        let (scheme, rest) = target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end)?;
        let valid = !authority.is_empty() && authority.bytes().all(is_authority);
        let mut parts = Self::origin(target, Some(authority));
        if parts.path.is_empty() {
            parts.path = "/";
        }
        valid.then_some(parts)
    }
}
