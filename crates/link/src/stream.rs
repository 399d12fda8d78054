//! A stream of the link, as tokio reads and writes it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frame::{Reset, StreamId, StreamKind};
use crate::link::Shared;
use crate::mux::{Read, Write};
use crate::state::State;

/// Bytes in two directions, each with an end of its own. Dropped before it was shut down, it is cut, and the other end
/// sees that; dropped after, what was written still arrives.
pub struct Stream {
    shared: Arc<Shared>,
    id: StreamId,
    kind: StreamKind,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Stream");
        debug
            .field("id", &self.id)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) const fn new(shared: Arc<Shared>, id: StreamId, kind: StreamKind) -> Self {
        Self { shared, id, kind }
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// What it carries.
    #[must_use]
    pub const fn kind(&self) -> StreamKind {
        self.kind
    }

    /// A socket that is this stream to whoever needs one: what moves the bytes between them has to be polled, and ends
    /// with either.
    ///
    /// # Errors
    /// When no more descriptors can be had.
    pub fn into_socket(
        mut self,
    ) -> io::Result<(std::os::unix::net::UnixStream, impl Future<Output = ()> + Send)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut ours = tokio::net::UnixStream::from_std(ours)?;
        let moves = async move {
            // Whoever has either end sees it close.
            let _ended = tokio::io::copy_bidirectional(&mut ours, &mut self).await;
        };
        Ok((theirs, moves))
    }

    /// Cuts it, for this reason.
    pub fn reset(self, why: Reset) {
        let mut state = self.shared.lock();
        state.mux.reset(self.id, why);
        state.push();
    }

    fn wait<T>(&self, state: &mut State, context: &Context<'_>) -> Poll<io::Result<T>> {
        if let Some(ended) = &state.ended {
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, ended.clone());
            return Poll::Ready(Err(error));
        }
        state.streams.entry(self.id).or_default().add(context.waker());
        Poll::Pending
    }
}

fn cut(why: Reset) -> io::Error {
    let kind = io::ErrorKind::ConnectionReset;
    match why {
        Reset::Dropped => io::Error::new(kind, "the other end let the stream go"),
        Reset::Refused => io::Error::new(io::ErrorKind::ConnectionRefused, "nobody takes this stream"),
        Reset::Failed => io::Error::new(kind, "the connection behind the stream failed"),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.shared.lock();
        match state.mux.read(self.id, buffer.initialize_unfilled()) {
            Read::Bytes(read) => {
                // Reading gives credit.
                state.push();
                buffer.advance(read);
                Poll::Ready(Ok(()))
            }
            Read::End => Poll::Ready(Ok(())),
            Read::Reset(why) => Poll::Ready(Err(cut(why))),
            Read::Pending => self.wait(&mut state, context),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut state = self.shared.lock();
        if state.ended.is_some() {
            return self.wait(&mut state, context);
        }
        match state.mux.write(self.id, bytes) {
            Write::Bytes(written) => {
                state.push();
                Poll::Ready(Ok(written))
            }
            Write::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Write::Reset(why) => Poll::Ready(Err(cut(why))),
            Write::Pending => self.wait(&mut state, context),
        }
    }

    /// Bytes go on their way by themselves.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        state.mux.end(self.id);
        state.push();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.streams.remove(&self.id);
        state.mux.let_go(self.id);
        state.push();
    }
}
