//! An interface's address and the way out through it, for a machine whose first process sets its network up. Called by `guest`;
//! and a network that is all this machine's, called by `runtime`.

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::checked;

/// `IFF_UP | IFF_RUNNING` of `net/if.h` in the width of the request's field.
const UP: libc::c_short = 0x1 | 0x40;

/// `AF_INET` of `linux/socket.h` in the width of an address's field.
const INET: libc::sa_family_t = 2;

/// `RTF_UP | RTF_GATEWAY` of `linux/route.h`.
const GATEWAY: libc::c_ushort = 0x1 | 0x2;

/// Gives `interface` an address and lets everything else go through `gateway`.
///
/// # Errors
/// The kernel's answer, as where there is no such interface.
pub fn configure(interface: &str, address: Ipv4Addr, mask: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    let mut request = request(interface)?;
    let mut ask = |what: libc::c_ulong, change: &dyn Fn(&mut libc::ifreq)| {
        change(&mut request);
        // SAFETY: the request outlives the call and is what these requests read.
        checked(unsafe { libc::ioctl(socket.as_raw_fd(), what as _, &raw const request) }.into()).map(drop)
    };
    ask(libc::SIOCSIFADDR as _, &|request| {
        request.ifr_ifru.ifru_addr = plain(address);
    })?;
    ask(libc::SIOCSIFNETMASK as _, &|request| {
        request.ifr_ifru.ifru_addr = plain(mask);
    })?;
    ask(libc::SIOCSIFFLAGS as _, &|request| {
        request.ifr_ifru.ifru_flags = UP;
    })?;
    // SAFETY: rtentry is integers, addresses of integers and pointers, for all of which zero is valid.
    let mut route: libc::rtentry = unsafe { mem::zeroed() };
    (route.rt_dst, route.rt_genmask) = (plain(Ipv4Addr::UNSPECIFIED), plain(Ipv4Addr::UNSPECIFIED));
    route.rt_gateway = plain(gateway);
    route.rt_flags = GATEWAY;
    // SAFETY: the route outlives the call and is what this request reads.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) }.into())?;
    Ok(())
}

/// Takes all addresses of IPv4 for this machine's own: a connection to any of them reaches whoever listens here, and leaves the machine by
/// no way. For a network that has nothing but loopback.
///
/// # Errors
/// The kernel's answer: who may not set the network up is refused.
pub fn take_all_addresses() -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkRoute,
    )?;
    send(socket.as_raw_fd(), &all_local(), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer.get(..length).and_then(|answer| answer.get(16..20));
    let error = error
        .and_then(|error| error.try_into().ok())
        .map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(errno) if errno == -libc::EEXIST => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `ip route add local 0.0.0.0/0 dev lo` as a message of rtnetlink(7).
fn all_local() -> Vec<u8> {
    // NLM_F_REQUEST, _ACK, _EXCL, _CREATE of `linux/netlink.h`; RTA_OIF of `linux/rtnetlink.h`; the first interface of any network.
    const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;
    const LENGTH: u32 = 16 + 12 + 8;
    const OUT_INTERFACE: u16 = 4;
    const LOOPBACK: u32 = 1;
    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    // Number of the message, and of its sender, which the kernel fills in.
    message.extend([0; 8]);
    // struct rtmsg: family, lengths of destination and source, kind of service; table, by whom, scope, type; flags.
    message.extend([2, 0, 0, 0]);
    message.extend([
        libc::RT_TABLE_LOCAL,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_HOST,
        libc::RTN_LOCAL,
    ]);
    message.extend([0; 4]);
    message.extend(8_u16.to_ne_bytes());
    message.extend(OUT_INTERFACE.to_ne_bytes());
    message.extend(LOOPBACK.to_ne_bytes());
    message
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain integers and unions of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // One byte stays zero, as its end.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// The address as the kernel reads it in these requests: family, port, four bytes.
fn plain(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: sockaddr is plain integers, for which zero is valid.
    let mut plain: libc::sockaddr = unsafe { mem::zeroed() };
    plain.sa_family = INET;
    for (to, from) in plain.sa_data.iter_mut().skip(2).zip(address.octets()) {
        *to = from.cast_signed();
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let [a, b, c] = [
            Ipv4Addr::new(10, 0, 2, 15),
            Ipv4Addr::new(255, 255, 255, 0),
            Ipv4Addr::new(10, 0, 2, 2),
        ];
        assert!(configure("no-such-card", a, b, c).is_err());
        assert!(configure(&"x".repeat(100), a, b, c).is_err());
    }
}
