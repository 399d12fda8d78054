//! What a link runs over: a Unix stream socket, which passes descriptors, or any byte stream, which does not.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use suijuris_sys::{descriptors, sockets};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Bytes in two directions, and descriptors where it has them.
pub trait Transport: Send {
    /// Whether descriptors can be sent.
    fn passes_descriptors(&self) -> bool;

    /// Reads into `buffer`; 0: the peer is gone. Descriptors that come are appended.
    ///
    /// # Errors
    /// Whatever ends the connection.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> Poll<io::Result<usize>>;

    /// Writes some of `bytes`, and all `descriptors` with the first of them.
    ///
    /// # Errors
    /// Whatever ends the connection.
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptors: &[OwnedFd],
    ) -> Poll<io::Result<usize>>;

    /// Makes sure that what was written leaves.
    ///
    /// # Errors
    /// Whatever ends the connection.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Any byte stream.
#[derive(Debug)]
pub struct Bytes<T>(pub T);

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for Bytes<T> {
    fn passes_descriptors(&self) -> bool {
        false
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        _: &mut Vec<OwnedFd>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptors: &[OwnedFd],
    ) -> Poll<io::Result<usize>> {
        if !descriptors.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
}

/// Any descriptor of a byte stream that can be waited for: vsock, a serial port of a virtual machine, TCP.
#[derive(Debug)]
pub struct Plain(AsyncFd<OwnedFd>);

impl Plain {
    /// Over `fd`, which is put into non-blocking mode. Call it within a tokio runtime.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        descriptors::set_nonblocking(fd.as_fd())?;
        descriptors::watch(fd, Interest::READABLE | Interest::WRITABLE).map(Self)
    }
}

impl Transport for Plain {
    fn passes_descriptors(&self) -> bool {
        false
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        _: &mut Vec<OwnedFd>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            if let Ok(read) = ready.try_io(|fd| descriptors::read(fd.get_ref().as_fd(), buffer)) {
                return Poll::Ready(read);
            }
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptors: &[OwnedFd],
    ) -> Poll<io::Result<usize>> {
        if !descriptors.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            if let Ok(written) = ready.try_io(|fd| descriptors::write(fd.get_ref().as_fd(), bytes)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for UnixStream {
    fn passes_descriptors(&self) -> bool {
        true
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(context))?;
            let receive = || sockets::receive_into(self.as_fd(), buffer, descriptors);
            match self.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptors: &[OwnedFd],
    ) -> Poll<io::Result<usize>> {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        loop {
            let send = || sockets::send(self.as_fd(), bytes, &descriptors);
            match self.try_io(Interest::WRITABLE, send) {
                // Asked only then: a task that has used up its turn is told that nothing is ready, and what has to be sent
                // now would not be.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_write_ready(context))?;
                }
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
