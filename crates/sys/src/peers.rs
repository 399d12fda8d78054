//! Who is at the other end of a Unix socket, and where that process lives.
//!
//! A control socket is for whoever is beside us on the host. What runs in a machine is in a process namespace below ours, or
//! is a descendant of ours, even where a socket's file is in its view or was handed to it.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use crate::processes::Process;
use crate::{Pidfd, checked, owned};

/// `SO_PEERPIDFD` of `asm-generic/socket.h` (Linux 6.5).
const SO_PEERPIDFD: libc::c_int = 77;

/// Whether the process that connected `socket` lives in a machine of ours, or in any namespace below ours, or cannot be
/// looked at any more.
#[must_use]
pub fn is_in_a_machine(socket: BorrowedFd<'_>) -> bool {
    match numbers(socket) {
        // Its number here is the first; a second one is that in a namespace below.
        Ok(numbers) => match numbers.as_slice() {
            // Outside of our namespace.
            [0] => false,
            [number] => descends(*number, std::process::id()),
            _ => true,
        },
        Err(_) => true,
    }
}

/// The numbers of the peer, from our namespace to its own.
fn numbers(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let text = match peer_pidfd(socket) {
        Ok(pidfd) => fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?,
        // An older kernel, where a number may have been given to another process since.
        Err(_) => match credentials(socket)? {
            0 => return Ok(vec![0]),
            number => fs::read_to_string(format!("/proc/{number}/status"))?,
        },
    };
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let line = line.ok_or(io::ErrorKind::NotFound)?;
    let numbers = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>();
    numbers.map_err(io::Error::other)
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<Pidfd> {
    let mut number: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    // SAFETY: number and length outlive the call, and the length is that of the number.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    checked(asked.into())?;
    owned(number.into()).map(Pidfd::from)
}

fn credentials(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
    u32::try_from(peer.pid()).map_err(io::Error::other)
}

/// Most generations that are climbed.
const GENERATIONS: usize = 4_096;

fn descends(number: u32, from: u32) -> bool {
    let mut above = Some(number);
    for _ in 0..GENERATIONS {
        above = above.and_then(Process::parent_of);
        match above {
            Some(parent) if parent == from => return true,
            Some(1 | 0) | None => return false,
            Some(_) => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn this_process_is_beside_itself_and_its_children_are_below() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let _ours = UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(
            numbers(accepted.as_fd()).unwrap().first(),
            Some(&std::process::id())
        );
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descends(child.id(), std::process::id()));
        assert!(!descends(std::process::id(), child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
