//! Response heads of the workload: parsed strictly enough that no client can be desynchronised, then passed on.

use crate::chunked::{ChunkError, Chunked, Fed};
use std::mem::MaybeUninit;

use crate::forward::Forwarding;
use crate::head::{Fields, Framing, Version, Wire, length, list};
use crate::limits::{RESPONSE_HEAD_BYTES, RESPONSE_HEADERS};
use crate::routing::{AnswerHead, Answered};

/// What the connection needs to know of a response after its head was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head_len: usize,
    pub(crate) body: Framing,
    /// The workload will take another request on this connection.
    pub(crate) reusable: bool,
}

impl Answer {
    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// A response that cannot be passed on safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("the response head is malformed")]
    Head,
    #[error("the response head is too large")]
    Large,
    #[error("the response's length is ambiguous")]
    Length,
    #[error("the response switches protocols unasked")]
    Switch,
}

#[derive(Default)]
struct Found {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    nominates: bool,
}

impl Found {
    fn scan(fields: &[httparse::Header<'_>]) -> Result<Self, BadAnswer> {
        let mut found = Self::default();
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                10 if is("connection") => found.connection(field.value),
                14 if is("content-length") => {
                    let declared = length(field.value).ok_or(BadAnswer::Length)?;
                    if found
                        .length
                        .replace(declared)
                        .is_some_and(|before| before != declared)
                    {
                        return Err(BadAnswer::Length);
                    }
                }
                17 if is("transfer-encoding") => {
                    if found.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadAnswer::Length);
                    }
                    found.chunked = true;
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn connection(&mut self, value: &[u8]) {
        for option in list(value) {
            match option {
                o if o.eq_ignore_ascii_case(b"close") => self.close = true,
                o if o.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                o if o.eq_ignore_ascii_case(b"upgrade") => {}
                _ => self.nominates = true,
            }
        }
    }

    /// RFC 9112 §6.3.
    fn framing(&self, status: u16, wire: &Wire) -> Result<Framing, BadAnswer> {
        let bodiless = wire.is_head || status < 200 || status == 204 || status == 304;
        match (self.length, self.chunked) {
            (Some(_), true) => Err(BadAnswer::Length),
            (None, true) if wire.version == Version::Http10 => Err(BadAnswer::Length),
            _ if bodiless => Ok(Framing::Empty),
            (None, true) => Ok(Framing::Chunked),
            (Some(0), false) => Ok(Framing::Empty),
            (Some(length), false) => Ok(Framing::Length(length)),
            (None, false) => Ok(Framing::Close),
        }
    }
}

/// Parses the head at the front of `bytes` and appends what the client gets of it to `out`. `None`: incomplete.
///
/// `keep_alive`: what the gate would like; the head says what it came to. `look` sees a final one before it is passed on, and
/// may take it.
pub(crate) fn relay(
    bytes: &[u8],
    wire: &Wire,
    keep_alive: bool,
    look: impl FnOnce(&AnswerHead<'_>, &mut Forwarding) -> Answered,
    out: &mut Vec<u8>,
) -> Result<Option<(Answer, Answered)>, BadAnswer> {
    let mut slots = [const { MaybeUninit::uninit() }; RESPONSE_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let head_len = match config.parse_response_with_uninit_headers(&mut response, bytes, &mut slots) {
        Ok(httparse::Status::Complete(head_len)) if head_len <= RESPONSE_HEAD_BYTES => head_len,
        Ok(httparse::Status::Partial) if bytes.len() < RESPONSE_HEAD_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(BadAnswer::Large),
        Err(_) => return Err(BadAnswer::Head),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(BadAnswer::Head);
    };
    if status < 100 {
        return Err(BadAnswer::Head);
    }
    if status == 101 && !wire.upgrade {
        return Err(BadAnswer::Switch);
    }
    let found = Found::scan(response.headers)?;
    let body = found.framing(status, wire)?;
    let reusable = body != Framing::Close && !found.close && (minor == 1 || found.keep_alive);
    let answer = Answer {
        status,
        head_len,
        body,
        reusable,
    };
    let mut edited = Forwarding::default();
    let mut answered = Answered::Relay;
    if !answer.is_interim() {
        let fields = Fields::Http1(response.headers);
        answered = look(&AnswerHead { status, fields }, &mut edited);
    }
    if answered == Answered::Relay && !(answer.is_interim() && wire.version == Version::Http10) {
        compose(&response, &found, &answer, &edited, wire, keep_alive, out);
    }
    Ok(Some((answer, answered)))
}

fn compose(
    response: &httparse::Response<'_, '_>,
    found: &Found,
    answer: &Answer,
    edited: &Forwarding,
    wire: &Wire,
    keep_alive: bool,
    out: &mut Vec<u8>,
) {
    let digit = |weight: u16| u8::try_from(answer.status / weight % 10).unwrap_or_default() + b'0';
    parts(&[b"HTTP/1.1 ", &[digit(100), digit(10), digit(1), b' ']], out);
    parts(&[response.reason.unwrap_or_default().as_bytes(), b"\r\n"], out);
    for field in response.headers.iter() {
        let dropped = drops(field.name, answer.status)
            || (found.nominates && nominated(response, field.name))
            || edited.hides(field.name);
        if !dropped {
            line(field.name.as_bytes(), field.value, out);
        }
    }
    out.extend_from_slice(edited.lines());
    if answer.body == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    let persists = keep_alive && answer.body != Framing::Close;
    match (answer.status, wire.version) {
        (101, _) => out.extend_from_slice(b"connection: upgrade\r\n"),
        (100..200, _) => {}
        _ if !persists => out.extend_from_slice(b"connection: close\r\n"),
        (_, Version::Http10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn drops(name: &str, status: u16) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        7 => is("trailer") || (is("upgrade") && status != 101 && status != 426),
        10 => is("connection") || is("keep-alive"),
        14 => is("content-length") && (status < 200 || status == 204),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        _ => false,
    }
}

fn nominated(response: &httparse::Response<'_, '_>, name: &str) -> bool {
    let connection = response
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"));
    let framing = name.eq_ignore_ascii_case("content-length");
    !framing
        && connection
            .flat_map(|field| list(field.value))
            .any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether a head that was read elsewhere is within the bounds of [`relay`].
pub(crate) fn fits(status: http::StatusCode, headers: &http::HeaderMap) -> bool {
    let reason = status.canonical_reason().unwrap_or_default();
    let line = "HTTP/1.1 200 \r\n".len() + reason.len();
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    let bytes = line + fields.sum::<usize>() + "\r\n".len();
    headers.len() <= RESPONSE_HEADERS && bytes <= RESPONSE_HEAD_BYTES
}

/// Appends `name: value` and CRLF.
pub(crate) fn line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    parts(&[name, b": ", value, b"\r\n"], out);
}

/// Appends `parts` with one reservation.
pub(crate) fn parts(parts: &[&[u8]], out: &mut Vec<u8>) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The progress of a body, either way.
#[derive(Debug)]
pub(crate) enum Body {
    Length(u64),
    Chunked(Chunked),
    Close,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::Close => Self::Close,
        }
    }

    /// What of `input` belongs to the body. A body of known length may be done before any byte.
    pub(crate) fn feed(&mut self, input: &[u8]) -> Result<Fed, ChunkError> {
        match self {
            Self::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= used as u64;
                Ok(Fed {
                    used,
                    forward: used,
                    done: *left == 0,
                })
            }
            Self::Chunked(chunked) => chunked.feed(input),
            Self::Close => Ok(Fed {
                used: input.len(),
                forward: input.len(),
                done: false,
            }),
        }
    }

    /// What follows the last forwarded byte: chunked bodies end without the trailers they came with.
    pub(crate) fn tail(&self) -> &'static [u8] {
        if matches!(self, Self::Chunked(_)) {
            b"\r\n"
        } else {
            b""
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire() -> Wire {
        Wire {
            head_len: 0,
            body: Framing::Empty,
            version: Version::Http11,
            keep_alive: true,
            expects: false,
            upgrade: false,
            nominates: false,
            is_head: false,
            idempotent: true,
        }
    }

    fn answer(head: &str, wire: &Wire) -> (Result<Option<Answer>, BadAnswer>, String) {
        let mut out = Vec::new();
        let result = relay(head.as_bytes(), wire, true, |_, _| Answered::Relay, &mut out);
        let result = result.map(|read| read.map(|(answer, _)| answer));
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn framing_follows_the_response() {
        let check = |head: &str, wire: &Wire, body: Framing| {
            assert_eq!(answer(head, wire).0.unwrap().unwrap().body, body, "{head:?}");
        };
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            &wire(),
            Framing::Length(3),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &wire(),
            Framing::Chunked,
        );
        check("HTTP/1.0 200 OK\r\n\r\n", &wire(), Framing::Close);
        check("HTTP/1.1 204 No\r\n\r\n", &wire(), Framing::Empty);
        check(
            "HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n",
            &wire(),
            Framing::Empty,
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            &Wire {
                is_head: true,
                ..wire()
            },
            Framing::Empty,
        );
    }

    #[test]
    fn ambiguous_responses_are_refused() {
        let check = |head: &str, bad| assert_eq!(answer(head, &wire()).0, Err(bad), "{head:?}");
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadAnswer::Length,
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            BadAnswer::Length,
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            BadAnswer::Length,
        );
        check("HTTP/1.1 101 Switching\r\n\r\n", BadAnswer::Switch);
        check("hello", BadAnswer::Head);
    }

    #[test]
    fn hop_by_hop_fields_stay_behind() {
        let (_, out) = answer(
            "HTTP/1.0 200 OK\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\nA: b\r\n\r\n",
            &wire(),
        );
        assert_eq!(out, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n\r\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _any = relay(&bytes, &wire(), true, |_, _| Answered::Relay, &mut Vec::new());
        }
    }
}
