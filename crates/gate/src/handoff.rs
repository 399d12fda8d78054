//! Connections accepted elsewhere, by whoever answers while nothing runs, and how the gate takes them over.

use std::fmt;
use std::net::SocketAddr;

use suijuris_api::tls::Session;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::stream::Stream;

/// A connection accepted elsewhere, with what was read from it.
#[derive(Debug)]
pub struct Handoff {
    /// The connection.
    pub stream: Accepted,
    /// Bytes read before, in order; at most [`Limits::head_bytes`](crate::Limits::head_bytes) for HTTP/1.x.
    pub prefix: Vec<u8>,
    /// Takes it from whoever handed it over.
    pub claim: Claim,
    /// Whose it is, where whoever handed it over knows better than the socket.
    pub client: Option<Box<Client>>,
}

/// Who is at the other end of a connection, as whoever ended TLS or heard a proxy says. What the client's own header fields
/// say of it (`X-Forwarded-…`, `Forwarded`, `X-Real-IP`) is then neither judged nor forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The client's address: the peer that rules see.
    pub address: SocketAddr,
    /// It came by TLS.
    pub tls: bool,
    /// What TLS came to, where it ended at whoever handed the connection over. The workload reads the name in the client's
    /// certificate as `X-Suijuris-Client-Name`.
    pub session: Option<Box<Session>>,
    /// What was taken off the path: the workload reads it as `X-Forwarded-Prefix`.
    pub prefix: Option<String>,
    /// All of this is true of one request: the connection, of HTTP/1.x, ends after it.
    pub once: bool,
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

impl Accepted {
    /// As the gate has it, with whoever is at its other end; none where that is gone meanwhile, which is nobody's loss.
    pub(crate) fn open(self) -> Option<(Stream, SocketAddr)> {
        match self {
            Self::Bytes(stream, peer) => Some((Stream::Bytes(stream.into()), peer)),
            Self::Socket(socket) => {
                let peer = socket.peer_addr().ok()?;
                socket.set_nonblocking(true).ok()?;
                Some((Stream::Tcp(TcpStream::from_std(socket).ok()?), peer))
            }
        }
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
