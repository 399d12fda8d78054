//! Connections at the door: what arrives is read so far that it can be decided about, and then waits for a machine or is
//! refused. Who may ask and what the rules say is the door's affair (`suijuris_door`).
//!
//! Whoever listens calls [`read_http`] or [`PendingConnection::raw`], one task a connection; the object's actor decides.

mod client_stream;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use suijuris_api::Problem;
use suijuris_api::tls::Session;
use suijuris_core::bundle::Bundle;
use suijuris_core::governance;
use suijuris_core::inputs::Request;
use suijuris_door::Credentials;
use suijuris_gate::access;
use suijuris_gate::head::{self, Peek};
use suijuris_gate::probe::{Found, Probe};
use suijuris_gate::{Accepted, Claim, Cors, Handoff, Limits, Reader, Refusal, RequestHead, refusal};
use suijuris_link::Stream;
use suijuris_link::launch::Address;
use suijuris_link::message::Client;
use suijuris_words::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::events::Origin;

pub use self::client_stream::ClientStream;
pub(crate) use self::client_stream::relay;

/// Time for a request head at most.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// An HTTP/2 client that has said nothing after its preface for this long waits for the server's greeting.
const GREET_AFTER: Duration = Duration::from_millis(50);

/// Time to read on after a refusal, so that the client gets to see it.
const LINGER: Duration = Duration::from_millis(500);

/// Time for a client that has asked nothing to end its side too, where whoever listens leaves.
const PART_WITHIN: Duration = Duration::from_millis(100);

/// Time for connections that are read or answered to end where whoever listens leaves.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Turns true when whoever listens leaves, to be replaced or for good.
pub type Leaving = watch::Receiver<bool>;

/// Waits until whoever listens leaves.
pub async fn left(leaving: &mut Leaving) {
    // Whoever is gone has left.
    let _ = leaving.wait_for(|left| *left).await;
}

/// A connection that came.
#[derive(Debug)]
pub struct Arrival {
    /// The client's end.
    pub stream: ClientStream,
    /// Whose it is, as far as its socket says.
    pub peer: SocketAddr,
    /// Whose it is, where an edge before the objects has found more: then the client's own header fields say nothing of it.
    pub client: Option<Box<Client>>,
}

impl From<(TcpStream, SocketAddr)> for Arrival {
    fn from((stream, peer): (TcpStream, SocketAddr)) -> Self {
        Self {
            stream: ClientStream::Plain(stream),
            peer,
            client: None,
        }
    }
}

/// A connection of which enough was read to decide about it.
pub struct PendingConnection {
    /// The client's end.
    pub(crate) stream: ClientStream,
    peer: SocketAddr,
    pub(crate) client: Option<Box<Client>>,
    read: ReadSoFar,
    /// The page of another origin that may read a refusal.
    reader: Option<Reader>,
    /// The way to a runtime that was offered it and has not taken it, where it goes as bytes.
    pub(crate) offered: Option<Stream>,
    /// Where its answer is told, and which object gives it.
    log: Option<(AccessLog, Option<Rc<Origin>>)>,
    came: Instant,
}

/// What was read, to be read again by the gate.
enum ReadSoFar {
    /// A raw connection: nothing.
    Nothing,
    Http1(Vec<u8>),
    Http2(Box<Probe>),
}

/// What a connection asks of one object.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    /// `Authorization`, where the request has it.
    authorization: Option<String>,
    /// Identity that the request asks for, where it names one.
    wants: Option<String>,
}

impl Ask {
    /// Who it says that it is, and which object it means.
    pub(crate) fn credentials(&self) -> Credentials<'_> {
        Credentials {
            wants: self.wants.as_deref(),
            authorization: self.authorization.as_deref(),
        }
    }

    /// One line about what is asked.
    pub(crate) fn summary(&self) -> String {
        if self.request.protocol == governance::Protocol::Tcp {
            format!("connection from {}", self.request.peer_ip)
        } else {
            format!("{} {}", self.request.method, self.request.path)
        }
    }
}

impl std::fmt::Debug for PendingConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingConnection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Reads the head of the first request. None where the client left, was too slow, or was answered: what the gate would
/// not understand either is refused here. Who has not asked whole when whoever listens leaves is told so, and is never reset.
pub async fn read_http(arrival: impl Into<Arrival>, leaving: Leaving) -> Option<PendingConnection> {
    let reading = tokio::time::timeout(HEAD_WITHIN, read_head(arrival.into(), leaving));
    reading.await.ok().flatten()
}

