//! Ports of raw connections: those of one object, or of a class whose instances are told apart by the port, the name that
//! TLS asks for, or the caller's certificate. They are kept with what they belong to, and opened again by the next daemon.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use suijuris_api::Problem;
use suijuris_api::daemon::Ports;
use suijuris_core::bundle::Bundle;
use suijuris_core::class::Source;
use suijuris_core::manifest::Protocol;
use suijuris_vehicle::Driver;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::edge::{Edge, Entrance};
use super::front;
use super::roster::Roster;

/// Ports of one class at most: each is a socket.
pub const MAX_PORTS: u16 = 1_024;

/// The ports of a daemon.
#[derive(Debug, Default)]
pub(super) struct OpenPorts {
    /// What connections pass, and where the daemon listens.
    at: RefCell<Option<(Rc<Edge>, IpAddr)>>,
    open: RefCell<BTreeMap<String, Open>>,
}

#[derive(Debug)]
struct Open {
    ports: Ports,
    tls: bool,
    _accepting: JoinSet<()>,
}

/// Sockets that are bound and do not accept yet.
pub(super) struct Bound {
    /// With the numbers that they have got.
    pub(super) ports: Ports,
    tls: bool,
    sockets: Vec<TcpListener>,
}

/// Whether what a bundle describes is reached by connections without requests.
fn is_raw(bundle: &Bundle) -> bool {
    matches!(bundle.manifest.gate.protocol, Protocol::Tcp | Protocol::FdPassing)
}

/// Whether TLS ends before the objects of a bundle: where it says which is meant.
fn needs_tls(bundle: &Bundle) -> bool {
    let by_tls = |source: &Source| matches!(source, Source::Sni | Source::ClientCert);
    let class = bundle.manifest.class.as_ref();
    class.is_some_and(|class| class.from.iter().any(by_tls))
}

impl<D: Driver> Roster<D> {
    /// Raw connections pass this edge, on ports of this host's address.
    pub fn set_edge(&self, edge: Rc<Edge>, host: Option<IpAddr>) {
        let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        *self.ports.at.borrow_mut() = Some((edge, host));
    }

    /// Binds the ports of what is being added.
    ///
    /// # Errors
    /// Why they cannot be had, and what to do.
    pub(super) fn bind_ports(&self, ports: &Ports, bundle: &Bundle) -> Result<Bound, Problem> {
        let bad = |detail: &str| Problem::new(400, "bad_port", "The port cannot be used").with_detail(detail);
        let tls = needs_tls(bundle);
        if !is_raw(bundle) {
            return Err(bad(
                "ports of their own are for raw connections: say protocol = \"tcp\" in [gate], or leave --port out",
            ));
        }
        let count = ports.last.checked_sub(ports.first);
        let count = count.ok_or_else(|| bad("the last port is before the first"))?;
        if count >= MAX_PORTS || (ports.first == 0 && count > 0) {
            return Err(bad(
                "name 1 to 1,024 ports, as in 6000-6099; 0 is any one that is free",
            ));
        }
        if count > 0 && (tls || bundle.manifest.class.is_none()) {
            return Err(bad(
                "several ports tell instances of a class apart that says from = [\"port\"]: name one",
            ));
        }
        let at = self.ports.at.borrow();
        let (edge, host) = at.as_ref().ok_or_else(|| bad("this daemon has no address"))?;
        if tls && !edge.has_tls() {
            return Err(bad(
                "the class tells callers apart by TLS, and the daemon has no certificate: start it with --certificate and --key, or after `suijuris trust`",
            ));
        }
        if ports.proxy && !edge.trusts_anybody() {
            return Err(bad(
                "no proxy is trusted: start the daemon with --trust and the network of your proxies",
            ));
        }
        let bind = |port: u16| {
            let address = SocketAddr::new(*host, port);
            let bound = std::net::TcpListener::bind(address).and_then(|socket| {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)
            });
            bound.map_err(|error| {
                Problem::new(409, "port_taken", "The port cannot be listened on").with_detail(format!(
                    "{address}: {error}; choose another with --port (0: any free one)"
                ))
            })
        };
        let sockets: Vec<TcpListener> = (ports.first..=ports.last).map(bind).collect::<Result<_, _>>()?;
        let given = |socket: Option<&TcpListener>| Some(socket?.local_addr().ok()?.port());
        let ports = Ports {
            first: given(sockets.first()).unwrap_or(ports.first),
            last: given(sockets.last()).unwrap_or(ports.last),
            proxy: ports.proxy,
        };
        Ok(Bound { ports, tls, sockets })
    }

    /// Begins to accept for the object or class of this name.
    pub(super) fn open_ports(self: &Rc<Self>, name: &str, bound: Bound) {
        let Bound { ports, tls, sockets } = bound;
        let Some((edge, _)) = self.ports.at.borrow().clone() else {
            return;
        };
        let entrance = Entrance {
            proxy: ports.proxy,
            tls,
        };
        let mut accepting = JoinSet::new();
        for socket in sockets {
            let way = front::Way::Raw(name.into());
            accepting.spawn_local(front::accept(self.clone(), edge.clone(), socket, entrance, way));
        }
        let open = Open {
            ports,
            tls,
            _accepting: accepting,
        };
        self.ports.open.borrow_mut().insert(name.to_owned(), open);
    }

    /// Opens again what was added before; what cannot be had is told.
    pub(super) fn reopen_ports(self: &Rc<Self>, name: &str, ports: Option<&Ports>, bundle: &Bundle) {
        let Some(ports) = ports else { return };
        match self.bind_ports(ports, bundle) {
            Ok(bound) => self.open_ports(name, bound),
            Err(problem) => self.say_broken(name, &problem.detail),
        }
    }

    /// Accepts no more for the object or class of this name.
    pub(super) fn close_ports(&self, name: &str) {
        self.ports.open.borrow_mut().remove(name);
    }

    /// Accepts no more on any of them.
    pub fn close_all_ports(&self) {
        self.ports.open.borrow_mut().clear();
    }

    /// Where raw connections to an object come, or to the instance `key` of the class of this name.
    pub(super) fn raw_url(&self, name: &str, key: Option<&str>) -> Option<String> {
        let open = self.ports.open.borrow();
        let open = open.get(name)?;
        let host = self.ports.at.borrow().as_ref().map(|(_, host)| *host)?;
        Some(match key {
            Some(key) if open.tls => format!("tls://{key}.{name}.{}:{}", self.domain, open.ports.first),
            // The key is the port.
            Some(key) if key.parse::<u16>().is_ok() => {
                format!("tcp://{}", SocketAddr::new(host, key.parse().unwrap_or_default()))
            }
            Some(_) => format!("tcp://{host}:{}-{}", open.ports.first, open.ports.last),
            None => format!("tcp://{}", SocketAddr::new(host, open.ports.first)),
        })
    }
}
