//! The private networks of orgs: one for each org and network name, in which machines of images have an address made from their id,
//! and reach each other and [`names`], and, where there is one, the [way out](out). Nobody else's machines are in it.
//!
//! Nothing is set up before the first machine needs it.

pub(crate) mod names;
mod out;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use suijuris_vehicle::Place;
use suijuris_vehicle::process::{Attachment, Networks, NetworksError, Shim};
use tokio::sync::Notify;

use crate::ids::{hex, random};
use crate::machine::Machine;
use crate::machine::effects::chain;
use out::Out;

pub(crate) use out::Plan;

/// Where names are answered, as at Fly.
pub(crate) const NAMES: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 3);
/// All private networks there are.
const ALL: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 0)), 16);
/// Bits of an address that are its network's.
const PREFIX: u8 = 80;
/// Addresses that machines have towards the way out; no network of others uses them. The first is the gateway.
const POOL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const POOL_SIZE: u32 = 1 << 17;
const FIRST: u32 = 2;
/// The file of a machine's directory that its address towards the way out stands in.
const OWN: &str = "address";
/// What a machine's files say of names.
pub(crate) const RESOLVER: &str = "resolv.conf";
/// What a machine's files say of itself.
pub(crate) const HOSTS: &str = "hosts";

/// Which private network: the first bits of its addresses, behind `fdaa`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NetworkId(u64);

impl NetworkId {
    /// That of an org's network of this name. Nobody finds another name with the same bits.
    pub(crate) fn of(org: &str, network: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(org.len().to_le_bytes())
            .chain_update(org)
            .chain_update(network)
            .finalize();
        let first = digest.iter().take(8);
        Self(first.fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }

    /// That of an address.
    pub(crate) fn at(address: Ipv6Addr) -> Option<Self> {
        let bits = address.to_bits();
        (bits >> 112 == 0xfdaa)
            .then(|| Self(u64::try_from(bits >> 48 & u128::from(u64::MAX)).unwrap_or_default()))
    }

    fn address(self, host: u64) -> Ipv6Addr {
        Ipv6Addr::from_bits(0xfdaa << 112 | u128::from(self.0) << 48 | u128::from(host & 0xffff_ffff_ffff))
    }

    /// The address of a machine.
    pub(crate) fn of_machine(self, id: &str) -> Ipv6Addr {
        // Ids are hexadecimal; 0 and 1 are the network's own.
        let digits = id.get(..12).unwrap_or(id);
        self.address(u64::from_str_radix(digits, 16).unwrap_or_default().max(2))
    }

    fn gateway(self) -> Ipv6Addr {
        self.address(1)
    }

    fn bridge(self) -> String {
        format!("b{:014x}", self.0 >> 8)
    }
}

/// The private networks of a host.
#[derive(Debug)]
pub(crate) struct Private {
    shim: Shim,
    /// The host's data.
    data: PathBuf,
    /// The directory of all machines' files.
    machines: PathBuf,
    plan: Plan,
    open: Mutex<Option<Open>>,
    /// Addresses towards the way out, and whose they are.
    given: Mutex<BTreeMap<u32, String>>,
    sockets: Mutex<Option<(OwnedFd, OwnedFd)>>,
    is_open: Notify,
}

#[derive(Debug)]
struct Open {
    networks: Networks,
    out: Option<Out>,
}

impl Private {
    /// Those of the host whose data and machines' files are in these directories.
    pub(crate) fn new(shim: Shim, data: &Path, machines: &Path, plan: Plan) -> Self {
        Self {
            shim,
            data: data.to_owned(),
            machines: machines.to_owned(),
            plan,
            open: Mutex::default(),
            given: Mutex::new(given(machines)),
            sockets: Mutex::default(),
            is_open: Notify::new(),
        }
    }

    fn record(&self) -> PathBuf {
        self.data.join("networks")
    }

    /// Whether machines reach beyond their network.
    pub(crate) const fn has_way_out(&self) -> bool {
        !matches!(self.plan, Plan::None(_))
    }

    /// What its machines have to do without, and why.
    pub(crate) fn shortfall(&self) -> Option<String> {
        match &self.plan {
            Plan::None(why) if why.starts_with("--") => None,
            Plan::None(why) => Some(format!("machines reach each other, and nothing beyond: {why}")),
            Plan::Tables | Plan::Pasta(_) => None,
        }
    }

    /// Sets up what an earlier daemon had: machines may be in it.
    pub(crate) fn take_over(&self) -> Result<(), String> {
        if self.record().exists() {
            self.with(|_| Ok(()))
        } else {
            Ok(())
        }
    }

    fn with<T>(&self, work: impl FnOnce(&Open) -> Result<T, NetworksError>) -> Result<T, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match open.take() {
            Some(opened) => opened,
            None => self.set_up()?,
        };
        let opened = open.insert(opened);
        work(opened).map_err(|error| chain(&error))
    }

    fn set_up(&self) -> Result<Open, String> {
        let networks = Networks::open(&self.shim, &self.record()).map_err(|error| chain(&error))?;
        let sockets = networks.names(NAMES).map_err(|error| chain(&error))?;
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = Some(sockets);
        self.is_open.notify_one();
        let out = Out::open(&self.plan, &networks, &self.data)?;
        Ok(Open { networks, out })
    }

