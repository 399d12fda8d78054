//! A client's end of a connection: its socket, or TLS over it; and how the bytes of one go to a runtime and back that
//! cannot have the socket itself.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use suijuris_link::Stream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy};
use tokio::net::TcpStream;

use suijuris_edge::tls::Stream as TlsStream;

/// How long a client may take to end its side after the object has ended the other.
const HALF_CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// A client's end.
#[derive(Debug)]
pub enum ClientStream {
    /// The socket, which can be passed on.
    Plain(TcpStream),
    /// TLS that ends here, so that only its bytes can be.
    Tls(Box<TlsStream>),
}

macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => $call,
            Self::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Carries bytes between a client and the runtime that has taken its connection, to the end of both. What breaks one side
/// cuts the other, so that nobody takes a part for the whole.
pub(crate) async fn relay(client: ClientStream, runtime: Stream) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let mut inward = pin!(async {
        copy(&mut from_client, &mut to_runtime).await?;
        to_runtime.shutdown().await
    });
    let mut outward = pin!(async {
        copy(&mut from_runtime, &mut to_client).await?;
        to_client.shutdown().await
    });
    tokio::select! {
        sent = &mut inward => {
            if sent.is_ok() {
                let _ = outward.await;
            }
        }
        answered = &mut outward => {
            if answered.is_ok() {
                let _ = tokio::time::timeout(HALF_CLOSED_WITHIN, inward).await;
            }
        }
    }
}
