//! Messages with descriptors over Unix sockets, bounded in bytes and in descriptors.
//!
//! On a sequenced-packet socket a message arrives whole or not at all; on a stream the descriptors come with the first
//! byte that was sent beside them. Called by `vehicle`'s shim and by the link.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, sendmsg,
    socket, socketpair,
};

use crate::owned;

/// Most descriptors one message may carry; the kernel's own limit is 253.
pub const MESSAGE_FDS: usize = 128;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 8;

/// What arrived at once.
#[derive(Debug)]
pub struct Message {
    /// Its bytes; never empty.
    pub bytes: Vec<u8>,
    /// The descriptors that came along, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Two connected sequenced-packet sockets, closed on exec, non-blocking.
///
/// # Errors
/// When no more descriptors can be had.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// A sequenced-packet socket that listens at `path`, for its owner alone, non-blocking and closed on exec.
///
/// # Errors
/// When something is there already, or the path is longer than the 107 bytes that the kernel takes: bind relative to
/// the current directory, or by way of `/proc/self/fd`.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// Has the kernel keep connections to a listening TCP socket until their first bytes have come, or for about as many `seconds` without any:
/// whoever accepts gets those alone that have asked. For protocols in which the client speaks first.
///
/// # Errors
/// When it is no TCP socket, or the kernel does not do it.
pub fn defer_accept(listener: BorrowedFd<'_>, seconds: i32) -> io::Result<()> {
    let (value, len) = (&raw const seconds, libc::socklen_t::try_from(size_of::<i32>()));
    let len = len.map_err(io::Error::other)?;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
    // SAFETY: `value` is an `i32` of `len` bytes that lives until the call returns.
    let set = unsafe { libc::setsockopt(listener.as_raw_fd(), level, option, value.cast(), len) };
    Errno::result(set).map(drop).map_err(io::Error::from)
}

/// Takes who connected to a listening socket; the connection is non-blocking and closed on exec.
///
/// # Errors
/// `WouldBlock` when nobody did.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    owned(accept4(listener.as_raw_fd(), flags)?.into())
}

/// Connects to what [`listen`]s at `path`; non-blocking and closed on exec.
///
/// # Errors
/// When nobody listens there, or has too many waiting.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Sends one message with descriptors; never blocks, never raises SIGPIPE. On a stream the number of bytes sent may be
/// less than all.
///
/// # Errors
/// `WouldBlock` when the peer does not keep up, `BrokenPipe` when it is gone.
pub fn send(to: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() {
        rights.get(1..).unwrap_or_default()
    } else {
        &rights
    };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        flags,
        None,
    )?)
}

/// Receives one message of at most `limit` bytes and [`MESSAGE_FDS`] descriptors; `None` when the peer is gone.
///
/// # Errors
/// `InvalidData` for a message that was longer, whose rest is lost; `WouldBlock` where the socket does not block.
pub fn receive(from: BorrowedFd<'_>, limit: usize) -> io::Result<Option<Message>> {
    let (mut bytes, mut descriptors) = (vec![0; limit], Vec::new());
    let length = receive_into(from, &mut bytes, &mut descriptors)?;
    bytes.truncate(length);
    Ok((length > 0).then_some(Message { bytes, descriptors }))
}

/// As [`receive`], into `bytes`; descriptors that came along are appended. Returns the number of bytes; 0: the peer is gone.
/// On a stream these are as many as there are, and what `bytes` has no room for comes next time.
///
/// # Errors
/// As [`receive`]; what came with a message that was longer is appended all the same.
pub fn receive_into(
    from: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain integers and pointers, for which zero is valid and means "none".
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: header points to a live buffer and a live control buffer, with their lengths.
    let received = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let length = match usize::try_from(received) {
        Ok(length) => length,
        Err(_) => match Errno::last() {
            // The peer left without having read everything.
            Errno::ECONNRESET => return Ok(0),
            errno => return Err(errno.into()),
        },
    };
    // Taken in any case: what is not taken stays open for ever.
    descriptors.extend(descriptors_in(&header));
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        let long = "a message is longer than it may be";
        return Err(io::Error::new(io::ErrorKind::InvalidData, long));
    }
    Ok(length)
}

