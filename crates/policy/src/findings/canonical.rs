//! Comparisons of paths and hosts with what no request has: rules see one canonical form of each (docs/rules.md, "One
//! request, one spelling"), so that such a `forbid` forbids nothing.

use suijuris_core::governance::{Const, Listing, Node, NodeId, Slot};

use super::{at_places, node};
use crate::diagnostic::{Diagnostic, Severity};

/// A part of a request that has one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Host,
}

/// The findings.
pub(super) fn all(listing: &Listing) -> Vec<Diagnostic> {
    let part = |id: &NodeId| match node(listing, *id)? {
        Node::Slot(Slot::Path) => Some(Part::Path),
        Node::Slot(Slot::RequestHost) => Some(Part::Host),
        _ => None,
    };
    let compared = |slot: &NodeId, value: &NodeId| {
        let part = part(slot)?;
        let text = texts(listing, *value)
            .into_iter()
            .find(|text| wrong(part, text, true).is_some())?;
        message(part, text, true)
    };
    at_places(
        listing,
        Severity::Warning,
        "rules.never_canonical",
        "write the canonical form: docs/rules.md, One request, one spelling",
        &|node| match node {
            Node::Equal(a, b) => compared(a, b).or_else(|| compared(b, a)),
            Node::Contains(set, item) => compared(item, set),
            Node::Like(text, pieces) => {
                let part = part(text)?;
                let whole = pieces.len() == 1;
                if let Some(found) = pieces.iter().find_map(|piece| message(part, piece, whole)) {
                    return Some(found);
                }
                let first = pieces.first()?;
                (part == Part::Path && !first.is_empty() && !first.starts_with('/') && first != "*")
                    .then(|| format!("every path begins with `/`, and `{first}…` does not"))
            }
            _ => None,
        },
    )
}

fn texts(listing: &Listing, id: NodeId) -> Vec<&str> {
    match node(listing, id) {
        Some(Node::Const(Const::Text(text))) => vec![text],
        Some(Node::Const(Const::Set(items))) => {
            let texts = items.iter().filter_map(|item| match item {
                Const::Text(text) => Some(text.as_str()),
                _ => None,
            });
            texts.collect()
        }
        _ => Vec::new(),
    }
}

fn message(part: Part, text: &str, whole: bool) -> Option<String> {
    let why = wrong(part, text, whole)?;
    Some(format!("nothing is ever equal to `{text}`: {why}"))
}

/// Why no canonical form has this text: as a whole, or as a piece of it.
fn wrong(part: Part, text: &str, whole: bool) -> Option<&'static str> {
    match part {
        Part::Host if text.bytes().any(|byte| byte.is_ascii_uppercase()) => Some("hosts are in lower case"),
        Part::Host if !text.contains('[') && text.contains(':') && !text.contains("::") => {
            Some("the port stands apart, in context.request.port")
        }
        Part::Host if whole && text.ends_with('.') => Some("hosts have no final dot"),
        Part::Host => None,
        Part::Path if whole && !text.is_empty() && !text.starts_with('/') && text != "*" => {
            Some("every path begins with `/`")
        }
        Part::Path if text.contains("//") => Some("doubled slashes become one"),
        Part::Path if text.contains("/./") || text.contains("/../") => Some("dot segments are resolved"),
        Part::Path if text.contains(['?', '#']) => Some("the query stands apart, in context.request.query"),
        Part::Path if !escapes_are_canonical(text) => {
            Some("letters, digits and -._~ are decoded, and other escapes are in upper case")
        }
        Part::Path
            if text
                .bytes()
                .any(|byte| !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte)) =>
        {
            Some("such characters are escaped in paths")
        }
        Part::Path => None,
    }
}

/// An escape cut by the end of a piece of a pattern counts as one.
fn escapes_are_canonical(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let digits = after.get(..2).unwrap_or_default();
        if digits.len() < 2 {
            return true;
        }
        let decoded = u8::from_str_radix(digits, 16).ok();
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/\\".contains(&byte) || byte.is_ascii_control();
        digits == digits.to_ascii_uppercase() && decoded.is_some_and(|byte| !plain(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_request_has_is_found() {
        let check =
            |part, text: &str, found: bool| assert_eq!(wrong(part, text, true).is_some(), found, "{text:?}");
        check(Part::Path, "/private", false);
        check(Part::Path, "/caf%C3%A9", false);
        check(Part::Path, "/a%40b", false);
        check(Part::Path, "", false);
        check(Part::Path, "*", false);
        for text in [
            "//private",
            "/%70rivate",
            "/caf%c3%a9",
            "/a/../b",
            "private",
            "/a?b",
            "/a b",
            "/a%2Fb",
        ] {
            check(Part::Path, text, true);
        }
        check(Part::Host, "a.example", false);
        check(Part::Host, "[::1]", false);
        for text in ["A.example", "a.example.", "a.example:80"] {
            check(Part::Host, text, true);
        }
    }
}
