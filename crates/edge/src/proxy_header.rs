//! The PROXY protocol, versions 1 and 2, where a listener requires it: what a proxy says of a connection before its first
//! byte. Not a byte behind the header is read, so that the connection can be handed on as a descriptor.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest header of version 1, its line end included.
const V1_MOST: usize = 107;

/// The shortest: `PROXY UNKNOWN` and a line end. Version 2 is never shorter.
const LEAST: usize = 15;

/// Bytes before the addresses of version 2.
const V2_HEAD: usize = 16;

/// Bytes of addresses and extensions of version 2 at most: common proxies send less than 600.
const V2_MOST: usize = 4_096;

/// Why a connection ends at its header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It ended or failed before the header was whole.
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    /// Something else came first, or a header that cannot be read.
    #[error("it does not begin with a header of the PROXY protocol")]
    NoHeader,
}

/// Reads the header; the client's address, or none where the proxy speaks for itself or does not say for whom.
///
/// # Errors
/// [`ProxyError`]; the stream is of no further use then.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![0; LEAST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        header.push(stream.read_u8().await?);
        let length = header.get(V2_HEAD - 2..).unwrap_or_default();
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if length > V2_MOST {
            return Err(ProxyError::NoHeader);
        }
        header.resize(V2_HEAD + length, 0);
        stream
            .read_exact(header.get_mut(V2_HEAD..).unwrap_or_default())
            .await?;
        return version_2(&header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(ProxyError::NoHeader);
    }
    while !header.ends_with(b"\r\n") {
        if header.len() >= V1_MOST {
            return Err(ProxyError::NoHeader);
        }
        header.push(stream.read_u8().await?);
    }
    version_1(&header)
}

/// The header that says to whoever listens at `local` that a connection is `client`'s; version 2, or 1 for any other number.
#[must_use]
pub fn write(version: u8, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (client, local) = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ((from, client.port()).into(), (to, local.port()).into()),
        // Both have to be of one kind.
        (from, to) => (
            SocketAddr::from((mapped(from), client.port())),
            SocketAddr::from((mapped(to), local.port())),
        ),
    };
    if version != 2 {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (client.ip(), local.ip());
        return format!(
            "PROXY {family} {from} {to} {} {}\r\n",
            client.port(),
            local.port()
        )
        .into_bytes();
    }
    let mut header = v2::PROTOCOL_PREFIX.to_vec();
    let (family, length) = if client.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
    header.extend([0x21, family, 0, length]);
    for address in [client.ip(), local.ip()] {
        match address {
            IpAddr::V4(ip) => header.extend(ip.octets()),
            IpAddr::V6(ip) => header.extend(ip.octets()),
        }
    }
    for address in [client, local] {
        header.extend(address.port().to_be_bytes());
    }
    header
}

fn mapped(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn version_1(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let header = v1::Header::try_from(header).map_err(|_| ProxyError::NoHeader)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(found) => Some((IpAddr::from(found.source_address), found.source_port).into()),
        v1::Addresses::Tcp6(found) => Some((IpAddr::from(found.source_address), found.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

fn version_2(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let header = v2::Header::try_from(header).map_err(|_| ProxyError::NoHeader)?;
    // A proxy that looks whether we are there.
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(found) => Some((IpAddr::from(found.source_address), found.source_port).into()),
        v2::Addresses::IPv6(found) => Some((IpAddr::from(found.source_address), found.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

/// The fuzz body of the PROXY protocol's header: whatever the bytes, it is read or refused, and not beyond its length.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let mut rest = bytes;
    let read = std::pin::pin!(read(&mut rest));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // Bytes at hand are never waited for.
    let done = Future::poll(read, &mut context).is_ready();
    assert!(done, "it waits for bytes that are there");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `bytes` come to, and how many are left.
    fn of(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
        let mut left = bytes;
        let waker = std::task::Waker::noop();
        let found = {
            let mut reading = std::pin::pin!(read(&mut left));
            // Bytes in memory never wait.
            match reading.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
                std::task::Poll::Ready(found) => found,
                std::task::Poll::Pending => panic!("it waits"),
            }
        };
        (found, left.len())
    }

    fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, body].concat()
    }

    #[test]
    fn both_versions_name_the_client_and_leave_what_follows() {
        let v4 = [192, 0, 2, 1, 127, 0, 0, 1, 0x12, 0x67, 0, 80];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&[0, 7]);
        let extended = [&v4[..], &[0x02, 0, 4], b"acme"].concat();
        for (header, client) in [
            (
                b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n".to_vec(),
                Some("192.0.2.1:4711"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 7 80\r\n".to_vec(),
                Some("[2001:db8::1]:7"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff:: ff:: 1 2\r\n".to_vec(), None),
            (v2_header(1, 0x11, &v4), Some("192.0.2.1:4711")),
            (v2_header(1, 0x11, &extended), Some("192.0.2.1:4711")),
            (v2_header(1, 0x21, &v6), Some("[2001:db8::1]:7")),
            (v2_header(0, 0x11, &v4), None),
            (v2_header(0, 0, &[]), None),
        ] {
            let mut bytes = header.clone();
            bytes.extend(b"GET /");
            let (found, left) = of(&bytes);
            let client = client.map(|client| client.parse().unwrap());
            assert_eq!((found.unwrap(), left), (client, 5), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (client, local, read) in [
            ("192.0.2.1:4711", "127.0.0.1:80", "192.0.2.1:4711"),
            ("[2001:db8::1]:7", "[::1]:80", "[2001:db8::1]:7"),
            ("[2001:db8::1]:7", "127.0.0.1:80", "[2001:db8::1]:7"),
            ("[::ffff:192.0.2.1]:7", "127.0.0.1:80", "192.0.2.1:7"),
        ] {
            for version in [1, 2] {
                let header = write(version, client.parse().unwrap(), local.parse().unwrap());
                let (found, left) = of(&header);
                assert_eq!(
                    (found.unwrap(), left),
                    (Some(read.parse().unwrap()), 0),
                    "{client} {version}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_header_ends_the_connection() {
        let huge = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff], &[0; 70_000]].concat();
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 200], b"\r\n"].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.1 127.0.0.1 99999 80\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 7 80\r\n",
            b"PROXY TCP9 192.0.2.1 127.0.0.1 1 80\r\n",
            b"PROXY\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
            &huge,
            &long,
            &v2_header(1, 0x11, &[1, 2, 3]),
            &v2_header(9, 0x11, &[0; 12]),
        ] {
            let (found, _) = of(bytes);
            assert!(
                matches!(found, Err(ProxyError::NoHeader)),
                "{}",
                bytes.escape_ascii()
            );
        }
        for cut in [
            &b""[..],
            b"PROXY TCP4 192.0.2.1 12",
            &v2_header(1, 0x11, &[0; 12])[..20],
        ] {
            assert!(
                matches!(of(cut).0, Err(ProxyError::Broken(_))),
                "{}",
                cut.escape_ascii()
            );
        }
    }
}
