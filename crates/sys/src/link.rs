//! How a machine's first program gets its links: byte streams that arrive one after another over one inherited socket.
//!
//! A machine may outlive whoever started it, and a new link must reach it then. So its first program inherits not a link
//! but an [`Inlet`], on which each link arrives as a descriptor; the newest counts. In a virtual machine accepting on a
//! vsock port is the same. What is said over a link is not known here. Called by `vehicle` outside and by the runtime inside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{descriptors, sockets};

/// What accompanies a link: a message must have a byte.
const OFFER: &[u8] = b"L";

/// The end outside the machine.
#[derive(Debug)]
pub struct Outlet(OwnedFd);

/// The end inside the machine, registered with the current tokio runtime.
#[derive(Debug)]
pub struct Inlet(AsyncFd<OwnedFd>);

/// The two ends; the second is to be inherited by the machine's first program.
///
/// # Errors
/// When no more descriptors can be had.
pub fn pair() -> io::Result<(Outlet, OwnedFd)> {
    let (ours, theirs) = sockets::packet_pair()?;
    Ok((Outlet(ours), theirs))
}

impl From<OwnedFd> for Outlet {
    fn from(end: OwnedFd) -> Self {
        Self(end)
    }
}

impl From<Outlet> for OwnedFd {
    fn from(outlet: Outlet) -> Self {
        outlet.0
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Outlet {
    /// Makes a link whose other end the machine finds at its [`Inlet`], whenever it looks.
    ///
    /// # Errors
    /// `WouldBlock` when it has long not looked; `BrokenPipe` when it has closed its end.
    pub fn open(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        sockets::send(self.0.as_fd(), OFFER, &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// Another handle on the same end.
    ///
    /// # Errors
    /// When no more descriptors can be had.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl Inlet {
    /// Takes the inherited end.
    ///
    /// # Errors
    /// Outside of a tokio runtime, or when the descriptor cannot be watched.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        descriptors::watch(end, Interest::READABLE).map(Self)
    }

    /// The next link; `None` when none will come any more. Cancel safe.
    ///
    /// # Errors
    /// When what arrives is no link.
    pub async fn accept(&self) -> io::Result<Option<UnixStream>> {
        let read = |end: &OwnedFd| sockets::receive(end.as_fd(), OFFER.len());
        let Some(message) = self.0.async_io(Interest::READABLE, read).await? else {
            return Ok(None);
        };
        let link = message.descriptors.into_iter().next().map(UnixStream::from);
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a link came without its descriptor");
        link.map(Some).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn links_arrive_in_order_and_the_end_is_told() {
        let (outlet, end) = pair().unwrap();
        let mut links = [outlet.open().unwrap(), outlet.open().unwrap()];
        let inlet = Inlet::new(end).unwrap();
        for (link, word) in links.iter_mut().zip([b"one", b"two"]) {
            let mut inside = inlet.accept().await.unwrap().unwrap();
            link.write_all(word).unwrap();
            let mut read = [0; 3];
            inside.read_exact(&mut read).unwrap();
            assert_eq!(&read, word);
        }
        drop(outlet);
        assert!(inlet.accept().await.unwrap().is_none());
    }
}
