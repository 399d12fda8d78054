//! What a trusted proxy says of a request in its header fields: for whom it speaks, whether they came by TLS, and which
//! prefix of the path it took off. Pure.
//!
//! `X-Forwarded-For` is read from its end: each trusted proxy appended whom it heard, so the right-most address that is not
//! trusted is the client's, and whatever is left of it may be the client's invention. `X-Forwarded-Host` and `Forwarded`
//! count for nothing: common proxies pass on what clients write there.

use std::net::{IpAddr, SocketAddr};

use suijuris_gate::RequestHead;

use super::trust::Trust;

/// Addresses that are looked at, at most: more proxies in a row than anybody has.
const MAX_HOPS: usize = 32;

/// Longest prefix.
const MAX_PREFIX: usize = 256;

/// What a trusted proxy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The client.
    pub client: IpAddr,
    /// Whether it came by TLS; none where nothing is said.
    pub tls: Option<bool>,
    /// What was taken off the path.
    pub prefix: Option<String>,
}

/// The proxy wrote what cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A hop is no address.
    #[error("the proxy's X-Forwarded-For has something other than addresses")]
    Address,
    /// More hops than are read.
    #[error("the proxy's X-Forwarded-For has more than {MAX_HOPS} proxies")]
    TooMany,
}

/// What `head` says, which came from the trusted `peer`.
///
/// # Errors
/// [`Unreadable`].
pub fn read(head: &RequestHead<'_>, peer: SocketAddr, trust: &Trust) -> Result<Forwarded, Unreadable> {
    let last = |name: &str| values(head, name).last();
    let proto = last("x-forwarded-proto");
    Ok(Forwarded {
        client: client(head, peer.ip(), trust)?,
        tls: proto.map(|proto| proto.eq_ignore_ascii_case(b"https")),
        prefix: last("x-forwarded-prefix").and_then(prefix),
    })
}

fn client(head: &RequestHead<'_>, peer: IpAddr, trust: &Trust) -> Result<IpAddr, Unreadable> {
    let chain: Vec<&[u8]> = values(head, "x-forwarded-for").collect();
    let mut client = peer.to_canonical();
    for (hop, said) in chain.iter().rev().enumerate() {
        if !trust.has(client) {
            break;
        }
        if hop >= MAX_HOPS {
            return Err(Unreadable::TooMany);
        }
        client = address(said).ok_or(Unreadable::Address)?;
    }
    Ok(client)
}

/// All elements of all fields of this name, in order.
fn values<'a, 'n>(head: &RequestHead<'a>, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
    head.headers()
        .filter(move |(sent, _)| sent.eq_ignore_ascii_case(name))
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|value| !value.is_empty())
}

/// An address, with or without a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    let ip: Option<IpAddr> = text.parse().ok().or_else(bracketed).or_else(with_port);
    ip.map(|ip| ip.to_canonical())
}

/// A path that every program reads alike.
fn prefix(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?.trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let whole = text.len() <= MAX_PREFIX && text.starts_with('/') && text.bytes().all(plain);
    let normal = text
        .split('/')
        .skip(1)
        .all(|segment| !matches!(segment, "" | "." | ".."));
    (whole && normal).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use suijuris_gate::Limits;
    use suijuris_gate::head::{Peek, peek};

    use super::*;
    use crate::trust::network;

    fn said(fields: &str) -> Result<Forwarded, Unreadable> {
        let trust = Trust::new(vec![network("10.0.0.0/8").unwrap(), network("fd00::/8").unwrap()]);
        let peer = "10.0.0.1:9".parse().unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        match peek(head.as_bytes(), peer, &Limits::default(), |head| {
            read(head, peer, &trust)
        }) {
            Peek::Complete { value, .. } => value,
            other => panic!("{other:?}"),
        }
    }

    fn client_of(fields: &str) -> String {
        said(fields).unwrap().client.to_string()
    }

    #[test]
    fn the_right_most_untrusted_address_counts() {
        for (fields, client) in [
            ("", "10.0.0.1"),
            ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.2.2.2\r\n", "192.0.2.1"),
            ("X-Forwarded-For: garbage, 192.0.2.1\r\n", "192.0.2.1"),
            (
                "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 192.0.2.1\r\n",
                "192.0.2.1",
            ),
            ("X-Forwarded-For: 10.3.3.3, 10.2.2.2\r\n", "10.3.3.3"),
            ("X-Forwarded-For: 192.0.2.1:4711\r\n", "192.0.2.1"),
            ("X-Forwarded-For: [2001:db8::1]:80\r\n", "2001:db8::1"),
            ("X-Forwarded-For: 2001:db8::1, fd00::1\r\n", "2001:db8::1"),
            ("X-Forwarded-For: ::ffff:192.0.2.1\r\n", "192.0.2.1"),
            ("Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n", "10.0.0.1"),
        ] {
            assert_eq!(client_of(fields), client, "{fields}");
        }
    }

    #[test]
    fn what_the_proxy_itself_wrote_must_be_readable() {
        for fields in [
            "X-Forwarded-For: unknown\r\n",
            "X-Forwarded-For: 192.0.2.1, _hidden\r\n",
            "X-Forwarded-For: 192.0.2.1.5\r\n",
            "X-Forwarded-For: x, 10.0.0.2\r\n",
        ] {
            assert_eq!(said(fields), Err(Unreadable::Address), "{fields}");
        }
        let many = format!("X-Forwarded-For: {}\r\n", ["10.0.0.2"; 40].join(","));
        assert_eq!(said(&many), Err(Unreadable::TooMany));
    }

    #[test]
    fn scheme_and_prefix() {
        let of = |fields: &str| {
            let said = said(fields).unwrap();
            (said.tls, said.prefix)
        };
        assert_eq!(of(""), (None, None));
        assert_eq!(of("X-Forwarded-Proto: http, HTTPS\r\n"), (Some(true), None));
        assert_eq!(of("X-Forwarded-Proto: https, http\r\n"), (Some(false), None));
        let with = |prefix: &str| of(&format!("X-Forwarded-Prefix: {prefix}\r\n")).1;
        assert_eq!(with("/app/v1/").as_deref(), Some("/app/v1"));
        for bad in ["app", "/a//b", "/a/../b", "/%2e", "/a b", "//evil.example"] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }
}
