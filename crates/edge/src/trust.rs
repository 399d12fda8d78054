//! Which peers are proxies of this daemon's owner, whose word on clients counts.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks that are trusted, at most.
pub const MAX_TRUSTED: usize = 256;

/// Networks whose hosts may say for whom they speak.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust(Vec<IpNet>);

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network: write 10.0.0.0/8, fd00::/8, or one address")]
pub struct NoNetwork(String);

/// One network, or one address as a network of its own.
///
/// # Errors
/// [`NoNetwork`].
pub fn network(text: &str) -> Result<IpNet, NoNetwork> {
    let one = || text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
    text.parse::<IpNet>()
        .or_else(|_| one())
        .map(|net| net.trunc())
        .map_err(|_| NoNetwork(text.escape_debug().to_string()))
}

impl Trust {
    /// These networks.
    #[must_use]
    pub fn new(mut networks: Vec<IpNet>) -> Self {
        networks.truncate(MAX_TRUSTED);
        Self(networks)
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this host is. An IPv4 address is the same written as IPv6.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_and_single_addresses() {
        let trust = Trust::new(vec![
            network("10.0.0.7/8").unwrap(),
            network("::1").unwrap(),
            network("192.0.2.1").unwrap(),
        ]);
        for inside in ["10.200.0.1", "::ffff:10.1.2.3", "::1", "192.0.2.1"] {
            assert!(trust.has(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.1", "::2", "192.0.2.2", "::ffff:11.1.2.3"] {
            assert!(!trust.has(ip(outside)), "{outside}");
        }
        assert!(!Trust::default().has(ip("127.0.0.1")));
        for bad in ["", "10.0.0.0/33", "localhost", "10.0.0", "10.0.0.0/8 "] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }
}
