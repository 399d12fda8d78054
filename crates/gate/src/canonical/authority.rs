//! Hosts in lower case without a final dot, and their ports apart.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::head::{Reject, bad};

/// What a client named, in canonical form; both empty where HTTP/1.0 named nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Authority<'a> {
    pub(crate) host: Cow<'a, str>,
    pub(crate) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `uri-host [":" port]`.
    pub(crate) fn read(sent: &'a str) -> Result<Self, Reject> {
        let malformed = bad("Host is not a host and port");
        if !sent.bytes().all(is_authority) {
            return Err(malformed);
        }
        let end = match sent.strip_prefix('[') {
            Some(address) => address.find(']').ok_or(malformed)? + 2,
            None => sent.find(':').unwrap_or(sent.len()),
        };
        let (host, port) = sent.split_at_checked(end).ok_or(malformed)?;
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return Err(malformed),
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| bad("the port is beyond 65535"))?)
            }
            Some(_) => return Err(malformed),
        };
        let host = if host.starts_with('[') {
            address(host).ok_or(malformed)?
        } else {
            name(host)?
        };
        if host.is_empty() && end < sent.len() {
            return Err(malformed);
        }
        Ok(Self { host, port })
    }
}

/// An IPv6 address in brackets, in the form of RFC 5952.
fn address(sent: &str) -> Option<Cow<'_, str>> {
    let inner = sent.strip_prefix('[')?.strip_suffix(']')?;
    let canonical = format!("[{}]", inner.parse::<Ipv6Addr>().ok()?);
    Some(if canonical == sent {
        Cow::Borrowed(sent)
    } else {
        Cow::Owned(canonical)
    })
}

fn name(sent: &str) -> Result<Cow<'_, str>, Reject> {
    let host = sent.strip_suffix('.').unwrap_or(sent);
    if host.bytes().any(|byte| b"[]".contains(&byte)) {
        return Err(bad("Host is not a host and port"));
    }
    if !sent.is_empty() && host.split('.').any(str::is_empty) {
        return Err(bad("Host has an empty label"));
    }
    Ok(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// Characters of a host and port: no user information, no comma, which some readers take for a list, no escapes, of which
/// host names have no need.
pub(crate) fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_host_has_one_name() {
        let check = |sent: &str, host: &str, port: Option<u16>| {
            let read = Authority::read(sent).unwrap();
            assert_eq!((&*read.host, read.port), (host, port), "{sent:?}");
        };
        check("forbidden", "forbidden", None);
        check("Forbidden", "forbidden", None);
        check("forbidden.", "forbidden", None);
        check("forbidden:80", "forbidden", Some(80));
        check("FORBIDDEN.:080", "forbidden", Some(80));
        check("a.example:", "a.example", None);
        check("[::1]:8080", "[::1]", Some(8080));
        check("[0:0::0:1]", "[::1]", None);
        check("[::FFFF:1.2.3.4]", "[::ffff:1.2.3.4]", None);
        check("127.0.0.1:1", "127.0.0.1", Some(1));
        check("", "", None);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for sent in [
            "a b",
            "a/b",
            "u@h",
            "a,b",
            "a:b",
            "a:1:2",
            "a:65536",
            "a:-1",
            "a:+1",
            "[::1",
            "::1",
            "[x]",
            "[::1]x",
            "a[b]",
            ".",
            "..",
            "a..",
            "a..b",
            ".a",
            ":80",
            "%61",
            "\u{e9}",
            "[fe80::1%25eth0]",
        ] {
            assert!(Authority::read(sent).is_err(), "{sent:?}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(sent in "[A-Za-z0-9.:\\[\\]-]{0,12}") {
            if let Ok(Authority { host, port }) = Authority::read(&sent) {
                prop_assert_eq!(Authority::read(&host), Ok(Authority { host: host.clone(), port: None }));
                prop_assert!(port.is_some() || !host.ends_with('.'));
            }
        }
    }
}
