//! One listener on one thread: each connection is looked at until it is known what it is (HTTP, TLS, PostgreSQL's question, raw
//! bytes) and for which app, and goes to a gate or through.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use suijuris_api::tls::Session;
use suijuris_edge::handshakes::{Handshakes, Turn};
use suijuris_edge::tls::Tls;
use suijuris_edge::trust::Trust;
use suijuris_edge::{Speaks, postgres, proxy_header};
use suijuris_gate::{Accepted, Client, Handoff};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::asked::{Asked, Entrance, app_of};
use crate::fleet::{Port, Snapshot};
use crate::raw;
use crate::router::Router;

/// Connections of a thread that are looked at: for one more, the one that has said nothing for longest is closed. And raw ones:
/// further ones wait in the socket's backlog.
const MOST: usize = 8_192;
/// Until it is known what a connection is: a PROXY header, the first byte, and TLS.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);
/// Pause after `accept` failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes in which a client of TLS says what it wants, at most.
const HELLO_BYTES: usize = 16 * 1024;
/// Between two looks at whether more of it has come.
const HELLO_PAUSE: Duration = Duration::from_millis(2);
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// The inbound ports of a listener that names none: those of the web.
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// What a thread's part of a listener has.
pub(crate) struct Listening {
    pub(crate) router: Arc<Router>,
    pub(crate) edge: Arc<str>,
    /// The inbound port, where it is one.
    pub(crate) port: Option<u16>,
    /// Each connection begins with a PROXY header of a trusted proxy.
    pub(crate) proxy_header: bool,
    pub(crate) trust: Trust,
    pub(crate) tls: Option<Rc<Tls>>,
    pub(crate) handshakes: Handshakes,
    /// The gates: for clear text, and for what came by TLS.
    pub(crate) plain: mpsc::Sender<Handoff>,
    pub(crate) secured: mpsc::Sender<Handoff>,
}

/// What a connection turned out to be.
enum Arrived {
    Http(Handoff),
    Https(Handoff),
    Raw(Box<(raw::Client, Asked)>),
}

/// Connections of which it is not known yet what they are.
#[derive(Debug, Default)]
struct Arriving {
    next: u64,
    oldest_first: BTreeMap<u64, AbortHandle>,
}

impl Arriving {
    fn add(&mut self, task: AbortHandle) {
        self.oldest_first.insert(self.next, task);
        self.next += 1;
    }

    /// Closes the one that is looked at for longest.
    fn make_room(&mut self) {
        if let Some((_, oldest)) = self.oldest_first.pop_first() {
            oldest.abort();
        }
    }
}

