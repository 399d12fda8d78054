//! A byte stream to a client or to the workload: TCP, a Unix socket or what was handed over as bytes, with borrowed halves.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::control::{Elapsed, Timer};
use crate::handoff::ByteStream;

/// Any kind of byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection to a Unix socket.
    Unix(UnixStream),
    /// The bytes of a client's connection that is elsewhere.
    Bytes(Bytes),
}

/// Bytes of either direction, which two halves share: no poll of one is within a poll of the other.
pub(crate) struct Bytes(RefCell<Box<dyn ByteStream>>);

impl From<Box<dyn ByteStream>> for Bytes {
    fn from(stream: Box<dyn ByteStream>) -> Self {
        Self(RefCell::new(stream))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bytes")
    }
}

impl AsyncRead for &Bytes {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for &Bytes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_shutdown(cx)
    }
}

impl Stream {
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Self::Bytes(stream) => (ReadHalf::Bytes(stream), WriteHalf::Bytes(stream)),
        }
    }

    /// Whether an unused connection still stands and carries nothing unasked for. No system call if nothing happened.
    pub(crate) fn is_quiet(&self) -> bool {
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut [0]),
            Self::Unix(stream) => stream.try_read(&mut [0]),
            // None is ever unused.
            Self::Bytes(_) => return false,
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Ends what the drop of a socket ends by itself.
    pub(crate) async fn close(&mut self) {
        if let Self::Bytes(stream) = self {
            let mut stream = &*stream;
            // A peer that is gone needs no end.
            let _gone = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
        }
    }

    /// Ends at once what is cut in order: what was written goes out, and the end behind it. What has come and nobody will read is
    /// dropped, so that the close is no reset.
    pub(crate) fn end(&mut self) {
        const UNREAD: usize = 16;
        let cx = &mut Context::from_waker(Waker::noop());
        let mut unread = [0; 4096];
        for _ in 0..UNREAD {
            let mut buffer = ReadBuf::new(&mut unread);
            let read = Pin::new(&mut *self).poll_read(cx, &mut buffer);
            if !matches!(read, Poll::Ready(Ok(()))) || buffer.filled().is_empty() {
                break;
            }
        }
        // A peer that is gone needs no end.
        let _gone = Pin::new(self).poll_shutdown(cx);
    }

    /// Makes the close a reset, so that the peer cannot take a cut stream for a complete one; bytes that are dropped
    /// unended are cut anyway.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // Where the option cannot be set the connection is already gone.
            let _gone = stream.set_zero_linger();
        }
    }
}

macro_rules! either {
    ($self:expr, Stream, $half:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($half) => $call,
            Stream::Unix($half) => $call,
            Stream::Bytes(stream) => {
                let $half = &mut &*stream;
                $call
            }
        }
    };
    ($self:expr, $kind:ident, $half:ident => $call:expr) => {
        match $self.get_mut() {
            $kind::Tcp($half) => $call,
            $kind::Unix($half) => $call,
            $kind::Bytes($half) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, Stream, half => Pin::new(half).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, Stream, half => Pin::new(half).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, Stream, half => Pin::new(half).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, Stream, half => Pin::new(half).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, Stream, half => Pin::new(half).poll_shutdown(cx))
    }
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub(crate) enum ReadHalf<'s> {
    Tcp(tcp::ReadHalf<'s>),
    Unix(unix::ReadHalf<'s>),
    Bytes(&'s Bytes),
}

impl ReadHalf<'_> {
    /// Ready when a read might not block; reads nothing, so it needs no buffer.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_read_ready(cx),
            Self::Unix(half) => half.as_ref().poll_read_ready(cx),
            // Only a read can tell.
            Self::Bytes(_) => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, ReadHalf, half => Pin::new(half).poll_read(cx, buf))
    }
}

/// The writing half of a [`Stream`].
#[derive(Debug)]
pub(crate) enum WriteHalf<'s> {
    Tcp(tcp::WriteHalf<'s>),
    Unix(unix::WriteHalf<'s>),
    Bytes(&'s Bytes),
}

impl WriteHalf<'_> {
    /// Writes all of `bytes`; each byte of progress starts the bound of `ms` anew. Not cancel safe.
    pub(crate) async fn write_all(
        &mut self,
        mut bytes: &[u8],
        timer: &Timer,
        ms: u64,
    ) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let written = timer
                .within(ms, |cx| Pin::new(&mut *self).poll_write(cx, bytes))
                .await??;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes `head` and `body` as one segment where the socket takes them. Not cancel safe.
    pub(crate) async fn write_both(
        &mut self,
        head: &[u8],
        body: &[u8],
        timer: &Timer,
        ms: u64,
    ) -> Result<(), WriteError> {
        let parts = [io::IoSlice::new(head), io::IoSlice::new(body)];
        let written = timer
            .within(ms, |cx| Pin::new(&mut *self).poll_write_vectored(cx, &parts))
            .await??;
        let (head_written, body_written) = (written.min(head.len()), written.saturating_sub(head.len()));
        self.write_all(head.get(head_written..).unwrap_or_default(), timer, ms)
            .await?;
        self.write_all(body.get(body_written..).unwrap_or_default(), timer, ms)
            .await
    }

    /// Ends the sending side.
    pub(crate) async fn shutdown(&mut self) {
        // A peer that is gone needs no end.
        let _gone = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx)).await;
    }
}

impl AsyncWrite for WriteHalf<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, WriteHalf, half => Pin::new(half).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, WriteHalf, half => Pin::new(half).poll_write_vectored(cx, parts))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, WriteHalf, half => Pin::new(half).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, WriteHalf, half => Pin::new(half).poll_shutdown(cx))
    }
}

/// Why bytes did not go out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The peer took nothing for too long.
    #[error("peer takes no bytes")]
    Stalled,
    /// The connection broke.
    #[error("connection broke")]
    Broken(#[from] io::Error),
}

impl From<Elapsed> for WriteError {
    fn from(_: Elapsed) -> Self {
        Self::Stalled
    }
}

/// A stream some of whose bytes were read before: they come first.
#[derive(Debug)]
pub(crate) struct Prefixed {
    prefix: bytes::Bytes,
    stream: Stream,
}

impl Prefixed {
    pub(crate) fn new(prefix: bytes::Bytes, stream: Stream) -> Self {
        Self { prefix, stream }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let taken = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
