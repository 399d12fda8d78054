//! Request heads: bytes in, a borrowed head or a precise complaint out. No I/O.
//!
//! `httparse` parses; this module refuses what two readers could understand differently (request smuggling) and
//! decides the body's framing. The gate and the door both call it, so both refuse the same bytes.

mod fields;
mod target;

use std::mem::MaybeUninit;
use std::net::SocketAddr;

use crate::limits::{HEADERS, Limits};

use self::fields::Found;
pub(crate) use self::fields::{length, list};
use self::target::Target;

/// Protocol version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

/// One request as the authorizer sees it: everything the client sent before the body, unchanged.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Method, case as sent.
    pub method: &'a str,
    /// Request target as received.
    pub target: &'a str,
    /// Path without the query; `*` for a server-wide OPTIONS.
    pub path: &'a str,
    /// Query without its `?`.
    pub query: Option<&'a str>,
    /// Host and port the client named; empty where HTTP/1.0 named none.
    pub host: &'a str,
    /// Protocol version.
    pub version: Version,
    /// Address of the client's end of the connection.
    pub peer: SocketAddr,
    /// Protocols asked for by `Upgrade`, where the connection can switch.
    pub upgrade: Option<&'a str>,
    /// Declared length of the body; none for a chunked one or none at all.
    pub content_length: Option<u64>,
    pub(crate) fields: Fields<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fields<'a> {
    Http1(&'a [httparse::Header<'a>]),
    Http2(&'a http::HeaderMap),
}

impl<'a> RequestHead<'a> {
    /// All header fields as (name, value), in order; names as sent (HTTP/2: lower case).
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let (http1, http2) = match self.fields {
            Fields::Http1(fields) => (Some(fields), None),
            Fields::Http2(fields) => (None, Some(fields)),
        };
        let http1 = http1.into_iter().flatten().map(|field| (field.name, field.value));
        http1.chain(
            http2
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str(), value.as_bytes())),
        )
    }

    /// The first value of `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        match self.fields {
            Fields::Http1(_) => self
                .headers()
                .find(|(sent, _)| sent.eq_ignore_ascii_case(name))
                .map(|(_, value)| value),
            Fields::Http2(fields) => fields.get(name).map(http::HeaderValue::as_bytes),
        }
    }
}

/// Why a head or body was not understood. The connection closes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// HTTP status of the answer.
    pub status: u16,
    /// Code of the problem document.
    pub code: &'static str,
    /// What is wrong, as a clause for whoever wrote the client.
    pub detail: &'static str,
}

impl From<crate::chunked::ChunkError> for Reject {
    fn from(error: crate::chunked::ChunkError) -> Self {
        bad(error.detail())
    }
}

const fn bad(detail: &'static str) -> Reject {
    Reject {
        status: 400,
        code: "bad_request",
        detail,
    }
}

/// Result of looking for a head at the front of some bytes.
#[derive(Debug)]
pub enum Peek<T> {
    /// The head is not complete; nothing wrong so far.
    Incomplete,
    /// A head of `head_len` bytes, and what the callback made of it.
    Complete {
        /// The callback's result.
        value: T,
        /// Bytes up to and including the empty line.
        head_len: usize,
    },
    /// Not a request that can be served safely.
    Bad(Reject),
}

/// Looks for an HTTP/1.x request head at the front of `bytes` and shows it to `look`.
pub fn peek<T>(
    bytes: &[u8],
    peer: SocketAddr,
    limits: &Limits,
    look: impl FnOnce(&RequestHead<'_>) -> T,
) -> Peek<T> {
    match parse(bytes, peer, limits, &mut slots()) {
        Ok(Some((head, wire))) => Peek::Complete {
            value: look(&head),
            head_len: wire.head_len,
        },
        Ok(None) => Peek::Incomplete,
        Err(reject) => Peek::Bad(reject),
    }
}

/// What an HTTP/2 connection starts with (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether `bytes` may still become, or are, the start of an HTTP/2 connection.
#[must_use]
pub fn starts_http2(bytes: &[u8]) -> bool {
    !bytes.is_empty() && HTTP2_PREFACE.iter().zip(bytes).all(|(want, have)| want == have)
}

/// How a body's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// Responses only: up to the end of the connection.
    Close,
}

/// What the connection needs to know of a request after its head was forwarded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) head_len: usize,
    pub(crate) body: Framing,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    /// `Expect: 100-continue`.
    pub(crate) expects: bool,
    pub(crate) upgrade: bool,
    /// `Connection` names fields that must not travel further.
    pub(crate) nominates: bool,
    pub(crate) is_head: bool,
    /// Safe to send a second time when the first may not have arrived (RFC 9110 §9.2.2).
    pub(crate) idempotent: bool,
}

pub(crate) type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; HEADERS];

pub(crate) fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; HEADERS]
}

