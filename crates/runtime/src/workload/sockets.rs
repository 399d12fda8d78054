//! Listening TCP sockets by asking the kernel (`sock_diag(7)`), a few microseconds a question.
//!
//! The same is in `/proc/net/tcp`, where reading walks the table of all connections: milliseconds on a machine with
//! much memory. A kernel without `tcp_diag` refuses, and `ready` reads that table then.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Size of an answer at most, bytes; the kernel fills at most 32 KiB at once.
const ANSWER_BYTES: usize = 32 * 1_024;

/// Answers to one question at most: several programs may listen on one port.
const MAX_ANSWERS: usize = 64;

/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req_v2`.
const QUESTION_BYTES: usize = 56;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `1 << TCP_LISTEN`.
const LISTENING: u32 = 1 << 10;
const TCP: u8 = 6;

/// A way to ask, for the network that this thread is in.
#[derive(Debug)]
pub(super) struct Diag {
    socket: OwnedFd,
    /// Where answers are read.
    buffer: Vec<u8>,
}

/// What one answer holds.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    addresses: Vec<IpAddr>,
    /// Nothing follows.
    done: bool,
}

impl Diag {
    /// # Errors
    /// Where the kernel has no such sockets.
    pub(super) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkSockDiag;
        Ok(Self {
            socket: socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?,
            buffer: vec![0; ANSWER_BYTES],
        })
    }

    /// Addresses that somebody listens at on TCP `port`.
    ///
    /// # Errors
    /// Where the kernel cannot answer; do not ask it again.
    pub(super) fn listeners(&mut self, port: u16) -> io::Result<Vec<IpAddr>> {
        let mut found = self.ask(libc::AF_INET, port)?;
        // A kernel without IPv6 has nobody listening there.
        found.extend(self.ask(libc::AF_INET6, port).unwrap_or_default());
        Ok(found)
    }

    fn ask(&mut self, family: i32, port: u16) -> io::Result<Vec<IpAddr>> {
        let socket = self.socket.as_raw_fd();
        send(socket, &question(family, port), MsgFlags::empty())?;
        let mut found = Vec::new();
        for _ in 0..MAX_ANSWERS {
            // The kernel has answered before `send` returns.
            let length = recv(socket, &mut self.buffer, MsgFlags::empty())?;
            let answer = answer(self.buffer.get(..length).unwrap_or_default(), port)?;
            found.extend(answer.addresses);
            if answer.done {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel does not come to an end",
        ))
    }
}

/// Asks for every socket of `family` that listens on `port`.
fn question(family: i32, port: u16) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + QUESTION_BYTES).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + QUESTION_BYTES);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(family).unwrap_or_default(), TCP, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(HEADER_BYTES + QUESTION_BYTES, 0);
    bytes
}

/// Reads one datagram of the kernel: messages, each padded to four bytes.
fn answer(mut bytes: &[u8], port: u16) -> io::Result<Answer> {
    let cut = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "an answer of the kernel that is cut short",
        )
    };
    let mut addresses = Vec::new();
    while !bytes.is_empty() {
        let length =
            usize::try_from(u32::from_ne_bytes(take(bytes, 0).ok_or_else(cut)?)).map_err(|_| cut())?;
        let kind = u16::from_ne_bytes(take(bytes, 4).ok_or_else(cut)?);
        let body = bytes.get(HEADER_BYTES..length).ok_or_else(cut)?;
        match kind {
            NLMSG_DONE => {
                return Ok(Answer {
                    addresses,
                    done: true,
                });
            }
            NLMSG_ERROR => {
                let code = i32::from_ne_bytes(take(body, 0).ok_or_else(cut)?);
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY => {
                let (address, at) = listener(body).ok_or_else(cut)?;
                // A kernel may answer about more than was asked.
                if at == port {
                    addresses.push(address);
                }
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Answer {
        addresses,
        done: false,
    })
}

/// Address and port of a `struct inet_diag_msg`.
fn listener(body: &[u8]) -> Option<(IpAddr, u16)> {
    let port = u16::from_be_bytes(take(body, 4)?);
    let address = match i32::from(*body.first()?) {
        libc::AF_INET => Ipv4Addr::from(take::<4>(body, 8)?).into(),
        _ => IpAddr::from(Ipv6Addr::from(take::<16>(body, 8)?)).to_canonical(),
    };
    Some((address, port))
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn listeners_are_found_at_their_addresses_and_connections_are_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (_server, client_side) = listener.accept().unwrap();
        // A kernel that does not answer is asked no further: `ready` reads the table there.
        let Ok(found) = Diag::new().and_then(|mut diag| diag.listeners(address.port())) else {
            return;
        };
        assert_eq!(found, [address.ip()]);
        assert_eq!(
            Diag::new().unwrap().listeners(client_side.port()).unwrap(),
            Vec::<IpAddr>::new()
        );
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let message = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
        };
        let mut body = vec![0; 72];
        body[0] = 2;
        body[4..6].copy_from_slice(&8_080_u16.to_be_bytes());
        body[8..12].copy_from_slice(&[127, 0, 0, 1]);
        let found = message(SOCK_DIAG_BY_FAMILY, &body);
        let done = message(NLMSG_DONE, &[0; 4]);
        let addresses = vec![IpAddr::from([127, 0, 0, 1])];
        let expect = |addresses, done| Answer { addresses, done };
        assert_eq!(
            answer(&[&found[..], &done].concat(), 8_080).unwrap(),
            expect(addresses, true)
        );
        assert_eq!(answer(&found, 8_081).unwrap(), expect(vec![], false));
        let error = answer(&message(NLMSG_ERROR, &(-2_i32).to_ne_bytes()), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for cut in 1..found.len() {
            assert!(answer(&found[..cut], 8_080).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_a_panic(bytes: Vec<u8>) {
            let _ = answer(&bytes, 80);
        }
    }
}