async fn read_head(arrival: Arrival, mut leaving: Leaving) -> Option<PendingConnection> {
    let limits = Limits::default();
    let mut connection = PendingConnection::raw(arrival);
    let (socket, peer) = (&mut connection.stream, connection.peer);
    let mut bytes = Vec::with_capacity(2_048);
    loop {
        let read = tokio::select! {
            biased;
            read = socket.read_buf(&mut bytes) => read,
            () = left(&mut leaving) => {
                part(connection.stream, &bytes).await;
                return None;
            }
        };
        if read.ok()? == 0 {
            return None;
        }
        if head::starts_http2(&bytes) {
            if bytes.len() >= head::HTTP2_PREFACE.len() {
                return read_http2(connection, &limits, bytes, leaving).await;
            }
            continue;
        }
        match head::peek(&bytes, peer, &limits, |_head| ()) {
            Peek::Incomplete => {}
            Peek::Complete { .. } => {
                connection.read = ReadSoFar::Http1(bytes);
                return Some(connection);
            }
            Peek::Bad(reject) => {
                answer(
                    connection.stream,
                    &refusal::render_http1(&reject.into(), false, None),
                )
                .await;
                return None;
            }
        }
    }
}

async fn read_http2(
    mut connection: PendingConnection,
    limits: &Limits,
    mut bytes: Vec<u8>,
    mut leaving: Leaving,
) -> Option<PendingConnection> {
    let mut probe = Box::new(Probe::new(connection.peer, limits));
    let socket = &mut connection.stream;
    let mut greeted = false;
    loop {
        match probe.push(&bytes) {
            Found::Incomplete => {}
            Found::Request => {
                connection.read = ReadSoFar::Http2(probe);
                return Some(connection);
            }
            Found::Bad(reject) => {
                let refused = probe.refuse(&Refusal::from(reject), None);
                answer(connection.stream, &refused).await;
                return None;
            }
        }
        bytes.clear();
        let read = tokio::select! {
            biased;
            read = tokio::time::timeout(GREET_AFTER, socket.read_buf(&mut bytes)) => read,
            () = left(&mut leaving) => {
                answer(connection.stream, &probe.leave()).await;
                return None;
            }
        };
        match read {
            Ok(Ok(0)) | Ok(Err(_)) => return None,
            Ok(Ok(_)) => {}
            Err(_silent) if !greeted => {
                greeted = true;
                socket.write_all(probe.greet()).await.ok()?;
                socket.flush().await.ok()?;
            }
            Err(_silent) => {}
        }
    }
}

/// Ends a connection of which no whole request came: one that has begun to ask is told to ask again, and one that has not
/// ends without a word.
async fn part(socket: ClientStream, read: &[u8]) {
    let (words, within) = if read.is_empty() {
        (Vec::new(), PART_WITHIN)
    } else {
        (refusal::render_http1(&Refusal::draining(), false, None), LINGER)
    };
    answer_within(socket, &words, within).await;
}

/// Sends an answer and reads on for a moment, so that the client sees it before the connection ends.
async fn answer(socket: ClientStream, answer: &[u8]) {
    answer_within(socket, answer, LINGER).await;
}

async fn answer_within(mut socket: ClientStream, answer: &[u8], within: Duration) {
    if socket.write_all(answer).await.is_err() || socket.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 1_024];
    let drain = async { while matches!(socket.read(&mut rest).await, Ok(n) if n > 0) {} };
    let _ = tokio::time::timeout(within, drain).await;
}

impl PendingConnection {
    /// A connection without requests: it is decided about as it is.
    #[must_use]
    pub fn raw(arrival: impl Into<Arrival>) -> Self {
        let Arrival { stream, peer, client } = arrival.into();
        Self {
            stream,
            peer: client.as_ref().map_or(peer, |client| client.address.0),
            client,
            read: ReadSoFar::Nothing,
            reader: None,
            offered: None,
            log: None,
            came: Instant::now(),
        }
    }

    /// An answer that it gets here is told there, as one of this object where it has reached one.
    pub(crate) fn log_to(&mut self, log: &AccessLog, origin: Option<&Rc<Origin>>) {
        self.log = log.detail().map(|_| (log.clone(), origin.cloned()));
    }

