//! Networks of machines among each other: bridges in a network namespace of their own, which outlives the driver's program as the
//! machines do.
//!
//! ```text
//! keeper's namespace:  names (fdaa::3)  bridge of one network ── pair ── eth0 of a machine
//!                      way out          bridge of another     ── pair ── eth0 of a machine
//! ```
//!
//! Two processes of ours, the shim executed anew: the *keeper* makes the namespaces (one for users too, where the caller is not
//! root) and sleeps; its successors find it by number and start. The *tender* goes in, works off orders, and ends with its caller.
//! A machine joins a network that was made whole before the machine's first program runs, and has no right to change it.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};
use suijuris_sys::descriptors::poll;
use suijuris_sys::netlink::{self, Netlink, Way};
use suijuris_sys::{Process, namespaces, sockets};

use super::Shim;
use crate::spec::Place;

/// What tells the shim that it is the keeper.
const KEEP: &str = "keep-networks";
/// What tells the shim that it is the tender; number and start of the keeper come behind it.
const TEND: &str = "tend-networks";
/// How long either may take for one thing, milliseconds. Rules for a way out are programs that are executed.
const LIMIT_MS: i32 = 10_000;
/// Most bytes of an order, and of what is said to one.
const MESSAGE: usize = 64 << 10;
/// The machine's interface.
const CARD: &str = "eth0";
/// The interface of the way out, in the keeper's namespace.
pub const UPLINK: &str = "up0";
/// What a bridge's name begins with.
const BRIDGE: &str = "b+";

/// Why machines cannot have networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworksError {
    /// The processes that keep them.
    #[error("networks between machines cannot be kept here")]
    Keeper(#[source] io::Error),
    /// Something was refused.
    #[error("{0}")]
    Refused(String),
}

/// How one machine is joined to one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The bridge of the network: `b` and up to 14 of `a-z` and `0-9`.
    pub bridge: String,
    /// Name of the pair's outer end, of this life alone: likewise, after `v`.
    pub pair: String,
    /// The machine's address, and how many bits of it are its network's.
    pub address: (Ipv6Addr, u8),
    /// The bridge's own address in that network.
    pub gateway: Ipv6Addr,
    /// Where names are answered.
    pub names: Ipv6Addr,
    /// What is not there beyond the machine's own network, though there may be a way out.
    pub unreachable: Vec<(IpAddr, u8)>,
    /// For the way out: the machine's address, and that of the bridge; none: no way out.
    pub out: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// The way out, as the keeper's namespace sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WayOut {
    /// Address and gateway of its interface; none where whoever brings it gives it these.
    pub address: Option<((Ipv4Addr, u8), Ipv4Addr)>,
    /// What machines must not reach by it.
    pub refused: Vec<(Ipv4Addr, u8)>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Join(Box<Attachment>),
    Names(Ipv6Addr),
    Out(WayOut),
}

/// What is said to an order: what went wrong, or nothing.
#[derive(Debug, Serialize, Deserialize)]
struct Answer(Option<String>);

/// The networks of one directory's machines.
#[derive(Debug)]
pub struct Networks {
    shim: Shim,
    keeper: Process,
    /// Whether the keeper has a namespace for users, too.
    has_users: bool,
    /// Whether the machines of an earlier caller may be in them.
    pub is_found: bool,
    record: PathBuf,
    tender: Mutex<Option<Tender>>,
}

#[derive(Debug)]
struct Tender {
    channel: OwnedFd,
    child: Child,
}

