//! Where `suijuris serve` listens: addresses as they are written, and the sockets for them.

use std::net::SocketAddr;

use anyhow::Context as _;
use suijuris_supervisor::serve::edge::Entrance;
use tokio::net::TcpListener;

use crate::systemd;

/// Where it listens unless told otherwise.
const LISTEN: [&str; 2] = ["127.0.0.1:8080", "[::1]:8080"];

/// One address to listen on, and how connections come there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) address: SocketAddr,
    pub(crate) entrance: Entrance,
}

/// A socket that listens.
pub(crate) struct Listening {
    pub(crate) socket: TcpListener,
    pub(crate) entrance: Entrance,
}

/// Schemes, longest first where one begins like another.
const SCHEMES: [(&str, Entrance); 4] = [
    ("http://", plain(false)),
    ("https://", secure(false)),
    ("proxy://", plain(true)),
    ("proxy+https://", secure(true)),
];

const fn plain(proxy: bool) -> Entrance {
    Entrance { proxy, tls: false }
}

const fn secure(proxy: bool) -> Entrance {
    Entrance { proxy, tls: true }
}

impl std::str::FromStr for Listen {
    type Err = String;

    /// `[SCHEME://]HOST:PORT`, or `:PORT` on loopback.
    fn from_str(text: &str) -> Result<Self, String> {
        let scheme = SCHEMES.iter().find_map(|(scheme, entrance)| {
            let rest = text.strip_prefix(scheme)?;
            Some((rest, *entrance))
        });
        let (rest, entrance) = scheme.unwrap_or((text, plain(false)));
        let full = match rest.strip_prefix(':') {
            Some(port) => format!("127.0.0.1:{port}"),
            None => rest.trim_end_matches('/').to_owned(),
        };
        let address = full.parse().map_err(|_| {
            format!(
                "`{text}` is no address: write 127.0.0.1:8080, [::1]:8080 or :8080, with https://, proxy:// or proxy+https:// before it for TLS and the PROXY protocol"
            )
        })?;
        Ok(Self { address, entrance })
    }
}

impl Listening {
    /// Where it is, with its scheme.
    pub(crate) fn url(&self) -> Option<String> {
        let address = self.socket.local_addr().ok()?;
        let scheme = SCHEMES.iter().find(|(_, entrance)| *entrance == self.entrance)?.0;
        Some(format!("{scheme}{address}"))
    }
}

fn bind(listen: Listen) -> std::io::Result<Listening> {
    let listener = std::net::TcpListener::bind(listen.address)?;
    listener.set_nonblocking(true)?;
    Ok(Listening {
        socket: TcpListener::from_std(listener)?,
        entrance: listen.entrance,
    })
}

/// The sockets of systemd, each for what its name says: http where that says nothing.
fn activated() -> anyhow::Result<Vec<Listening>> {
    let taken = systemd::sockets()?.into_iter().map(|(name, socket)| {
        let named = SCHEMES
            .iter()
            .find(|(scheme, _)| scheme.strip_suffix("://") == Some(&name));
        socket.set_nonblocking(true)?;
        Ok(Listening {
            socket: TcpListener::from_std(socket)?,
            entrance: named.map_or(plain(false), |(_, entrance)| *entrance),
        })
    });
    taken.collect()
}

/// The sockets that were asked for and those that systemd opened; without any, of the default ones those that this host has.
pub(crate) fn listen(asked: &[Listen]) -> anyhow::Result<Vec<Listening>> {
    let wrong = |listen: &Listen| {
        format!(
            "cannot listen on {}: another program may have it; choose with --listen 127.0.0.1:PORT (0: any free one)",
            listen.address
        )
    };
    let mut bound = activated()?;
    for listen in asked {
        bound.push(bind(*listen).with_context(|| wrong(listen))?);
    }
    if !bound.is_empty() {
        return Ok(bound);
    }
    for text in LISTEN {
        let listen: Listen = text.parse().map_err(anyhow::Error::msg)?;
        match bind(listen) {
            Ok(listener) => bound.push(listener),
            // A host without IPv6 has no such address.
            Err(_none) if listen.address.is_ipv6() && !bound.is_empty() => {}
            Err(error) => return Err(anyhow::Error::new(error).context(wrong(&listen))),
        }
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_a_scheme() {
        for (text, address, entrance) in [
            (":80", "127.0.0.1:80", plain(false)),
            ("[::1]:8080", "[::1]:8080", plain(false)),
            ("http://0.0.0.0:80/", "0.0.0.0:80", plain(false)),
            ("https://:8443", "127.0.0.1:8443", secure(false)),
            ("proxy://10.0.0.1:81", "10.0.0.1:81", plain(true)),
            ("proxy+https://[::]:1", "[::]:1", secure(true)),
        ] {
            let expected = Listen {
                address: address.parse().unwrap(),
                entrance,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "8080",
            "localhost:80",
            "ftp://127.0.0.1:1",
            "https://",
            "proxy+http://:1",
        ] {
            assert!(
                bad.parse::<Listen>().unwrap_err().contains("127.0.0.1:8080"),
                "{bad}"
            );
        }
    }
}
