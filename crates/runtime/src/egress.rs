//! What the bundle lets a workload reach, in a machine whose network has nothing but loopback.
//!
//! All addresses are the machine's own there, and this listens at those that the bundle names: who connects gets a stream of the
//! link, and the supervisor makes the connection outside, where it asks the bundle once more. Nothing else leads out of the machine. Names
//! have addresses of their own, which the workload finds in its `/etc/hosts`. Not here: names and addresses outside
//! (`supervisor/src/egress.rs`); machines whose network is not theirs alone, where nothing of this holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use suijuris_core::manifest::Destination;
use suijuris_core::manifest::egress::Host;
use suijuris_link::frame::StreamKind;
use suijuris_sys::network;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::report::Reports;

/// Connections at one time at most; the next ones wait.
const MAX_CONNECTIONS: usize = 256;

/// Where the addresses of names begin: a network that is nobody's (RFC 2544).
const NAMES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Where names are looked up first.
pub(crate) const HOSTS: &str = "/etc/hosts";

/// Ways out of the machine. The default is none.
#[derive(Debug, Default)]
pub(crate) struct Egress {
    listeners: Vec<TcpListener>,
    ways: Rc<Ways>,
    hosts: Option<PathBuf>,
}

/// Where connections to an address of this machine's are meant to go.
#[derive(Debug, Default)]
struct Ways {
    allowed: BTreeSet<Destination>,
    names: BTreeMap<Ipv4Addr, String>,
}

impl Ways {
    fn new(allowed: &BTreeSet<Destination>) -> Self {
        let name = |destination: &Destination| match &destination.host {
            Host::Name(name) => Some(name.clone()),
            Host::Network { .. } => None,
        };
        let names: BTreeSet<String> = allowed.iter().filter_map(name).collect();
        let addresses = (u32::from(NAMES)..).map(Ipv4Addr::from);
        Self {
            allowed: allowed.clone(),
            names: addresses.zip(names).collect(),
        }
    }

    /// Where whoever connected to this address wants to go, if that is allowed.
    fn of(&self, address: SocketAddr) -> Option<String> {
        let IpAddr::V4(own) = address.ip().to_canonical() else {
            return None;
        };
        let host = self.names.get(&own).cloned().unwrap_or_else(|| own.to_string());
        let permitted = |destination: &Destination| destination.permits(&host, address.port());
        let permitted = self.allowed.iter().any(permitted);
        permitted.then(|| format!("{host}:{}", address.port()))
    }

    /// Where to listen: at names and single addresses, and at each address where a network has the port.
    fn places(&self) -> BTreeSet<(Ipv4Addr, u16)> {
        let wide =
            |destination: &&Destination| matches!(destination.host, Host::Network { prefix: 0..32, .. });
        let wide: BTreeSet<u16> = self.allowed.iter().filter(wide).map(|wide| wide.port).collect();
        let place = |destination: &Destination| {
            let address = match &destination.host {
                _ if wide.contains(&destination.port) => Ipv4Addr::UNSPECIFIED,
                Host::Network { first, .. } => *first,
                Host::Name(name) => *self.names.iter().find(|(_, own)| *own == name)?.0,
            };
            Some((address, destination.port))
        };
        self.allowed.iter().filter_map(place).collect()
    }

    /// What names mean in here, before what `others` says.
    fn hosts(&self, others: &str) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (address, name) in &self.names {
            let _ = writeln!(text, "{address} {name}");
        }
        text + others
    }
}

impl Egress {
    /// Takes this machine's network for these destinations, and listens; what names mean is written beside the agent socket.
    ///
    /// # Errors
    /// The system's: this machine may not set its network up, or somebody listens there already.
    pub(crate) async fn open(allowed: &BTreeSet<Destination>, agent_socket: &Path) -> io::Result<Self> {
        if allowed.is_empty() {
            return Ok(Self::default());
        }
        network::take_all_addresses()?;
        let ways = Ways::new(allowed);
        let mut listeners = Vec::new();
        for place in ways.places() {
            listeners.push(TcpListener::bind(place).await?);
        }
        let hosts = agent_socket.with_file_name("hosts");
        if let Some(above) = hosts.parent() {
            fs::create_dir_all(above)?;
        }
        let others = fs::read_to_string(HOSTS);
        if others.is_err() {
            // So that there is a place for it.
            fs::write(HOSTS, "")?;
        }
        fs::write(&hosts, ways.hosts(&others.unwrap_or_default()))?;
        Ok(Self {
            listeners,
            ways: Rc::new(ways),
            hosts: Some(hosts),
        })
    }

