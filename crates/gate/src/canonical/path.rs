//! Paths in normal form (RFC 3986 §6.2.2), made stricter where servers disagree.

use std::borrow::Cow;

use crate::head::{Reject, bad};

/// The canonical form of an absolute path of visible ASCII characters. Applied again it changes nothing.
pub(crate) fn path(sent: &str) -> Result<Cow<'_, str>, Reject> {
    if is_plain(sent.as_bytes()) {
        return Ok(Cow::Borrowed(sent));
    }
    let spelt = respell(sent)?;
    let mut segments = Vec::new();
    // What follows the last slash; a dot segment there leaves the slash alone.
    let mut last = "";
    for segment in spelt.split('/') {
        last = segment;
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ if hides_dots(segment) => {
                return Err(bad(
                    "a path segment begins with parameters, or has them after dots; write it without `;`",
                ));
            }
            _ => segments.push(segment),
        }
    }
    let mut canonical = String::with_capacity(spelt.len());
    for segment in &segments {
        canonical.push('/');
        canonical.push_str(segment);
    }
    if canonical.is_empty() || matches!(last, "" | "." | "..") {
        canonical.push('/');
    }
    Ok(Cow::Owned(canonical))
}

/// Whether a path is canonical at first sight, as nearly all are.
fn is_plain(path: &[u8]) -> bool {
    let plain = path
        .iter()
        .all(|&byte| is_pchar(byte) && byte != b';' || byte == b'/');
    let after = path.get(1..).unwrap_or_default();
    let mut pairs = path.iter().zip(after);
    plain && path.first() == Some(&b'/') && !pairs.any(|(&a, &b)| a == b'/' && (b == b'/' || b == b'.'))
}

/// Escapes as they must be, and what must be escaped.
fn respell(sent: &str) -> Result<String, Reject> {
    let mut spelt = String::with_capacity(sent.len() + 8);
    let mut decoded = Vec::with_capacity(sent.len());
    let mut bytes = sent.bytes();
    while let Some(byte) = bytes.next() {
        let meant = if byte == b'%' {
            let digits = [bytes.next(), bytes.next()];
            escaped(digits).ok_or(bad("the path has a `%` that is not followed by two hex digits"))?
        } else {
            byte
        };
        decoded.push(meant);
        match meant {
            b'\\' => {
                return Err(bad(
                    "the path has a backslash, which some programs read as a slash",
                ));
            }
            b'<' | b'>' | b'`' if byte != b'%' => return Err(bad("the path has one of <>` unescaped")),
            b'/' if byte == b'%' => {
                return Err(bad(
                    "the path has an escaped slash, which some programs read as a slash",
                ));
            }
            0..=0x1f | 0x7f => return Err(bad("the path has an escaped control character")),
            _ if is_unreserved(meant) || (byte != b'%' && (is_pchar(byte) || byte == b'/')) => {
                spelt.push(char::from(meant));
            }
            _ => push_escape(meant, &mut spelt),
        }
    }
    // Also what is overlong, and so may decode to a slash or dot.
    match str::from_utf8(&decoded) {
        Ok(_) => Ok(spelt),
        Err(_) => Err(bad("the path's escapes are not UTF-8")),
    }
}

fn escaped([high, low]: [Option<u8>; 2]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let value = digit(high?)? * 16 + digit(low?)?;
    u8::try_from(value).ok()
}

fn push_escape(byte: u8, out: &mut String) {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).map_or('0', |c| c.to_ascii_uppercase());
    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §3.3, without escapes.
fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

/// Programs that take `;…` for parameters leave them out and see an empty or dot segment (`/..;/private`).
fn hides_dots(segment: &str) -> bool {
    let name = segment.split(';').next().unwrap_or_default();
    let name = name.split("%3B").next().unwrap_or_default();
    name.len() < segment.len() && matches!(name, "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(sent: &str, canonical: Option<&str>) {
        assert_eq!(path(sent).ok().as_deref(), canonical, "{sent:?}");
    }

    #[test]
    fn one_resource_has_one_path() {
        for sent in [
            "/private",
            "/%70rivate",
            "/%70%72%69%76%61%74%65",
            "//private",
            "///private",
            "/./private",
            "/a/../private",
            "/a/%2e%2e/private",
            "/a/b/../%2E./private",
            "/../private",
            "/..//private",
            "/a//../private",
        ] {
            check(sent, Some("/private"));
        }
        check("/a/b/c/./../../g", Some("/a/g"));
        check("/", Some("/"));
        check("//", Some("/"));
        check("/a/", Some("/a/"));
        check("/a/.", Some("/a/"));
        check("/a/b/..", Some("/a/"));
        check("/..", Some("/"));
        check("/.well-known/x", Some("/.well-known/x"));
        check("/...", Some("/..."));
        check("/a.b", Some("/a.b"));
        check("/%7euser/%c3%a9", Some("/~user/%C3%A9"));
        check("/a%3ab%40c", Some("/a%3Ab%40c"));
        check("/a:b@c", Some("/a:b@c"));
        check("/{x}|y", Some("/%7Bx%7D%7Cy"));
        check("/a%20b", Some("/a%20b"));
        check("/a%2520b", Some("/a%2520b"));
        check("/a;v=1/b", Some("/a;v=1/b"));
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for sent in [
            "/a%2fb",
            "/a%2Fb",
            "/a\\b",
            "/a%5cb",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%+1",
            "/%c0%af",
            "/%c0%ae",
            "/%ff",
            "/%e9",
            "/..;/private",
            "/.;x/private",
            "/;/private",
            "/%2e%2e;/x",
            "/..%3b/x",
        ] {
            check(sent, None);
        }
    }

    /// Spelt anew without changing what it means: one character escaped, or a detour taken.
    fn respelt(path: &str, at: usize, how: u8) -> String {
        let at = at % path.len();
        let (before, rest) = path.split_at(at);
        let (byte, after) = (rest.as_bytes()[0], &rest[1..]);
        match (byte, how) {
            (b'/', 0) => format!("{before}//{after}"),
            (b'/', 1) => format!("{before}/./{after}"),
            (b'/', 2) => format!("{before}/x/../{after}"),
            (b'/', _) => format!("{before}/%2e/{after}"),
            (_, 0 | 1) => format!("{before}%{byte:02x}{after}"),
            (_, _) => format!("{before}%{byte:02X}{after}"),
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(sent in "/[!-~]{0,24}") {
            if let Ok(once) = path(&sent) {
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.contains("//") && !once.contains("/./") && !once.contains("/../"));
                prop_assert_eq!(path(&once).map(Cow::into_owned), Ok(once.clone().into_owned()));
            }
        }

        #[test]
        fn every_spelling_gives_the_same(
            plain in "(/[a-z0-9._~-]{1,6}){1,4}/?", steps in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4), 0..6),
        ) {
            prop_assume!(plain.split('/').all(|segment| segment.is_empty() || !segment.trim_matches('.').is_empty()));
            let mut spelling = plain.clone();
            for (at, how) in steps {
                let at = at.index(spelling.len());
                // An escape is not escaped again: that would mean something else.
                let inside = spelling.as_bytes()[at] == b'%' || spelling[..at].ends_with('%')
                    || at >= 2 && spelling.as_bytes()[at - 2] == b'%';
                if !inside {
                    spelling = respelt(&spelling, at, how);
                }
            }
            prop_assert_eq!(path(&spelling).map(Cow::into_owned), Ok(plain), "{}", spelling);
        }
    }
}