    /// Tells that its request is answered here.
    fn tell(&self, status: u16, code: Option<&str>, bytes: usize) {
        let Some((log, origin)) = &self.log else { return };
        let Some(detail) = log.detail() else { return };
        if let Some(mut access) = self.look(|head| access::of(head, detail)) {
            access.status = Some(status);
            access.code = code.map(str::to_owned);
            access.bytes = bytes as u64;
            access.took_ms = u64::try_from(self.came.elapsed().as_millis()).unwrap_or(u64::MAX);
            log.tell(origin.as_deref(), access);
        }
    }

    /// What the proxy says that it came through: it is believed.
    pub(crate) fn vouched(&mut self, address: SocketAddr, tell: impl FnOnce(&mut Client)) {
        self.peer = address;
        if let ReadSoFar::Http2(probe) = &mut self.read {
            probe.set_peer(address);
        }
        if let Some(client) = &mut self.client {
            client.address = Address(address);
            tell(client);
        }
    }

    /// A page of these origins may read a refusal of it.
    pub(crate) fn readable_by(&mut self, origins: &[String]) {
        if !origins.is_empty() {
            let cors = Cors::new(origins.iter().map(String::as_str));
            self.reader = self.look(|head| cors.reader(head)).flatten();
        }
    }

    /// Whether it is HTTP/2, which carries more than one request at a time.
    pub(crate) const fn is_http2(&self) -> bool {
        matches!(self.read, ReadSoFar::Http2(_))
    }

    /// A way to a runtime for its bytes, once that has taken it.
    pub(crate) fn taken(self) -> Option<(ClientStream, Stream)> {
        self.offered.map(|offered| (self.stream, offered))
    }

    /// Whoever is at the other end, as far as that is believed.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Looks at the head of the first request as it is judged; none where there is no request.
    pub fn look<R>(&self, look: impl FnOnce(&RequestHead<'_>) -> R) -> Option<R> {
        match self.client {
            None => self.look_at_all(look),
            Some(_) => self.look_at_all(|head| look(&head.clone().without_forwarding())),
        }
    }

    /// Looks at it with everything that the client says.
    pub(crate) fn look_at_all<R>(&self, look: impl FnOnce(&RequestHead<'_>) -> R) -> Option<R> {
        match &self.read {
            ReadSoFar::Nothing => None,
            ReadSoFar::Http1(bytes) => match head::peek(bytes, self.peer, &Limits::default(), look) {
                Peek::Complete { value, .. } => Some(value),
                Peek::Incomplete | Peek::Bad(_) => None,
            },
            ReadSoFar::Http2(probe) => probe.look(look).ok().flatten(),
        }
    }

    /// What is asked of an object with this bundle; or the answer to what its gate would not judge either.
    pub(crate) fn ask(&self, bundle: &Bundle) -> Result<Ask, Refusal> {
        let session = || self.client.as_ref()?.session.as_deref();
        let read = |head: &RequestHead<'_>| {
            let known;
            let mut head = head;
            if self.client.is_some() {
                known = head.clone().without_forwarding().with_tls(session());
                head = &known;
            }
            if head.is_reserved() {
                return Err(Refusal::reserved());
            }
            Ok(Ask {
                request: suijuris_door::request(&bundle.rules.vocabulary, head)?,
                authorization: head.authorization.map(str::to_owned),
                wants: head.object.map(str::to_owned),
            })
        };
        match &self.read {
            ReadSoFar::Nothing => Ok(Ask {
                request: connection(self.peer, session()),
                authorization: None,
                wants: None,
            }),
            ReadSoFar::Http1(bytes) => match head::peek(bytes, self.peer, &Limits::default(), read) {
                Peek::Complete { value, .. } => value,
                Peek::Bad(reject) => Err(reject.into()),
                Peek::Incomplete => Err(Refusal::reserved()),
            },
            ReadSoFar::Http2(probe) => match probe.look(read) {
                Ok(Some(asked)) => asked,
                Ok(None) => Err(Refusal::reserved()),
                Err(reject) => Err(reject.into()),
            },
        }
    }

    /// Takes `prefix` off the path of the request, and says so to whoever reads it on. The connection ends with its answer,
    /// since the next request has the prefix again.
    ///
    /// # Errors
    /// The request does not spell the prefix as it is, or is HTTP/2, which carries more than one; or no edge vouches for it.
    pub(crate) fn strip_prefix(&mut self, prefix: &str) -> Result<(), ()> {
        let (ReadSoFar::Http1(bytes), Some(client)) = (&self.read, &mut self.client) else {
            return Err(());
        };
        let rewritten = without_prefix(bytes, prefix).ok_or(())?;
        let before = client.prefix.take().unwrap_or_default();
        client.prefix = Some(format!("{before}{prefix}"));
        client.once = true;
        self.read = ReadSoFar::Http1(rewritten);
        Ok(())
    }

    /// Sends the client to another address, by HTTP/1.1; other connections end.
    pub(crate) async fn redirect(self, url: &str) {
        if let ReadSoFar::Http1(_) = self.read {
            self.tell(307, None, 0);
            // Control characters and spaces are no part of a canonical path or query.
            let head = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: {url}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            answer(self.stream, head.as_bytes()).await;
        }
    }

    /// Answers that whoever serves the object leaves.
    pub async fn refuse_leaving(self) {
        self.refuse(Refusal::draining().problem).await;
    }

    /// Answers that it goes no further.
    pub async fn refuse(self, problem: Problem) {
        let refusal = Refusal::from(problem);
        self.tell(
            refusal.problem.status,
            Some(&refusal.problem.code),
            refusal.body_len(),
        );
        let reader = self.reader.as_ref();
        match self.read {
            // A raw connection has no words: it ends without a byte.
            ReadSoFar::Nothing => drop(self.stream),
            ReadSoFar::Http1(_) => answer(self.stream, &refusal::render_http1(&refusal, false, reader)).await,
            ReadSoFar::Http2(probe) => answer(self.stream, &probe.refuse(&refusal, reader)).await,
        }
    }

    /// For a gate of this process.
    pub(crate) fn into_handoff(self) -> std::io::Result<Handoff> {
        let prefix = self.bytes();
        let stream = match self.stream {
            ClientStream::Plain(socket) => Accepted::Socket(socket.into_std()?),
            tls @ ClientStream::Tls(_) => Accepted::Bytes(Box::new(tls), self.peer),
        };
        let client = self.client.map(|client| suijuris_gate::Client {
            address: client.address.0,
            tls: client.tls,
            session: client.session,
            prefix: client.prefix,
            once: client.once,
        });
        Ok(Handoff {
            stream,
            prefix,
            claim: Claim::default(),
            client: client.map(Box::new),
        })
    }

    /// What was read from the connection, for the gate.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match &self.read {
            ReadSoFar::Nothing => Vec::new(),
            ReadSoFar::Http1(bytes) => bytes.clone(),
            ReadSoFar::Http2(probe) => probe.recorded(),
        }
    }
}