    /// The sockets at which names are asked for, once there are any.
    pub(crate) async fn sockets(&self) -> (OwnedFd, OwnedFd) {
        loop {
            self.is_open.notified().await;
            let made = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(made) = made {
                return made;
            }
        }
    }

    /// A network for the machine's next life. Blocks for some milliseconds.
    pub(crate) fn join(&self, machine: &Machine) -> Result<Place, String> {
        let pair = random::<7>().map_err(|error| error.to_string())?;
        let network = machine.network_id();
        let mut unreachable = vec![ALL];
        let out = if self.has_way_out() {
            unreachable.push((Ipv4Addr::new(169, 254, 0, 0).into(), 16));
            Some((self.own(&machine.id)?, Ipv4Addr::from_bits(POOL.to_bits() + 1)))
        } else {
            None
        };
        let attachment = Attachment {
            bridge: network.bridge(),
            pair: format!("v{}", hex(&pair)),
            address: (machine.address(), PREFIX),
            gateway: network.gateway(),
            names: NAMES,
            unreachable,
            out,
        };
        self.with(|open| open.networks.join(attachment))
            .map_err(|why| format!("the machine's private network cannot be made: {why}"))
    }

    /// The files by which the machine's programs find names and itself.
    pub(crate) fn files(machine: &Machine) -> [(&'static str, String); 2] {
        let (id, address) = (&machine.id, machine.address());
        [
            (RESOLVER, format!("nameserver {NAMES}\n")),
            (
                HOSTS,
                format!(
                    "127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} fly-local-6pn {id} {id}.vm.{}.internal\n",
                    machine.app
                ),
            ),
        ]
    }

    /// The machine's address towards the way out, for as long as it has files.
    fn own(&self, machine: &str) -> Result<Ipv4Addr, String> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let known = given
            .iter()
            .find(|(_, whose)| *whose == machine)
            .map(|(at, _)| *at);
        let at = match known {
            Some(at) => at,
            None => (FIRST..POOL_SIZE - 1)
                .find(|at| !given.contains_key(at))
                .ok_or("no address is left for the way out: destroy machines first")?,
        };
        let address = Ipv4Addr::from_bits(POOL.to_bits() + at);
        let path = self.machines.join(machine).join(OWN);
        std::fs::write(&path, address.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
        given.insert(at, machine.to_owned());
        Ok(address)
    }

    /// The machine is no more.
    pub(crate) fn forget(&self, machine: &str) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, whose| whose != machine);
    }

    /// Takes everything down, where no machine is in it.
    pub(crate) fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Open { networks, out }) = open {
            if let Some(out) = out {
                out.close(&self.data);
            }
            networks.end();
        }
    }
}

/// The addresses that machines have already.
fn given(machines: &Path) -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir(machines).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join(OWN)).ok()?;
        let address: Ipv4Addr = text.trim().parse().ok()?;
        let at = address.to_bits().checked_sub(POOL.to_bits())?;
        Some((at, entry.file_name().into_string().ok()?))
    };
    entries
        .filter_map(one)
        .filter(|(at, _)| (FIRST..POOL_SIZE).contains(at))
        .collect()
}

impl Machine {
    /// Which private network it is in.
    pub(crate) fn network_id(&self) -> NetworkId {
        NetworkId::of(&self.org, &self.network)
    }

    /// Its address there.
    pub(crate) fn address(&self) -> Ipv6Addr {
        self.network_id().of_machine(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_its_network_and_differs_by_org_name_and_machine() {
        let ours = NetworkId::of("personal", "default");
        let one = ours.of_machine("148ed21a2c3d4f");
        assert_eq!(NetworkId::at(one), Some(ours));
        assert_ne!(one, ours.of_machine("148ed21a2c3e4f"));
        for (org, network) in [("other", "default"), ("personal", "x"), ("personald", "efault")] {
            assert_ne!(NetworkId::of(org, network), ours, "{org} {network}");
        }
        assert_eq!(NetworkId::at("fd00::1".parse().unwrap()), None);
        assert_ne!(ours.of_machine("00000000000000"), ours.gateway());
        assert_eq!(ours.bridge().len(), 15);
    }

    #[test]
    fn an_address_towards_the_way_out_is_one_machines_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let make = |id: &str| std::fs::create_dir(dir.path().join(id)).unwrap();
        let (shim, plan) = (Shim::itself("x"), Plan::None("no".to_owned()));
        let private = Private::new(shim.clone(), dir.path(), dir.path(), plan);
        ["a", "b", "c"].iter().for_each(|id| make(id));
        let (a, b) = (private.own("a").unwrap(), private.own("b").unwrap());
        assert_ne!(a, b);
        assert_eq!(private.own("a").unwrap(), a);
        let later = Private::new(shim, dir.path(), dir.path(), Plan::None("no".to_owned()));
        assert_eq!(later.own("b").unwrap(), b);
        assert!(![a, b].contains(&later.own("c").unwrap()));
        later.forget("a");
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        make("d");
        assert_eq!(later.own("d").unwrap(), a);
    }
}
