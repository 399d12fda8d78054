//! One canonical form for each request, or none: what rules judge is what the workload gets, byte for byte.
//!
//! HTTP/1.1, HTTP/2 and the door's questions all come through here, by way of [`crate::RequestHead`]. The functions are
//! pure. What has several spellings is brought into one; what two programs could read differently is refused with 400.
//! `docs/rules.md` has the list. Not here: framing and message syntax (`head`).
//!
//! | part | canonical form |
//! |---|---|
//! | path | unreserved characters decoded, other escapes in upper case, no dot segments, no doubled slashes |
//! | query | as it came; visible ASCII without `#` |
//! | host | lower case, no final dot, IPv6 in its short form; the port apart, in decimal |
//! | `Upgrade` | one protocol; `websocket` in lower case |
//! | `Authorization`, exposed fields | one value, visible ASCII, spaces and tabs |

mod authority;
mod exposed;
mod path;

pub(crate) use self::authority::{Authority, is_authority};
pub(crate) use self::exposed::{exposed, text};
pub(crate) use self::path::path;

use crate::head::{Reject, bad, list};

/// Methods that some programs understand in any letter case (RFC 9110 §9.3, RFC 5789): only one spelling passes.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH",
];

/// The method, if it is not a common one in the wrong letter case.
pub(crate) fn method(sent: &str) -> Result<&str, Reject> {
    let misspelt = METHODS
        .iter()
        .any(|known| *known != sent && known.eq_ignore_ascii_case(sent));
    if misspelt {
        return Err(bad("methods are case-sensitive: write it in upper case"));
    }
    Ok(sent)
}

/// The one protocol that a value of `Upgrade` asks for, if any; an empty list element counts for nothing.
pub(crate) fn upgrade(value: &[u8]) -> Result<Option<&str>, Reject> {
    let mut protocols = list(value);
    let Some(only) = protocols.next() else {
        return Ok(None);
    };
    if protocols.next().is_some() {
        return Err(bad("Upgrade names more than one protocol"));
    }
    let is_protocol = |byte: &u8| crate::chunked::is_token(*byte) || *byte == b'/';
    let text = str::from_utf8(only)
        .ok()
        .filter(|only| only.bytes().all(|byte| is_protocol(&byte)));
    match text {
        Some(text) if text.eq_ignore_ascii_case("websocket") => Ok(Some("websocket")),
        Some(text) if is_websocket(text) => Err(bad("Upgrade: write websocket without a version")),
        Some(text) => Ok(Some(text)),
        None => Err(bad("Upgrade is not the name of a protocol")),
    }
}

/// Whether a protocol with a version is still the WebSocket.
fn is_websocket(protocol: &str) -> bool {
    let (name, _) = protocol.split_once('/').unwrap_or((protocol, ""));
    name.eq_ignore_ascii_case("websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_protocol_in_one_spelling() {
        let check = |sent: &str, protocol: Result<Option<&str>, ()>| {
            assert_eq!(upgrade(sent.as_bytes()).map_err(|_| ()), protocol, "{sent:?}");
        };
        check("websocket", Ok(Some("websocket")));
        check("WebSocket", Ok(Some("websocket")));
        check("websocket,", Ok(Some("websocket")));
        check(" , websocket ,", Ok(Some("websocket")));
        check("h2c", Ok(Some("h2c")));
        check("TLS/1.2", Ok(Some("TLS/1.2")));
        check("", Ok(None));
        check("websocket, x", Err(()));
        check("x, websocket", Err(()));
        check("websocket/13", Err(()));
        check("web socket", Err(()));
        check("\u{e9}", Err(()));
    }

    #[test]
    fn a_common_method_has_one_spelling() {
        assert_eq!(method("DELETE"), Ok("DELETE"));
        assert!(method("delete").is_err());
        assert!(method("Get").is_err());
        assert_eq!(method("purge"), Ok("purge"));
    }
}
