//! What a workload may reach: host names and networks, each with a TCP port.
//!
//! Written as text: `db.example.com:5432`, `203.0.113.7:443`, `10.1.0.0/16:443`. One text for one meaning. Who enforces it asks
//! [`Destination::permits`], and [`is_anybodys`] of each address that a name turned out to have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Destinations of one workload at most.
pub const MAX_DESTINATIONS: usize = 64;

/// Name of the host that carries the machine: its loopback, which no other name and no address reaches.
pub const CARRIER: &str = "host.internal";

/// Bytes of a name at most (RFC 1035, section 2.3.4, without the root's dot).
const MAX_NAME: usize = 253;

/// Bytes of a part of a name at most.
const MAX_LABEL: usize = 63;

/// Networks of addresses that are never reached (RFC 6890): those of [`is_anybodys`].
const NOBODYS: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(255, 255, 255, 255), 32),
];

/// One thing that a workload may reach, by TCP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    /// Where.
    pub host: Host,
    /// At which port; never 0.
    pub port: u16,
}

/// Where a destination is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// What this name means where the machine is carried, in lower case; or [`CARRIER`].
    Name(String),
    /// Each address of a network.
    Network {
        /// Its first address.
        first: Ipv4Addr,
        /// Leading bits that its addresses share, 0 to 32.
        prefix: u8,
    },
}

/// A text that is no destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotADestination {
    /// No port.
    #[error("a port from 1 to 65535 is missing at its end, as in `db.example.com:5432`")]
    Port,
    /// Neither a name nor a network.
    #[error(
        "`:` must follow a host name in lower case, an IPv4 address, or a network such as 10.1.0.0/16 whose other bits are zero"
    )]
    Host,
    /// The machine itself, or what has no place in a network of its own.
    #[error(
        "loopback, link-local and multicast addresses are never reached; `host.internal` is the host that carries the machine"
    )]
    Nobody,
}

impl Destination {
    /// Whether it stands for this host: a name, or an address as text.
    #[must_use]
    pub fn permits(&self, host: &str, port: u16) -> bool {
        let is_it = match &self.host {
            Host::Name(name) => name == host,
            Host::Network { first, prefix } => {
                let address = host.parse::<Ipv4Addr>();
                address.is_ok_and(|address| masked(address, *prefix) == *first)
            }
        };
        is_it && port == self.port
    }
}

/// Whether connections may go to this address at all: not to the host's own loopback, and not to what is next to it without a route, as
/// the metadata services of clouds are.
#[must_use]
pub fn is_anybodys(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !NOBODYS.iter().any(|(base, bits)| masked(address, *bits) == *base),
        IpAddr::V6(address) => {
            let own = address.is_loopback() || address.is_unspecified();
            !(own || address.is_unicast_link_local() || address.is_multicast())
        }
    }
}

fn masked(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX
        .checked_shl(32_u32.saturating_sub(prefix.into()))
        .unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= MAX_NAME
        && text.split('.').all(label)
        // What ends like an address is read as one by some.
        && !text.rsplit('.').next().is_none_or(is_number)
}

impl FromStr for Host {
    type Err = NotADestination;

    fn from_str(text: &str) -> Result<Self, NotADestination> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, bits)) => {
                let prefix = bits.parse::<u8>().ok().filter(|prefix| *prefix < 32);
                let prefix = prefix.filter(|prefix| prefix.to_string() == bits);
                (address, prefix.ok_or(NotADestination::Host)?)
            }
            None => (text, 32),
        };
        let Ok(first) = address.parse::<Ipv4Addr>() else {
            return match text {
                "localhost" => Err(NotADestination::Nobody),
                name if is_name(name) => Ok(Self::Name(name.to_owned())),
                _ => Err(NotADestination::Host),
            };
        };
        if masked(first, prefix) != first {
            return Err(NotADestination::Host);
        }
        // A wider network may hold such addresses: they are left out of it.
        let is_nobodys = |(base, bits): &(Ipv4Addr, u8)| prefix >= *bits && masked(first, *bits) == *base;
        match NOBODYS.iter().any(is_nobodys) {
            false => Ok(Self::Network { first, prefix }),
            true => Err(NotADestination::Nobody),
        }
    }
}

