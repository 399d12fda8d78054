//! Header fields that decisions look at: one value each, the same for every reader, or the request is refused.

use std::borrow::Cow;

use crate::head::{Reject, RequestHead, bad, list};

/// The value as text, if it is nothing but visible ASCII, spaces and tabs: what all programs read alike.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let is_text = |&byte: &u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    str::from_utf8(value).ok().filter(|_| value.iter().all(is_text))
}

/// The value of the field `name`, which is in lower case, where rules read it.
pub(crate) fn exposed<'a>(head: &RequestHead<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Reject> {
    let mut values = Vec::new();
    for (sent, value) in head.headers() {
        if sent.eq_ignore_ascii_case(name) {
            values.push(value);
        } else if reads_as(sent, name) {
            return Err(bad(
                "a header that rules read has a twin with `_` or `.` for `-`, which some programs take for the same",
            ));
        } else if sent.eq_ignore_ascii_case("connection")
            && list(value).any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
        {
            return Err(bad("Connection names a header that rules read"));
        }
    }
    // HTTP/2 may split cookies (RFC 9113 §8.2.3); the workload gets them joined.
    if name == "cookie" && head.splits_cookies() && values.len() > 1 {
        let joined = values.join(&b"; "[..]);
        let joined = text(&joined).map(|joined| Cow::Owned(joined.to_owned()));
        return joined.ok_or(FOREIGN).map(Some);
    }
    match values.as_slice() {
        [] => Ok(None),
        [only] => text(only).map(Cow::Borrowed).ok_or(FOREIGN).map(Some),
        _ => Err(bad("a header that rules read appears more than once")),
    }
}

const FOREIGN: Reject = bad("a header that rules read has characters other than visible ASCII");

/// Whether some interface gives both fields to the workload under one name: CGI, WSGI and others make `-` and what is
/// no letter or digit into `_`.
fn reads_as(sent: &str, name: &str) -> bool {
    let fold = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            byte.to_ascii_lowercase()
        } else {
            b'_'
        }
    };
    sent.len() == name.len() && sent.bytes().map(fold).eq(name.bytes().map(fold))
}