/// `None`: incomplete.
pub(crate) fn parse<'a, 'b: 'a>(
    bytes: &'b [u8],
    peer: SocketAddr,
    limits: &Limits,
    slots: &'a mut Slots<'b>,
) -> Result<Option<(RequestHead<'a>, Wire)>, Reject> {
    let slots = slots.get_mut(..limits.headers.min(HEADERS)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let head_len = match request.parse_with_uninit_headers(bytes, slots) {
        Ok(httparse::Status::Complete(head_len)) if head_len <= limits.head_bytes => head_len,
        Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes => return Ok(None),
        Ok(_) => return Err(oversize(bytes, limits)),
        Err(error) => return Err(malformed(error)),
    };
    if has_bare_lf(bytes.get(..head_len).unwrap_or_default()) {
        return Err(bad("a line ends with LF alone"));
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(bad("the request line is malformed"));
    };
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    understand(
        Line {
            method,
            target,
            version,
        },
        request.headers,
        head_len,
        peer,
    )
    .map(Some)
}

fn oversize(bytes: &[u8], limits: &Limits) -> Reject {
    let line = bytes
        .iter()
        .take(limits.head_bytes)
        .position(|&byte| byte == b'\n');
    match line {
        None => Reject {
            status: 414,
            code: "target_too_long",
            detail: "the request line is too long",
        },
        Some(_) => Reject {
            status: 431,
            code: "head_too_large",
            detail: "the request head is too long",
        },
    }
}

fn malformed(error: httparse::Error) -> Reject {
    match error {
        httparse::Error::TooManyHeaders => Reject {
            status: 431,
            code: "head_too_large",
            detail: "the request has too many header fields",
        },
        httparse::Error::Version => Reject {
            status: 505,
            code: "http_version",
            detail: "only HTTP/1.0, HTTP/1.1 and HTTP/2 are served",
        },
        httparse::Error::HeaderName => bad("a header name is malformed, folded, or followed by white space"),
        httparse::Error::HeaderValue => bad("a header value has a control character"),
        httparse::Error::NewLine => bad("a line does not end with CRLF"),
        httparse::Error::Token => bad("the request line is malformed"),
        httparse::Error::Status => bad("the head is malformed"),
    }
}

/// A branch-free pass, so that the compiler can use vector instructions.
pub(crate) fn has_bare_lf(head: &[u8]) -> bool {
    let after = head.get(1..).unwrap_or_default();
    let bare = head.iter().zip(after).fold(false, |bare, (&before, &byte)| {
        bare | (byte == b'\n' && before != b'\r')
    });
    bare || head.first() == Some(&b'\n')
}

/// The request line.
struct Line<'a> {
    method: &'a str,
    target: &'a str,
    version: Version,
}

fn understand<'a>(
    Line {
        method,
        target,
        version,
    }: Line<'a>,
    fields: &'a [httparse::Header<'a>],
    head_len: usize,
    peer: SocketAddr,
) -> Result<(RequestHead<'a>, Wire), Reject> {
    let found = Found::scan(fields)?;
    if found.host.is_none() && version == Version::Http11 {
        return Err(bad("Host is missing"));
    }
    let body = found.framing(version)?;
    let host =
        str::from_utf8(found.host.unwrap_or_default()).map_err(|_| bad("Host is not a host and port"))?;
    let Target {
        path,
        query,
        authority,
    } = Target::of(method, target)?;
    if authority.is_some_and(|authority| found.host.is_some() && !authority.eq_ignore_ascii_case(host)) {
        return Err(bad("Host and the request target name different hosts"));
    }
    let upgrade = found.upgrade.filter(|_| {
        found.connection_upgrade && version == Version::Http11 && body == Framing::Empty && !found.chunked
    });
    // Cleartext HTTP/2 is spoken with prior knowledge only; ignoring the offer is allowed (RFC 9110 §7.8).
    let upgrade = upgrade
        .and_then(|value| str::from_utf8(value).ok())
        .filter(|value| !offers_h2c(value));
    let head = RequestHead {
        method,
        target,
        path,
        query,
        host: authority.unwrap_or(host),
        version,
        peer,
        upgrade,
        content_length: found.length,
        fields: Fields::Http1(fields),
    };
    let wire = Wire {
        head_len,
        body,
        version,
        keep_alive: !found.close && (version == Version::Http11 || found.keep_alive),
        expects: found.expects && version == Version::Http11 && body != Framing::Empty,
        upgrade: upgrade.is_some(),
        nominates: found.nominates,
        is_head: method == "HEAD",
        idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"),
    };
    Ok((head, wire))
}

fn offers_h2c(upgrade: &str) -> bool {
    list(upgrade.as_bytes()).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look(bytes: &[u8]) -> Peek<(String, String, String)> {
        peek(
            bytes,
            "127.0.0.1:1".parse().unwrap(),
            &Limits::default(),
            |head| (head.method.to_owned(), head.path.to_owned(), head.host.to_owned()),
        )
    }

    #[test]
    fn a_plain_request_is_understood() {
        let Peek::Complete { value, head_len } = look(b"GET /a?b HTTP/1.1\r\nHost: x:1\r\n\r\nrest") else {
            panic!("not complete");
        };
        assert_eq!(value, ("GET".into(), "/a".into(), "x:1".into()));
        assert_eq!(head_len, 32);
    }

    #[test]
    fn an_absolute_target_names_the_host() {
        let Peek::Complete { value, .. } = look(b"GET http://x?q HTTP/1.1\r\nHost: X\r\n\r\n") else {
            panic!("not complete");
        };
        assert_eq!(value, ("GET".into(), "/".into(), "x".into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            look(&bytes);
        }

        /// A head that is whole is read the same however much follows it.
        #[test]
        fn near_heads_are_answered(
            line in "(GET|POST|PRI|x) (/|\\*|http://h)[a-z?#]{0,5} HTTP/[0-2]\\.[01]",
            fields in proptest::collection::vec("(Host|Content-Length|Transfer-Encoding|Connection|Upgrade|Expect| x)[ ]?: ?(chunked|1|h|close|\\PC{0,8})", 0..5),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let head = format!("{line}\r\n{}\r\n\r\n", fields.join("\r\n"));
            let whole = [head.as_bytes(), &tail].concat();
            if let (Peek::Complete { value: a, head_len: b }, Peek::Complete { value: c, head_len: d })
                = (look(head.as_bytes()), look(&whole)) {
                prop_assert_eq!((a, b), (c, d));
            }
        }
    }
}