impl FromStr for Destination {
    type Err = NotADestination;

    fn from_str(text: &str) -> Result<Self, NotADestination> {
        let (host, digits) = text.rsplit_once(':').ok_or(NotADestination::Port)?;
        let port = digits.parse::<u16>().ok().filter(|port| *port != 0);
        let port = port.filter(|port| port.to_string() == digits);
        let port = port.ok_or(NotADestination::Port)?;
        Ok(Self {
            host: host.parse()?,
            port,
        })
    }
}

impl TryFrom<String> for Destination {
    type Error = NotADestination;

    fn try_from(text: String) -> Result<Self, NotADestination> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Network { first, prefix: 32 } => first.fmt(f),
            Self::Network { first, prefix } => write!(f, "{first}/{prefix}"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Destination, NotADestination> {
        text.parse()
    }

    #[test]
    fn one_text_for_one_destination() {
        for good in [
            "db.example.com:5432",
            "a:1",
            "host.internal:80",
            "_srv.x-y:65535",
            "203.0.113.7:443",
            "10.0.0.0/8:443",
            "0.0.0.0/0:443",
            "128.0.0.0/1:443",
            "224.0.0.0/3:443",
        ] {
            assert_eq!(read(good).unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("db.example.com", NotADestination::Port),
            ("db:0", NotADestination::Port),
            ("db:080", NotADestination::Port),
            ("db:65536", NotADestination::Port),
            ("db:", NotADestination::Port),
            ("DB:1", NotADestination::Host),
            ("db.:1", NotADestination::Host),
            (":1", NotADestination::Host),
            ("-a:1", NotADestination::Host),
            ("a b:1", NotADestination::Host),
            ("1.2.3:1", NotADestination::Host),
            ("10.1.0.0/8:1", NotADestination::Host),
            ("10.1.0.0/32:1", NotADestination::Host),
            ("10.0.0.0/08:1", NotADestination::Host),
            ("[2001:db8::1]:1", NotADestination::Host),
            ("localhost:1", NotADestination::Nobody),
            ("127.0.0.1:1", NotADestination::Nobody),
            ("127.0.0.0/8:1", NotADestination::Nobody),
            ("169.254.169.254:1", NotADestination::Nobody),
            ("0.0.0.0:1", NotADestination::Nobody),
        ] {
            assert_eq!(read(bad), Err(why), "{bad}");
        }
        let long = format!("{}:1", vec!["a".repeat(63); 4].join("."));
        assert_eq!(read(&long), Err(NotADestination::Host));
    }

    #[test]
    fn a_destination_permits_itself_and_nothing_else() {
        let name = read("db.example.com:5432").unwrap();
        assert!(name.permits("db.example.com", 5432));
        for (host, port) in [
            ("db.example.com", 5433),
            ("x.db.example.com", 5432),
            ("example.com", 5432),
            ("10.0.0.1", 5432),
        ] {
            assert!(!name.permits(host, port), "{host}:{port}");
        }
        let network = read("10.1.0.0/16:443").unwrap();
        assert!(network.permits("10.1.0.0", 443) && network.permits("10.1.255.255", 443));
        assert!(!network.permits("10.2.0.0", 443) && !network.permits("10.1.0.1", 80));
        assert!(!network.permits("010.1.0.1", 443) && !network.permits("a", 443));
        assert!(read("0.0.0.0/0:1").unwrap().permits("203.0.113.7", 1));
        assert!(!read("203.0.113.7:1").unwrap().permits("203.0.113.8", 1));
    }

    #[test]
    fn nobodys_addresses_are_known_in_each_spelling() {
        for nobodys in [
            "127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_anybodys(nobodys.parse().unwrap()), "{nobodys}");
        }
        for anybodys in [
            "10.0.0.1",
            "203.0.113.7",
            "2001:db8::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_anybodys(anybodys.parse().unwrap()), "{anybodys}");
        }
    }
}
