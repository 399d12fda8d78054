//! The way out of private networks, over version 4: addresses are translated in the keeper's namespace. Root leads a pair of
//! interfaces from there to this machine's network and translates once more; others have `pasta` (Debian's package `passt`) bring it.
//! Nothing of this machine itself is reached by it: not its loopback, not its addresses, not what is link-local.

use std::ffi::OsStr;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::unistd::Uid;
use sha2::{Digest as _, Sha256};
use suijuris_sys::Process;
use suijuris_sys::netlink::{self, Netlink};
use suijuris_vehicle::process::{Networks, UPLINK, WayOut};

use crate::machine::effects::chain;

/// What is nobody's beyond this machine: its own network, its loopback, what is link-local, and groups.
const NEVER: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];
/// How long pasta may take until its interface is there.
const PASTA_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How machines reach out, as far as this machine lets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Not at all, for this reason.
    None(String),
    /// By this machine's own tables; root.
    Tables,
    /// By this program.
    Pasta(PathBuf),
}

impl Plan {
    /// What can be done here, found out without changing anything.
    pub(crate) fn find() -> Self {
        let has_tables = program("iptables-restore").is_some() && program("iptables").is_some();
        if !has_tables {
            return Self::None("iptables is not installed".to_owned());
        }
        if Uid::effective().is_root() {
            return match nix::unistd::access("/proc/sys/net/ipv4/ip_forward", nix::unistd::AccessFlags::W_OK)
            {
                Ok(()) => Self::Tables,
                Err(errno) => Self::None(format!(
                    "/proc/sys/net/ipv4/ip_forward cannot be written: {errno}"
                )),
            };
        }
        let device = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun");
        match (program("pasta"), device) {
            (None, _) => {
                Self::None("pasta is not installed (Debian's package passt), and this is not root".to_owned())
            }
            (Some(_), Err(error)) => Self::None(format!("pasta cannot be used, /dev/net/tun: {error}")),
            (Some(path), Ok(_)) => Self::Pasta(path),
        }
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let mut found = std::env::split_paths(&path)
        .chain(more)
        .map(|directory| directory.join(name));
    found.find(|file| file.is_file())
}

fn run(name: &str, args: &[&str]) -> io::Result<()> {
    let path = program(name).ok_or(io::ErrorKind::NotFound)?;
    let output = Command::new(path).args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{name}: {}", said.trim())))
}

/// A way out that is open.
#[derive(Debug)]
pub(super) enum Out {
    /// The interface of this machine's end, and the network of both.
    Tables {
        interface: String,
        network: (Ipv4Addr, u8),
    },
    Pasta,
}

/// The file in which it stands which process pasta is.
fn pasta_record(data: &Path) -> PathBuf {
    data.join("pasta")
}

impl Out {
    /// Opens it, or finds it open.
    pub(super) fn open(plan: &Plan, networks: &Networks, data: &Path) -> Result<Option<Self>, String> {
        let told = |error: io::Error| format!("the way out of private networks: {error}");
        Ok(match plan {
            Plan::None(_) => None,
            Plan::Tables => Some(tables(networks, data).map_err(told)?),
            Plan::Pasta(program) => Some(pasta(program, networks, data).map_err(told)?),
        })
    }

