//! Connections to the workload. Nothing here runs without a permit in hand: each way in wants to see one.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::control::Control;
use crate::limits::Limits;
use crate::stream::Stream;

/// Where the workload listens; only the gate should reach it.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// A TCP address, normally on loopback.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// One end of a pair of Unix sockets (`SOCK_SEQPACKET`) whose other end the workload has from its start: only for
    /// handing connections over.
    Given(Arc<OwnedFd>),
}

impl Upstream {
    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(addr) => {
                let stream = TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            // The gate refuses to serve so; see `ServeError`.
            Self::Given(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Unused connections, newest last; the newest is taken first, so that the others can age.
#[derive(Debug)]
pub(crate) struct Pool {
    upstream: Upstream,
    connect_ms: u64,
    idle_ms: u64,
    max_idle: usize,
    control: Control,
    idle: RefCell<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    since_ms: u64,
}

/// One connection to the workload, for one exchange.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) stream: Stream,
    /// Used before: the workload may have closed it meanwhile.
    pub(crate) reused: bool,
}

impl Pool {
    pub(crate) fn new(upstream: Upstream, limits: &Limits, control: Control) -> Self {
        Self {
            upstream,
            connect_ms: limits.upstream_connect_ms,
            idle_ms: limits.upstream_idle_ms,
            max_idle: limits.upstream_idle,
            control,
            idle: RefCell::default(),
        }
    }

    /// An unused connection that still stands, else a new one.
    pub(crate) async fn lease<P>(&self, permit: &P) -> io::Result<Lease> {
        match self.take() {
            Some(stream) => Ok(Lease { stream, reused: true }),
            None => self.connect(permit).await,
        }
    }

    /// A new connection.
    pub(crate) async fn connect<P>(&self, _permit: &P) -> io::Result<Lease> {
        let bound = Duration::from_millis(self.connect_ms);
        let stream = match tokio::time::timeout(bound, self.upstream.connect()).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        Ok(Lease {
            stream,
            reused: false,
        })
    }

    fn take(&self) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        while let Some(newest) = idle.pop() {
            if newest.stream.is_quiet() {
                return Some(newest.stream);
            }
        }
        None
    }

    /// Keeps a connection whose last exchange ended cleanly.
    pub(crate) fn give_back(&self, stream: Stream) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle {
            idle.push(Idle {
                stream,
                since_ms: self.control.now_ms(),
            });
        }
    }

    /// Closes what is too old or was closed by the workload.
    pub(crate) fn expire(&self) {
        let oldest_ms = self.control.now_ms().saturating_sub(self.idle_ms);
        self.idle
            .borrow_mut()
            .retain(|idle| idle.since_ms >= oldest_ms && idle.stream.is_quiet());
    }

    /// Closes all unused connections.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}