/// Accepts until it is dropped, which ends raw connections.
pub(crate) async fn accept(listening: Rc<Listening>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    let arriving = Rc::<RefCell<Arriving>>::default();
    let count = || arriving.borrow().oldest_first.len();
    loop {
        tokio::select! {
            Some(_ended) = tasks.join_next() => {}
            accepted = listener.accept(), if tasks.len().saturating_sub(count()) < MOST => match accepted {
                Ok((socket, peer)) => {
                    let mut all = arriving.borrow_mut();
                    if all.oldest_first.len() >= MOST {
                        all.make_room();
                    }
                    let arrival = serve(Rc::clone(&listening), (Rc::clone(&arriving), all.next), socket, peer);
                    all.add(tasks.spawn_local(arrival));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_out_of_descriptors) => {
                    arriving.borrow_mut().make_room();
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve(
    listening: Rc<Listening>,
    (arriving, number): (Rc<RefCell<Arriving>>, u64),
    socket: TcpStream,
    peer: SocketAddr,
) {
    // Only latency is lost where it cannot be set.
    let _slower = socket.set_nodelay(true);
    let arrived = timeout(ARRIVE_WITHIN, listening.arrive(socket, peer)).await;
    arriving.borrow_mut().oldest_first.remove(&number);
    let router = || Arc::clone(&listening.router);
    match arrived {
        Ok(Some(Arrived::Http(handoff))) => drop(listening.plain.send(handoff).await),
        Ok(Some(Arrived::Https(handoff))) => drop(listening.secured.send(handoff).await),
        Ok(Some(Arrived::Raw(raw))) => {
            let (client, asked) = *raw;
            raw::serve(router(), client, asked).await;
        }
        // It said nothing that is understood here, or not in time.
        Ok(None) | Err(_) => {}
    }
}

impl Listening {
    /// A handshake may begin: so many at once, and of one peer.
    fn turn(&self, peer: SocketAddr) -> Option<Turn> {
        self.handshakes.begin(peer.ip(), self.trust.has(peer.ip()))
    }

    fn inbound(&self, tls: bool) -> u16 {
        self.port.unwrap_or(if tls { HTTPS } else { HTTP })
    }

    fn asked(&self, app: Arc<str>, client: IpAddr, tls: bool) -> Asked {
        let entrance = Entrance {
            edge: Arc::clone(&self.edge),
            port: self.inbound(tls),
            tls,
        };
        Asked::raw(app, client, &entrance, self.router.ids.ulid())
    }

    async fn arrive(&self, mut socket: TcpStream, peer: SocketAddr) -> Option<Arrived> {
        let mut address = peer;
        let mut turn = None;
        if self.proxy_header {
            if !self.trust.has(peer.ip()) {
                return None;
            }
            turn = Some(self.turn(peer)?);
            address = proxy_header::read(&mut socket).await.ok()?.unwrap_or(peer);
        }
        let now = self.router.fleet.now();
        let own = socket.local_addr().ok()?.ip().to_canonical();
        let dedicated = now.addresses.get(&own).cloned();
        let alone = dedicated.clone().or_else(|| only(&now, self.inbound(false)));
        let served = |app: Option<&Arc<str>>, tls: bool| served(&now, app?, self.inbound(tls));
        let clear = served(alone.as_ref(), false);
        if clear.is_some_and(|port| !port.http && !port.tls && !port.pg_tls) {
            // Its server may speak first.
            let asked = self.asked(alone?, address.ip(), false);
            return Some(Arrived::Raw(Box::new((raw::Client::Socket(socket), asked))));
        }
        let mut first = [0];
        if socket.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        let asks_postgres = first == [0] && clear.is_some_and(|port| port.pg_tls);
        if asks_postgres {
            postgres::until_tls(&mut socket).await.ok()?;
        } else if first != [TLS_HANDSHAKE] {
            let client = (address != peer || self.proxy_header).then(|| known(address, false, None));
            return match clear {
                Some(port) if !port.http => None,
                _ => Some(Arrived::Http(handoff(
                    Accepted::Socket(socket.into_std().ok()?),
                    client,
                ))),
            };
        }
        let _turn = match turn {
            Some(turn) => turn,
            None => self.turn(peer)?,
        };
        let name = server_name(&socket).await?;
        let by_name = || {
            let name = name.as_deref()?;
            let app = now.hostnames.get(name).cloned();
            app.or_else(|| {
                now.apps
                    .get_key_value(app_of(name)?)
                    .map(|(app, _)| Arc::clone(app))
            })
        };
        let app = dedicated.or_else(by_name).or(alone);
        let port = served(app.as_ref(), true);
        if let (Some(port), Some(app)) = (port, &app)
            && !port.tls
            && !port.pg_tls
            && !port.http
        {
            // TLS of the app's own, which passes through.
            let asked = self.asked(Arc::clone(app), address.ip(), true);
            return Some(Arrived::Raw(Box::new((raw::Client::Socket(socket), asked))));
        }
        let http = port.is_none_or(|port| port.http);
        let speaks = if http { Speaks::Http } else { Speaks::Anything };
        let tls = self.tls.as_ref()?;
        // Certificates that cannot be used leave those of before.
        let _kept = tls.refresh();
        let (stream, found) = tls.accept(socket, speaks).await?;
        if !http {
            let asked = self.asked(app?, address.ip(), true);
            return Some(Arrived::Raw(Box::new((
                raw::Client::Tls(Box::new(stream)),
                asked,
            ))));
        }
        let client = known(address, true, Some(Box::new(found)));
        Some(Arrived::Https(handoff(
            Accepted::Bytes(Box::new(stream), peer),
            Some(client),
        )))
    }
}

fn handoff(stream: Accepted, client: Option<Client>) -> Handoff {
    Handoff {
        stream,
        prefix: Vec::new(),
        claim: suijuris_gate::Claim::default(),
        client: client.map(Box::new),
    }
}

fn known(address: SocketAddr, tls: bool, session: Option<Box<Session>>) -> Client {
    Client {
        address,
        tls,
        session,
        prefix: None,
        once: false,
    }
}

/// How an app serves a port.
fn served<'a>(now: &'a Snapshot, app: &Arc<str>, port: u16) -> Option<&'a Port> {
    now.apps.get(app)?.port(port)
}

/// The one app that serves this port with something else than HTTP, if it is one.
fn only(now: &Snapshot, port: u16) -> Option<Arc<str>> {
    if port == HTTP {
        return None;
    }
    let mut serving = now
        .apps
        .values()
        .filter(|app| app.port(port).is_some_and(|port| !port.http));
    let first = serving.next()?;
    serving.next().is_none().then(|| Arc::clone(&first.name))
}

/// The name that a client of TLS asks for; none where what it says is not TLS. Not a byte is taken from the socket.
async fn server_name(socket: &TcpStream) -> Option<Option<String>> {
    let mut bytes = vec![0; HELLO_BYTES];
    let mut before = 0;
    loop {
        let read = socket.peek(&mut bytes).await.ok()?;
        if read == 0 {
            return None;
        }
        if read > before {
            before = read;
            let mut acceptor = Acceptor::default();
            let mut said = bytes.get(..read)?;
            while !said.is_empty() {
                acceptor.read_tls(&mut said).ok()?;
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Some(hello.server_name().map(str::to_ascii_lowercase));
                }
                Ok(None) if read < HELLO_BYTES => {}
                Ok(None) | Err(_) => return None,
            }
        }
        sleep(HELLO_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn for_one_more_the_connection_goes_that_has_said_nothing_for_longest() {
        let mut tasks = JoinSet::new();
        let mut arriving = Arriving::default();
        for _ in 0..3 {
            arriving.add(tasks.spawn(std::future::pending::<()>()));
        }
        arriving.make_room();
        assert!(tasks.join_next().await.is_some_and(|ended| ended.is_err()));
        assert_eq!(tasks.len(), 2);
        let left: Vec<u64> = arriving.oldest_first.keys().copied().collect();
        assert_eq!(left, [1, 2]);
    }
}