/// A request head without `prefix` before its path, and whatever was read behind it.
fn without_prefix(bytes: &[u8], prefix: &str) -> Option<Vec<u8>> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (line, rest) = bytes.split_at_checked(end)?;
    let mut words = std::str::from_utf8(line).ok()?.splitn(3, ' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let path = target.strip_prefix(prefix)?;
    let path = match path.bytes().next() {
        None | Some(b'?') => format!("/{path}"),
        Some(b'/') => path.to_owned(),
        Some(_) => return None,
    };
    let mut written = format!("{method} {path} {version}").into_bytes();
    written.extend_from_slice(rest);
    Some(written)
}

fn connection(peer: SocketAddr, session: Option<&Session>) -> Request {
    let mut request = Request {
        method: String::new(),
        path: String::new(),
        query: String::new(),
        host: String::new(),
        port: None,
        protocol: governance::Protocol::Tcp,
        peer_ip: peer.ip().to_canonical(),
        content_length: None,
        headers: Default::default(),
        tls: None,
        client_cert: None,
    };
    tls::note(&mut request, session);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(head: &str, prefix: &str) -> Option<String> {
        without_prefix(head.as_bytes(), prefix).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_prefix_is_taken_off_and_nothing_else() {
        let head = "GET /o/t/a/x?y HTTP/1.1\r\nHost: h\r\n\r\nGET /o/t/b/ HTTP/1.1\r\n";
        let expected = "GET /x?y HTTP/1.1\r\nHost: h\r\n\r\nGET /o/t/b/ HTTP/1.1\r\n";
        assert_eq!(stripped(head, "/o/t/a").unwrap(), expected);
        let root = stripped("GET /o/t/a HTTP/1.1\r\nHost: h\r\n\r\n", "/o/t/a").unwrap();
        assert!(root.starts_with("GET / HTTP/1.1\r\n"), "{root}");
    }

    #[test]
    fn another_spelling_of_the_prefix_is_none() {
        for target in ["/o/t/ab", "//o/t/a", "/o/%74/a/", "http://h/o/t/a/"] {
            assert_eq!(
                stripped(&format!("GET {target} HTTP/1.1\r\n\r\n"), "/o/t/a"),
                None,
                "{target}"
            );
        }
    }
}