    pub(super) fn close(&self, data: &Path) {
        match self {
            Self::Tables { interface, network } => {
                for rule in rules(interface, *network) {
                    // One that somebody took away is as good.
                    let _ = run("iptables", &words("-D", &rule));
                }
                if let Ok(index) = netlink::index(interface) {
                    let _ = Netlink::open().and_then(|mut netlink| netlink.remove(index));
                }
            }
            Self::Pasta => {
                let record = pasta_record(data);
                if let Some(process) = recorded(&record) {
                    let _ = suijuris_sys::kill(process.pid.cast_signed(), nix::libc::SIGTERM);
                }
                let _ = std::fs::remove_file(record);
            }
        }
    }
}

/// Rules of this machine's own tables: table, chain, and what they say. Each is put before all others, the last one first.
fn rules(interface: &str, (network, prefix): (Ipv4Addr, u8)) -> Vec<(&'static str, &'static str, String)> {
    let mut rules = vec![("filter", "INPUT", format!("-i {interface} -j REJECT"))];
    rules.extend(NEVER.iter().map(|(to, bits)| {
        (
            "filter",
            "FORWARD",
            format!("-i {interface} -d {to}/{bits} -j REJECT"),
        )
    }));
    rules.extend([
        ("filter", "FORWARD", format!("-i {interface} -j ACCEPT")),
        (
            "filter",
            "FORWARD",
            format!("-o {interface} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"),
        ),
        ("filter", "FORWARD", format!("-o {interface} -j DROP")),
        (
            "nat",
            "POSTROUTING",
            format!("-s {network}/{prefix} ! -o {interface} -j MASQUERADE"),
        ),
    ]);
    rules
}

fn words<'a>(what: &'a str, (table, chain, rule): &'a (&'static str, &'static str, String)) -> Vec<&'a str> {
    ["-w", "-t", table, what, chain]
        .into_iter()
        .chain(rule.split(' '))
        .collect()
}

fn tables(networks: &Networks, data: &Path) -> io::Result<Out> {
    use std::os::fd::AsFd as _;
    use std::os::unix::ffi::OsStrExt as _;
    let digest = Sha256::digest(data.as_os_str().as_bytes());
    let hash = digest
        .iter()
        .take(4)
        .fold(0, |bits: u32, byte| bits << 8 | u32::from(*byte));
    let interface = format!("sj{hash:08x}");
    // Four addresses of those that providers use among themselves, by the directory: daemons do not get in each other's way.
    let base = Ipv4Addr::new(100, 64, 0, 0).to_bits() | (hash & 0x003f_fffc);
    let at = |n: u32| Ipv4Addr::from_bits(base + n);
    let mut netlink = Netlink::open()?;
    if netlink::index(&interface).is_err() {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", networks.keeper()))?;
        netlink.add_pair((&interface, None), (UPLINK, namespace.as_fd()))?;
    }
    let index = netlink::index(&interface)?;
    netlink.up(index)?;
    netlink.add_address(index, at(1).into(), 30)?;
    let network = (at(0), 30);
    for rule in rules(&interface, network).iter().rev() {
        if run("iptables", &words("-C", rule)).is_err() {
            run("iptables", &words("-I", rule))?;
        }
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let out = WayOut {
        address: Some(((at(2), 30), at(1))),
        refused: NEVER.to_vec(),
    };
    networks
        .open_out(out)
        .map_err(|error| io::Error::other(chain(&error)))?;
    Ok(Out::Tables { interface, network })
}

fn recorded(path: &Path) -> Option<Process> {
    let (pid, started) = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Some(Process { pid, started }).filter(|process| process.exists())
}

fn pasta(program: &Path, networks: &Networks, data: &Path) -> io::Result<Out> {
    let record = pasta_record(data);
    if recorded(&record).is_none() || !networks.is_found {
        let space = |name: &str| format!("/proc/{}/ns/{name}", networks.keeper());
        let mut command = Command::new(program);
        command.args(["-f", "-q", "--config-net", "--no-map-gw", "-I", UPLINK]);
        command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
        command.args([OsStr::new("--netns"), space("net").as_ref()]);
        command.args([OsStr::new("--userns"), space("user").as_ref()]);
        command.current_dir(data);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Out of the reach of what ends this daemon at a terminal.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn()?;
        if let Some(process) = Process::of(child.id()) {
            std::fs::write(&record, serde_json::to_vec(&(process.pid, process.started))?)?;
        }
    }
    // It would connect to these as this machine does to itself.
    let own = getifaddrs()?.filter_map(|found| Some(found.address?.as_sockaddr_in()?.ip()));
    let refused: Vec<(Ipv4Addr, u8)> = NEVER.into_iter().chain(own.map(|own| (own, 32))).collect();
    let limit = Instant::now() + PASTA_WITHIN;
    loop {
        let out = WayOut {
            address: None,
            refused: refused.clone(),
        };
        match networks.open_out(out) {
            Ok(()) => return Ok(Out::Pasta),
            Err(error) if Instant::now() > limit => return Err(io::Error::other(chain(&error))),
            // Its interface is not there yet.
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_taken_away_by_the_words_it_was_made_with() {
        let rules = rules("sj0", (Ipv4Addr::new(100, 64, 0, 0), 30));
        for rule in &rules {
            let (made, removed) = (words("-I", rule), words("-D", rule));
            assert_eq!(made.len(), removed.len());
            assert_eq!(made[4..], removed[4..]);
        }
        let first = words("-I", &rules[0]).join(" ");
        assert_eq!(first, "-w -t filter -I INPUT -i sj0 -j REJECT");
    }
}