    /// The file that the workload is to see at [`HOSTS`].
    pub(crate) fn hosts(&self) -> Option<PathBuf> {
        self.hosts.clone()
    }

    /// Carries connections, for ever; `reports` has the link of now.
    pub(crate) async fn carry(self, reports: Reports) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut all = JoinSet::new();
        for listener in self.listeners {
            let (ways, reports, room) = (self.ways.clone(), reports.clone(), room.clone());
            all.spawn_local(async move {
                let mut carried = JoinSet::new();
                loop {
                    let Ok(permit) = room.clone().acquire_owned().await else {
                        return;
                    };
                    let Ok((client, _)) = listener.accept().await else {
                        // No more descriptors for now: those of others come back.
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    };
                    while carried.try_join_next().is_some() {}
                    let (ways, reports) = (ways.clone(), reports.clone());
                    carried.spawn_local(async move {
                        let _permit = permit;
                        let _ended = carry(client, &ways, &reports).await;
                    });
                }
            });
        }
        while all.join_next().await.is_some() {}
        std::future::pending::<()>().await;
    }
}

/// Carries one connection; who is not let out, or whose connection breaks outside, is cut off.
async fn carry(mut client: TcpStream, ways: &Ways, reports: &Reports) -> io::Result<()> {
    let way = ways.of(client.local_addr()?);
    let link = reports.link();
    let carried = async {
        let (Some(way), Some(link)) = (way, link) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let length = u8::try_from(way.len()).map_err(io::Error::other)?;
        let mut stream = link.open(StreamKind::Egress).map_err(io::Error::other)?;
        stream.write_all(&[&[length], way.as_bytes()].concat()).await?;
        tokio::io::copy_bidirectional(&mut client, &mut stream)
            .await
            .map(drop)
    };
    let ended: io::Result<()> = carried.await;
    if ended.is_err() {
        // Seen as an error, and not as the end of what was said.
        let _ = client.set_zero_linger();
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(texts: &[&str]) -> Ways {
        Ways::new(&texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn what_is_connected_to_here_is_meant_outside() {
        let ways = ways(&[
            "b.example:1",
            "a.example:1",
            "a.example:2",
            "10.1.0.0/16:3",
            "203.0.113.7:4",
        ]);
        let of = |address: &str| ways.of(address.parse().unwrap());
        assert_eq!(of("198.18.0.1:1").as_deref(), Some("a.example:1"));
        assert_eq!(of("198.18.0.2:1").as_deref(), Some("b.example:1"));
        assert_eq!(of("198.18.0.1:2").as_deref(), Some("a.example:2"));
        assert_eq!(of("[::ffff:10.1.2.3]:3").as_deref(), Some("10.1.2.3:3"));
        assert_eq!(of("203.0.113.7:4").as_deref(), Some("203.0.113.7:4"));
        for nowhere in [
            "198.18.0.2:2",
            "198.18.0.3:1",
            "10.2.0.0:3",
            "10.1.0.0:4",
            "127.0.0.1:3",
            "[::1]:3",
        ] {
            assert_eq!(of(nowhere), None, "{nowhere}");
        }
        let hosts = ways.hosts("10.0.0.1 other\n");
        assert!(
            hosts.contains("\n198.18.0.1 a.example\n198.18.0.2 b.example\n10.0.0.1 other\n"),
            "{hosts}"
        );
    }

    #[test]
    fn a_port_of_a_network_is_listened_at_everywhere_and_once() {
        let every = Ipv4Addr::UNSPECIFIED;
        let places = ways(&["a:1", "a:2", "10.0.0.0/8:2", "11.0.0.0/8:2", "203.0.113.7:3"]).places();
        let expected = [(every, 2), (NAMES, 1), (Ipv4Addr::new(203, 0, 113, 7), 3)];
        assert_eq!(places, expected.into());
    }
}
