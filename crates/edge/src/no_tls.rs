//! In place of [`tls`](crate::tls) where this program is built without it: nobody can make a [`Tls`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use suijuris_gate::tls::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Speaks;

/// Would end TLS.
#[derive(Debug)]
pub enum Tls {}

/// Would carry it.
#[derive(Debug)]
pub enum Stream {}

impl Tls {
    /// Would read changed certificates again.
    ///
    /// # Errors
    /// Never: nobody can make this.
    pub const fn refresh(&self) -> Result<(), String> {
        match *self {}
    }

    /// Would end TLS on a connection.
    #[expect(clippy::unused_async, reason = "the other one waits for the client")]
    pub async fn accept(&self, _: TcpStream, _: Speaks) -> Option<(Stream, Session)> {
        match *self {}
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
