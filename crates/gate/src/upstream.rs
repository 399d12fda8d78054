//! Connections to the workload. Nothing here runs without a permit in hand: each way in wants to see one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::control::Control;
use crate::limits::Limits;
use crate::routing::Route;
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
    /// `found` is where somebody saw it listen.
    async fn connect(&self, found: Option<SocketAddr>) -> io::Result<Stream> {
        match self {
            Self::Tcp(addr) => {
                let stream = match (TcpStream::connect(found.unwrap_or(*addr)).await, found) {
                    // Nobody has looked: it may be on the other loopback, where `localhost` leads on many hosts.
                    (Err(error), None)
                        if error.kind() == io::ErrorKind::ConnectionRefused
                            && addr.ip() == Ipv4Addr::LOCALHOST =>
                    {
                        let other = SocketAddr::from((Ipv6Addr::LOCALHOST, addr.port()));
                        TcpStream::connect(other).await.map_err(|_| error)?
                    }
                    (connected, _) => connected?,
                };
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
    /// Those of an edge, by their target.
    routed: RefCell<HashMap<u64, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    until_ms: u64,
}

/// One connection to the workload, for one exchange.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) stream: Stream,
    /// Used before: the workload may have closed it meanwhile.
    pub(crate) reused: bool,
    /// At an edge: where it leads, and how long it is kept unused.
    routed: Option<(u64, u64)>,
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
            routed: RefCell::default(),
        }
    }

    /// An unused connection that still stands, else a new one.
    pub(crate) async fn lease<P>(&self, permit: &P, route: Option<&dyn Route>) -> io::Result<Lease> {
        let unused = match route {
            None => self.take_of(&mut self.idle.borrow_mut()),
            Some(route) => {
                let mut routed = self.routed.borrow_mut();
                routed
                    .get_mut(&route.target())
                    .and_then(|idle| self.take_of(idle))
            }
        };
        match unused {
            Some(stream) => Ok(Lease {
                stream,
                reused: true,
                routed: route.map(kept),
            }),
            None => self.connect(permit, route).await,
        }
    }

    /// A new connection.
    pub(crate) async fn connect<P>(&self, _permit: &P, route: Option<&dyn Route>) -> io::Result<Lease> {
        let bound = Duration::from_millis(self.connect_ms);
        let connecting = async {
            match route {
                None => self.upstream.connect(self.control.workload()).await,
                Some(route) => {
                    let stream = route.connect().await?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                }
            }
        };
        let stream = match tokio::time::timeout(bound, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        Ok(Lease {
            stream,
            reused: false,
            routed: route.map(kept),
        })
    }

    fn take_of(&self, idle: &mut Vec<Idle>) -> Option<Stream> {
        while let Some(newest) = idle.pop() {
            if newest.until_ms >= self.control.now_ms() && newest.stream.is_quiet() {
                return Some(newest.stream);
            }
        }
        None
    }

    /// Keeps a connection whose last exchange ended cleanly.
    pub(crate) fn give_back(&self, lease: Lease) {
        let keep = |idle: &mut Vec<Idle>, idle_ms: u64| {
            if idle.len() < self.max_idle {
                idle.push(Idle {
                    stream: lease.stream,
                    until_ms: self.control.now_ms().saturating_add(idle_ms),
                });
            }
        };
        match lease.routed {
            None => keep(&mut self.idle.borrow_mut(), self.idle_ms),
            Some((_, 0)) => {}
            Some((target, idle_ms)) => keep(self.routed.borrow_mut().entry(target).or_default(), idle_ms),
        }
    }

    /// Closes what is too old or was closed by the workload.
    pub(crate) fn expire(&self) {
        let now_ms = self.control.now_ms();
        let stands = |idle: &Idle| idle.until_ms >= now_ms && idle.stream.is_quiet();
        self.idle.borrow_mut().retain(stands);
        self.routed.borrow_mut().retain(|_, idle| {
            idle.retain(stands);
            !idle.is_empty()
        });
    }

    /// Closes all unused connections.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.routed.borrow_mut().clear();
    }
}

fn kept(route: &dyn Route) -> (u64, u64) {
    (route.target(), route.idle_ms())
}
