//! Connections accepted elsewhere, by whoever answers while nothing runs, and how the gate takes them over.

use std::fmt;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection accepted elsewhere, with what was read from it.
#[derive(Debug)]
pub struct Handoff {
    /// The connection.
    pub stream: Accepted,
    /// Bytes read before, in order; at most [`Limits::head_bytes`](crate::Limits::head_bytes) for HTTP/1.x.
    pub prefix: Vec<u8>,
    /// Takes it from whoever handed it over.
    pub claim: Claim,
}

/// A connection accepted elsewhere, as it comes here.
pub enum Accepted {
    /// Itself, in blocking mode or not.
    Socket(std::net::TcpStream),
    /// Its bytes, where it cannot come itself, and who is at its other end. It cannot be passed on to the workload.
    Bytes(Box<dyn ByteStream>, SocketAddr),
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => f.debug_tuple("Socket").field(socket).finish(),
            Self::Bytes(_, peer) => f.debug_tuple("Bytes").field(peer).finish(),
        }
    }
}

impl From<std::net::TcpStream> for Accepted {
    fn from(socket: std::net::TcpStream) -> Self {
        Self::Socket(socket)
    }
}

/// Bytes in both directions. Dropped before it was shut down, its other end is to see that it was cut.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// Takes a connection from whoever handed it over: called once, just before the gate serves it. Until then the other
/// side may still hand it to somebody else.
pub struct Claim(Box<dyn FnOnce() -> bool + Send>);

impl Claim {
    /// A claim that `claim` makes; where it returns false the gate lets go of the connection without a word.
    pub fn new(claim: impl FnOnce() -> bool + Send + 'static) -> Self {
        Self(Box::new(claim))
    }

    /// Makes the claim; whether the connection is the gate's now.
    pub(crate) fn make(self) -> bool {
        (self.0)()
    }
}

impl Default for Claim {
    /// Nobody else has the connection.
    fn default() -> Self {
        Self::new(|| true)
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}
