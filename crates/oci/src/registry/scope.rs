//! Which addresses a client may connect to: a registry is named by a stranger, and its redirects by whoever runs it. Where the
//! caller says so, nothing that lies on this machine or on its own link is connected to, under whatever name.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Looks names up in the system, and passes on what is elsewhere.
#[derive(Debug)]
pub(super) struct Elsewhere;

/// A name that leads nowhere else.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` leads to this machine or its own link only")]
struct Near(String);

impl Resolve for Elsewhere {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let looked_up = crate::source::blocking(move || {
                let all = (host.as_str(), 0).to_socket_addrs()?;
                let elsewhere: Vec<SocketAddr> = all.filter(|address| is_elsewhere(address.ip())).collect();
                Ok::<_, std::io::Error>((host, elsewhere))
            });
            let (host, addresses) = looked_up.await?;
            if addresses.is_empty() {
                return Err(Near(host).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

impl Elsewhere {
    pub(super) fn shared() -> Arc<Self> {
        Arc::new(Self)
    }
}

/// Whether an address that a URL names as such may be connected to; a name is decided on when it is looked up.
pub(super) fn permits(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_or(true, is_elsewhere)
}

/// Whether an address is neither this machine nor on its own link.
fn is_elsewhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let this_network = v4.octets().first() == Some(&0);
            !(v4.is_loopback()
                || v4.is_link_local()
                || this_network
                || v4.is_broadcast()
                || v4.is_multicast())
        }
        IpAddr::V6(v6) => v6.to_ipv4_mapped().or_else(|| compatible(v6)).map_or_else(
            || {
                let first = v6.segments().first().copied().unwrap_or_default();
                let link_local = first & 0xffc0 == 0xfe80;
                !(v6.is_loopback() || v6.is_unspecified() || link_local || v6.is_multicast())
            },
            |v4| is_elsewhere(v4.into()),
        ),
    }
}

/// An address of version 4 in its old and in its translated form (RFC 4291 §2.5.5.1, RFC 6052).
fn compatible(address: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let begin = [a, b, c, d, e, f];
    let old = begin == [0; 6] && (high, low) > (0, 1);
    let translated = begin == [0x64, 0xff9b, 0, 0, 0, 0];
    (old || translated).then(|| {
        let [one, two] = high.to_be_bytes();
        let [three, four] = low.to_be_bytes();
        std::net::Ipv4Addr::new(one, two, three, four)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_known_in_every_spelling() {
        for near in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.1.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(!is_elsewhere(near.parse().unwrap()), "{near}");
        }
        for far in [
            "192.0.2.1",
            "10.0.0.1",
            "2001:db8::1",
            "::ffff:192.0.2.1",
            "fdaa::3",
        ] {
            assert!(is_elsewhere(far.parse().unwrap()), "{far}");
        }
        let url = |text: &str| permits(&Url::parse(text).unwrap());
        // A URL has such spellings brought into one form.
        for near in [
            "http://0x7f.1/",
            "http://2130706433/",
            "http://[::1]:80/",
            "http://127.1/",
        ] {
            assert!(!url(near), "{near}");
        }
        assert!(url("https://registry.example/"));
    }
}
