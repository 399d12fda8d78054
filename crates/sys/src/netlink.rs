//! Interfaces, addresses and routes of the present network namespace, over the kernel's rtnetlink. Called by `vehicle` and `host`.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Message types of `linux/rtnetlink.h`.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
/// `NLM_F_REQUEST | NLM_F_ACK` of `linux/netlink.h`.
const REQUEST: u16 = 0x1 | 0x4;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// `NLMSG_ERROR`: also the answer that nothing is wrong.
const ERROR: u16 = 2;
/// Attributes of links, `linux/if_link.h`.
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const PEER: u16 = 1;
const SNOOPING: u16 = 23;
const UP: u32 = 0x1;
/// Attributes of addresses and routes.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
/// `IFA_F_NODAD`: the address can be used at once.
const AT_ONCE: u8 = 0x2;
const MAIN_TABLE: u8 = 254;
/// `RTPROT_STATIC`.
const BY_HAND: u8 = 4;
const UNICAST: u8 = 1;
const UNREACHABLE: u8 = 7;
/// `RTNH_F_ONLINK`: the gateway is reached by the interface, whatever addresses it has.
const ON_LINK: u32 = 4;
const LINK_SCOPE: u8 = 253;
/// The hardware address of each bridge, one to a network: without one of its own a bridge takes that of a port, and its neighbours
/// lose it when that port goes.
const BRIDGE: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// Most bytes of an answer that are looked at.
const ANSWER: usize = 8 << 10;

/// The number of an interface of this name.
///
/// # Errors
/// There is none.
pub fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// Where packets for a network go.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// To neighbours at this interface.
    Interface(u32),
    /// To this gateway at this interface.
    Gateway(IpAddr, u32),
    /// Nowhere; the sender is told at once.
    Unreachable,
}

/// A connection to the kernel's tables of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a bridge; one of this name that is there already stays.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut body = link(0, 0);
        text(&mut body, LINK_NAME, name);
        attribute(&mut body, LINK_ADDRESS, &BRIDGE);
        nested(&mut body, LINK_INFO, |info| {
            text(info, INFO_KIND, "bridge");
            // Neighbours are found by multicast, and nobody here asks who wants it.
            nested(info, INFO_DATA, |data| attribute(data, SNOOPING, &[0]));
        });
        match self.ask(NEW_LINK, CREATE | EXCLUSIVE, &body) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Makes two interfaces that are each other's end: `name` here, at `bridge` where one is given, and `peer` in the network
    /// namespace `of_peer`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn add_pair(
        &mut self,
        (name, bridge): (&str, Option<u32>),
        (peer, of_peer): (&str, BorrowedFd<'_>),
    ) -> io::Result<()> {
        let mut body = link(0, UP);
        text(&mut body, LINK_NAME, name);
        if let Some(bridge) = bridge {
            attribute(&mut body, LINK_MASTER, &bridge.to_ne_bytes());
        }
        nested(&mut body, LINK_INFO, |info| {
            text(info, INFO_KIND, "veth");
            nested(info, INFO_DATA, |data| {
                nested(data, PEER, |end| {
                    end.extend(link(0, 0));
                    text(end, LINK_NAME, peer);
                    attribute(end, LINK_NAMESPACE, &of_peer.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.ask(NEW_LINK, CREATE | EXCLUSIVE, &body)
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn up(&mut self, interface: u32) -> io::Result<()> {
        self.ask(NEW_LINK, 0, &link(interface, UP))
    }

    /// Removes an interface, with its other end.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn remove(&mut self, interface: u32) -> io::Result<()> {
        self.ask(DELETE_LINK, 0, &link(interface, 0))
    }

    /// Gives an interface an address that can be used at once; one that it has stays.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn add_address(&mut self, interface: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut body = vec![family(address), prefix, AT_ONCE, 0];
        body.extend(interface.to_ne_bytes());
        attribute(&mut body, LOCAL, &octets(address));
        attribute(&mut body, ADDRESS, &octets(address));
        self.ask(NEW_ADDRESS, CREATE | REPLACE, &body)
    }

    /// Sends packets for the network `to` (an address and its prefix) on `way`, in place of what was said of it before.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set_route(&mut self, (to, prefix): (IpAddr, u8), way: Way) -> io::Result<()> {
        let (kind, scope, flags) = match way {
            Way::Interface(_) => (UNICAST, if to.is_ipv4() { LINK_SCOPE } else { 0 }, 0),
            Way::Gateway(..) => (UNICAST, 0, ON_LINK),
            Way::Unreachable => (UNREACHABLE, 0, 0),
        };
        let mut body = vec![family(to), prefix, 0, 0, MAIN_TABLE, BY_HAND, scope, kind];
        body.extend(u32::to_ne_bytes(flags));
        if prefix > 0 {
            attribute(&mut body, DESTINATION, &octets(to));
        }
        if let Way::Gateway(gateway, _) = way {
            attribute(&mut body, GATEWAY, &octets(gateway));
        }
        if let Way::Interface(interface) | Way::Gateway(_, interface) = way {
            attribute(&mut body, INTERFACE, &interface.to_ne_bytes());
        }
        self.ask(NEW_ROUTE, CREATE | REPLACE, &body)
    }

    /// Asks for one change and waits for the answer.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut bytes = vec![0; ANSWER];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
            let answer = bytes.get(..length).unwrap_or_default();
            if let Some(code) = code(answer, self.sequence)? {
                return match code {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
        }
    }
}

/// What an answer says: 0, or the negative number of an error; none where it answers another request.
fn code(answer: &[u8], sequence: u32) -> io::Result<Option<i32>> {
    let field = |at: usize| -> io::Result<[u8; 4]> {
        let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    let [low, high, ..] = field(4)?;
    let is_ours = u16::from_ne_bytes([low, high]) == ERROR && u32::from_ne_bytes(field(8)?) == sequence;
    Ok(if is_ours {
        Some(i32::from_ne_bytes(field(16)?))
    } else {
        None
    })
}

/// `struct ifinfomsg`; flags that are set are set, and no other changes.
fn link(interface: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(interface.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

const fn family(address: IpAddr) -> u8 {
    match address {
        // AF_INET, AF_INET6.
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // What is put in here are names, numbers and addresses.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn text(body: &mut Vec<u8>, kind: u16, text: &str) {
    attribute(body, kind, &[text.as_bytes(), &[0]].concat());
}

fn nested(body: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(body, kind, &inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_is_wrong() {
        let mut netlink = Netlink::open().unwrap();
        let none = netlink.up(u32::MAX >> 1).unwrap_err();
        // Whoever may not change anything hears that first.
        assert!(
            matches!(none.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
            "{none}"
        );
        assert!(index("no-such-card").is_err());
    }

    #[test]
    fn answers_that_are_cut_are_errors() {
        let mut answer = vec![0; 20];
        answer.splice(4..6, ERROR.to_ne_bytes());
        answer.splice(8..12, 7_u32.to_ne_bytes());
        assert_eq!(code(&answer, 7).unwrap(), Some(0));
        assert_eq!(code(&answer, 8).unwrap(), None);
        for length in 0..20 {
            assert!(code(&answer[..length], 7).is_err(), "{length}");
        }
    }
}