/// Room for one control message with [`MESSAGE_FDS`] descriptors.
const CONTROL_BYTES: usize = 16 + MESSAGE_FDS * size_of::<RawFd>();

/// Aligned as the headers that the kernel writes into it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// The descriptors that came with the message that `header` was filled with.
fn descriptors_in(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    // SAFETY: header was filled by recvmsg, and its control buffer is alive: the macros walk within its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: each header that the macros give lies whole within the control buffer, which is aligned for it.
    while let Some(message) = unsafe { next.as_ref() } {
        if (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: as above; data follow the header.
            let (data, start) = unsafe { (libc::CMSG_DATA(message), next.cast::<u8>()) };
            let before = data.addr() - start.addr();
            // The kernel's length is a size_t, or the C library's idea of one.
            #[expect(clippy::unnecessary_cast, reason = "its type differs between C libraries")]
            let count = (message.cmsg_len as usize).saturating_sub(before) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: the kernel wrote count numbers there, of descriptors that it just installed for this message
                // and that nobody else owns; they need not be aligned.
                found.push(unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(index).read_unaligned()) });
            }
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn who_says_nothing_is_not_accepted_and_who_says_something_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        defer_accept(listener.as_fd(), 10).unwrap();
        let address = listener.local_addr().unwrap();
        let _silent = std::net::TcpStream::connect(address).unwrap();
        let mut asking = std::net::TcpStream::connect(address).unwrap();
        asking.write_all(b"hello").unwrap();
        let (mut accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, asking.local_addr().unwrap());
        let mut read = [0; 5];
        accepted.read_exact(&mut read).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(defer_accept(UnixStream::pair().unwrap().0.as_fd(), 10).is_err());
    }

    #[test]
    fn a_message_arrives_with_its_descriptors_and_the_end_is_told() {
        let (a, b) = packet_pair().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(send(a.as_fd(), b"hello", &[theirs.as_fd()]).unwrap(), 5);
        let mut message = receive(b.as_fd(), 16).unwrap().unwrap();
        assert_eq!(message.bytes, b"hello");
        UnixStream::from(message.descriptors.pop().unwrap())
            .write_all(b"hi")
            .unwrap();
        drop(theirs);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        let empty = receive(b.as_fd(), 16).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert!(receive(b.as_fd(), 16).unwrap().is_none());
    }

    #[test]
    fn more_than_may_come_is_refused_and_leaks_no_descriptor() {
        let (a, b) = packet_pair().unwrap();
        send(a.as_fd(), b"0123456789", &[a.as_fd()]).unwrap();
        assert_eq!(
            receive(b.as_fd(), 4).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let many = vec![a.as_fd(); MESSAGE_FDS + 1];
        let before = open_files();
        send(a.as_fd(), b"x", &many).unwrap();
        assert_eq!(
            receive(b.as_fd(), 4).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert!(
            open_files() < before + MESSAGE_FDS / 2,
            "what came with it is closed"
        );
        assert!(
            send(b.as_fd(), b"x", &[]).is_ok(),
            "the socket is still of use the other way"
        );
    }

    #[test]
    fn who_connects_is_accepted_and_nobody_else_may_look() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = listen(&path).unwrap();
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "its owner's alone"
        );
        assert_eq!(
            accept(listener.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let caller = connect(&path).unwrap();
        let accepted = accept(listener.as_fd()).unwrap();
        send(caller.as_fd(), b"hello", &[]).unwrap();
        assert_eq!(receive(accepted.as_fd(), 8).unwrap().unwrap().bytes, b"hello");
        drop((listener, accepted));
        assert!(connect(&path).is_err());
    }

    fn open_files() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }
}