impl Drop for Tender {
    fn drop(&mut self) {
        // It waits for its channel alone: killed, it is gone at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Networks {
    /// The networks that the file `record` in a directory of the caller's names, or new ones. `shim` as for
    /// [`super::Process::detect`].
    ///
    /// # Errors
    /// Why there are none.
    pub fn open(shim: &Shim, record: &Path) -> Result<Self, NetworksError> {
        let found = std::fs::read(record).ok().and_then(|bytes| recorded(&bytes));
        let is_found = found.is_some();
        let keeper = match found {
            Some(keeper) => keeper,
            None => keep(shim, record).map_err(NetworksError::Keeper)?,
        };
        Ok(Self {
            shim: shim.clone(),
            keeper,
            has_users: !Uid::effective().is_root(),
            is_found,
            record: record.to_owned(),
            tender: Mutex::default(),
        })
    }

    /// The process that keeps them, whose namespaces a program for the way out goes into.
    #[must_use]
    pub const fn keeper(&self) -> u32 {
        self.keeper.pid
    }

    /// Whether they have a namespace for users of their own.
    #[must_use]
    pub const fn has_users(&self) -> bool {
        self.has_users
    }

    /// A new network namespace for one machine, joined to its network. Blocks for some milliseconds.
    ///
    /// # Errors
    /// What was refused.
    pub fn join(&self, attachment: Attachment) -> Result<Place, NetworksError> {
        let network = self.ask(&Order::Join(Box::new(attachment)))?.into_iter().next();
        let users = || File::open(format!("/proc/{}/ns/user", self.keeper.pid)).map(OwnedFd::from);
        Ok(Place {
            users: if self.has_users {
                Some(users().map_err(NetworksError::Keeper)?)
            } else {
                None
            },
            network: network.ok_or_else(|| NetworksError::Refused("no network came back".to_owned()))?,
        })
    }

    /// Two sockets in the keeper's namespace at port 53 of `address`, which they give it: UDP, and TCP that listens. Non-blocking.
    ///
    /// # Errors
    /// What was refused.
    pub fn names(&self, address: Ipv6Addr) -> Result<(OwnedFd, OwnedFd), NetworksError> {
        let mut made = self.ask(&Order::Names(address))?.into_iter();
        match (made.next(), made.next()) {
            (Some(udp), Some(tcp)) => Ok((udp, tcp)),
            _ => Err(NetworksError::Refused("no sockets came back".to_owned())),
        }
    }

    /// Opens the way out over the interface [`UPLINK`], which is in the keeper's namespace by now; in place of what was said before.
    ///
    /// # Errors
    /// What was refused.
    pub fn open_out(&self, out: WayOut) -> Result<(), NetworksError> {
        self.ask(&Order::Out(out)).map(drop)
    }

    /// Ends the keeper; machines that run keep their addresses and reach nobody.
    pub fn end(&self) {
        *self.tender.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.keeper.exists() {
            let _ = suijuris_sys::kill(self.keeper.pid.cast_signed(), libc::SIGKILL);
        }
        // Without it the next one makes new ones; with it, too, since the process is gone.
        let _ = std::fs::remove_file(&self.record);
    }

    fn ask(&self, order: &Order) -> Result<Vec<OwnedFd>, NetworksError> {
        let mut tender = self.tender.lock().unwrap_or_else(PoisonError::into_inner);
        if tender
            .as_mut()
            .is_none_or(|tender| !matches!(tender.child.try_wait(), Ok(None)))
        {
            *tender = Some(self.tend().map_err(NetworksError::Keeper)?);
        }
        let Some(working) = tender.as_ref() else {
            return Err(NetworksError::Keeper(io::ErrorKind::NotFound.into()));
        };
        match exchange(working.channel.as_fd(), order) {
            Ok((Answer(None), files)) => Ok(files),
            Ok((Answer(Some(why)), _)) => Err(NetworksError::Refused(why)),
            Err(error) => {
                // What it says later would answer another order.
                *tender = None;
                Err(NetworksError::Keeper(error))
            }
        }
    }

    fn tend(&self) -> io::Result<Tender> {
        if !self.keeper.exists() {
            return Err(io::Error::other(
                "the process that kept them is gone; start the daemon again, and then the machines",
            ));
        }
        let (ours, theirs) = sockets::packet_pair()?;
        let (pid, started) = (self.keeper.pid.to_string(), self.keeper.started.to_string());
        let mut command = ours_anew(&self.shim, &[TEND, &pid, &started], theirs);
        Ok(Tender {
            channel: ours,
            child: command.current_dir("/").spawn()?,
        })
    }
}

fn ours_anew(shim: &Shim, words: &[&str], channel: OwnedFd) -> Command {
    let mut command = Command::new(&shim.exe);
    command.args(&shim.args).args(words).env_clear();
    command
        .stdin(Stdio::from(channel))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn exchange(channel: BorrowedFd<'_>, order: &Order) -> io::Result<(Answer, Vec<OwnedFd>)> {
    sockets::send(channel, &serde_json::to_vec(order)?, &[])?;
    hear(channel)
}

fn hear(channel: BorrowedFd<'_>) -> io::Result<(Answer, Vec<OwnedFd>)> {
    if !poll(&[channel], LIMIT_MS)?.contains(&true) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let message = sockets::receive(channel, MESSAGE)?.ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((serde_json::from_slice(&message.bytes)?, message.descriptors))
}

/// The keeper that a file names, where it lives.
fn recorded(bytes: &[u8]) -> Option<Process> {
    let (pid, started) = serde_json::from_slice(bytes).ok()?;
    Some(Process { pid, started }).filter(|keeper| keeper.exists())
}

/// Starts a keeper and writes down which it is.
fn keep(shim: &Shim, record: &Path) -> io::Result<Process> {
    let (ours, theirs) = sockets::packet_pair()?;
    let mut command = ours_anew(shim, &[KEEP], theirs);
    // It works where its record is, so that whoever looks for processes of that directory finds it.
    command.current_dir(record.parent().unwrap_or_else(|| Path::new("/")));
    let child = command.spawn()?;
    let keeper = Process::of(child.id()).ok_or(io::ErrorKind::NotFound)?;
    if let (Answer(Some(why)), _) = hear(ours.as_fd())? {
        return Err(io::Error::other(why));
    }
    let fresh = record.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(&(keeper.pid, keeper.started))?)?;
    std::fs::rename(fresh, record)?;
    Ok(keeper)
}

/// Is the keeper or the tender, where this process was executed for that.
pub(super) fn main() -> Option<ExitCode> {
    let mut args = std::env::args()
        .skip(1)
        .skip_while(|arg| arg != KEEP && arg != TEND);
    let done = if args.next()? == KEEP {
        be_keeper()
    } else {
        let process = Process {
            pid: args.next()?.parse().ok()?,
            started: args.next()?.parse().ok()?,
        };
        be_tender(process)
    };
    Some(if done.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn be_keeper() -> io::Result<()> {
    // The caller's end of this is closed with the last file that stands for it: it has to hear of the namespaces first.
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::setsid()?;
    let made = make_spaces();
    let answer = Answer(made.as_ref().err().map(ToString::to_string));
    sockets::send(channel.as_fd(), &serde_json::to_vec(&answer)?, &[])?;
    made?;
    drop(channel);
    loop {
        nix::unistd::pause();
    }
}

fn make_spaces() -> io::Result<()> {
    let (user, group) = (Uid::effective(), Gid::effective());
    if !user.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        // As 0, so that what is executed in it may still change networks.
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    unshare(CloneFlags::CLONE_NEWNET)?;
    suijuris_sys::mounts::loopback_up()?;
    // Some systems have both from the host's network.
    forward(false)
}

fn forward(is_on: bool) -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", if is_on { "1" } else { "0" })?;
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "0")
}

fn be_tender(keeper: Process) -> io::Result<()> {
    let file = |space: &str| File::open(format!("/proc/{}/ns/{space}", keeper.pid));
    let node = |file: &File| file.metadata().map(|found| found.ino());
    let (users, network, own) = (file("user")?, file("net")?, File::open("/proc/self/ns/user")?);
    if !keeper.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if node(&users)? != node(&own)? {
        namespaces::join(users.as_fd())?;
    }
    namespaces::join(network.as_fd())?;
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    loop {
        poll(&[channel.as_fd()], -1)?;
        let Some(message) = sockets::receive(channel.as_fd(), MESSAGE)? else {
            return Ok(());
        };
        let done = serde_json::from_slice(&message.bytes)
            .map_err(io::Error::from)
            .and_then(|order| obey(order, &network));
        // Wherever an order that failed had led.
        namespaces::join(network.as_fd())?;
        let (answer, files) = match done {
            Ok(files) => (Answer(None), files),
            Err(error) => (Answer(Some(error.to_string())), Vec::new()),
        };
        let files: Vec<_> = files.iter().map(OwnedFd::as_fd).collect();
        sockets::send(channel.as_fd(), &serde_json::to_vec(&answer)?, &files)?;
    }
}

fn obey(order: Order, home: &File) -> io::Result<Vec<OwnedFd>> {
    match order {
        Order::Join(attachment) => join(&attachment, home).map(|network| vec![network]),
        Order::Names(address) => listen(address),
        Order::Out(out) => open_out(&out).map(|()| Vec::new()),
    }
}

/// `what` was refused, for the reason that the kernel gives.
fn told(what: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn join(attachment: &Attachment, home: &File) -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let machine = File::open("/proc/thread-self/ns/net")?;
    suijuris_sys::mounts::loopback_up()?;
    let mut inside = Netlink::open()?;
    namespaces::join(home.as_fd())?;
    let (address, prefix) = attachment.address;
    let mut netlink = Netlink::open()?;
    netlink
        .add_bridge(&attachment.bridge)
        .map_err(told("its bridge"))?;
    let bridge = netlink::index(&attachment.bridge)?;
    netlink.up(bridge)?;
    netlink.add_address(bridge, attachment.gateway.into(), prefix)?;
    netlink
        .add_pair((&attachment.pair, Some(bridge)), (CARD, machine.as_fd()))
        .map_err(told("its interface"))?;
    if let Some((own, gateway)) = attachment.out {
        netlink.add_address(bridge, gateway.into(), 32)?;
        netlink.set_route((own.into(), 32), Way::Interface(bridge))?;
    }
    namespaces::join(machine.as_fd())?;
    let card = netlink::index(CARD)?;
    namespaces::join(home.as_fd())?;
    inside.up(card)?;
    inside.add_address(card, address.into(), prefix)?;
    inside.set_route(
        (attachment.names.into(), 128),
        Way::Gateway(attachment.gateway.into(), card),
    )?;
    if let Some((own, gateway)) = attachment.out {
        inside.add_address(card, own.into(), 32)?;
        inside
            .set_route(
                (Ipv4Addr::UNSPECIFIED.into(), 0),
                Way::Gateway(gateway.into(), card),
            )
            .map_err(told("its way out"))?;
    }
    for to in &attachment.unreachable {
        inside
            .set_route(*to, Way::Unreachable)
            .map_err(told("what it must not reach"))?;
    }
    Ok(machine.into())
}

fn listen(address: Ipv6Addr) -> io::Result<Vec<OwnedFd>> {
    Netlink::open()?.add_address(netlink::index("lo")?, address.into(), 128)?;
    let at = SocketAddr::from((address, 53));
    let udp = std::net::UdpSocket::bind(at)?;
    let tcp = std::net::TcpListener::bind(at)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(vec![udp.into(), tcp.into()])
}

fn open_out(out: &WayOut) -> io::Result<()> {
    let uplink = netlink::index(UPLINK).map_err(told("its interface"))?;
    let mut netlink = Netlink::open()?;
    if let Some(((address, prefix), gateway)) = out.address {
        netlink.up(uplink)?;
        netlink.add_address(uplink, address.into(), prefix)?;
        netlink.set_route(
            (Ipv4Addr::UNSPECIFIED.into(), 0),
            Way::Gateway(gateway.into(), uplink),
        )?;
    }
    restore(&rules(out))?;
    forward(true)
}

/// Machines send by the way out and get answers; they reach neither each other by it, nor this namespace but for names.
fn rules(out: &WayOut) -> String {
    let mut rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    rules += &format!("-A INPUT -i {BRIDGE} -j DROP\n");
    rules += &format!("-A FORWARD -i {UPLINK} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n");
    for (network, prefix) in &out.refused {
        rules += &format!("-A FORWARD -d {network}/{prefix} -j REJECT\n");
    }
    rules += &format!("-A FORWARD -i {BRIDGE} -o {UPLINK} -j ACCEPT\nCOMMIT\n");
    rules += "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n";
    rules += &format!("-A POSTROUTING -o {UPLINK} -j MASQUERADE\nCOMMIT\n");
    rules
}

/// Puts `rules` in place of all there are in this namespace.
fn restore(rules: &str) -> io::Result<()> {
    let mut command = Command::new("iptables-restore");
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(told("iptables"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("iptables: {}", said.trim())))
}
