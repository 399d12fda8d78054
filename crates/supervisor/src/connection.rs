//! Connections at the door: what arrives is read so far that it can be decided about, and then waits for a machine or is
//! refused. Who may ask and what the rules say is the door's affair (`suijuris_door`).
//!
//! Whoever listens calls [`read_http`] or [`PendingConnection::raw`], one task a connection; the object's actor decides.

use std::net::SocketAddr;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_core::bundle::Bundle;
use suijuris_core::governance;
use suijuris_core::inputs::Request;
use suijuris_door::Credentials;
use suijuris_gate::head::{self, Peek};
use suijuris_gate::probe::{Found, Probe};
use suijuris_gate::{Limits, Refusal, RequestHead, refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Time for a request head at most.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// An HTTP/2 client that has said nothing after its preface for this long waits for the server's greeting.
const GREET_AFTER: Duration = Duration::from_millis(50);

/// Time to read on after a refusal, so that the client gets to see it.
const LINGER: Duration = Duration::from_millis(500);

/// A connection of which enough was read to decide about it.
pub struct PendingConnection {
    /// The client's end.
    pub(crate) socket: TcpStream,
    peer: SocketAddr,
    read: ReadSoFar,
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
/// not understand either is refused here.
pub async fn read_http(socket: TcpStream, peer: SocketAddr) -> Option<PendingConnection> {
    let reading = tokio::time::timeout(HEAD_WITHIN, read_head(socket, peer));
    reading.await.ok().flatten()
}

async fn read_head(mut socket: TcpStream, peer: SocketAddr) -> Option<PendingConnection> {
    let limits = Limits::default();
    let mut bytes = Vec::with_capacity(2_048);
    loop {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if head::starts_http2(&bytes) {
            if bytes.len() >= head::HTTP2_PREFACE.len() {
                return read_http2(socket, peer, &limits, bytes).await;
            }
            continue;
        }
        match head::peek(&bytes, peer, &limits, |_head| ()) {
            Peek::Incomplete => {}
            Peek::Complete { .. } => {
                let read = ReadSoFar::Http1(bytes);
                return Some(PendingConnection { socket, peer, read });
            }
            Peek::Bad(reject) => {
                answer(socket, &refusal::render_http1(&reject.into(), false)).await;
                return None;
            }
        }
    }
}

async fn read_http2(
    mut socket: TcpStream,
    peer: SocketAddr,
    limits: &Limits,
    mut bytes: Vec<u8>,
) -> Option<PendingConnection> {
    let mut probe = Box::new(Probe::new(peer, limits));
    let mut greeted = false;
    loop {
        match probe.push(&bytes) {
            Found::Incomplete => {}
            Found::Request => {
                let read = ReadSoFar::Http2(probe);
                return Some(PendingConnection { socket, peer, read });
            }
            Found::Bad(reject) => {
                let refused = probe.refuse(&Refusal::from(reject));
                answer(socket, &refused).await;
                return None;
            }
        }
        bytes.clear();
        match tokio::time::timeout(GREET_AFTER, socket.read_buf(&mut bytes)).await {
            Ok(Ok(0)) | Ok(Err(_)) => return None,
            Ok(Ok(_)) => {}
            Err(_silent) if !greeted => {
                greeted = true;
                socket.write_all(probe.greet()).await.ok()?;
            }
            Err(_silent) => {}
        }
    }
}

/// Sends an answer and reads on for a moment, so that the client sees it before the connection ends.
async fn answer(mut socket: TcpStream, answer: &[u8]) {
    if socket.write_all(answer).await.is_err() || socket.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 1_024];
    let drain = async { while matches!(socket.read(&mut rest).await, Ok(n) if n > 0) {} };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

impl PendingConnection {
    /// A connection without requests: it is decided about as it is.
    #[must_use]
    pub const fn raw(socket: TcpStream, peer: SocketAddr) -> Self {
        let read = ReadSoFar::Nothing;
        Self { socket, peer, read }
    }

    /// Whoever is at the other end.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Looks at the head of the first request; none where there is no request.
    pub fn look<R>(&self, look: impl FnOnce(&RequestHead<'_>) -> R) -> Option<R> {
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
        let read = |head: &RequestHead<'_>| {
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
                request: connection(self.peer),
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
    /// The request does not spell the prefix as it is, or is HTTP/2, which carries more than one.
    pub(crate) fn strip_prefix(&mut self, prefix: &str) -> Result<(), ()> {
        let ReadSoFar::Http1(bytes) = &self.read else {
            return Err(());
        };
        let rewritten = without_prefix(bytes, prefix).ok_or(())?;
        self.read = ReadSoFar::Http1(rewritten);
        Ok(())
    }

    /// Sends the client to another address, by HTTP/1.1; other connections end.
    pub(crate) async fn redirect(self, url: &str) {
        if let ReadSoFar::Http1(_) = self.read {
            // Control characters and spaces are no part of a canonical path or query.
            let head = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: {url}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            answer(self.socket, head.as_bytes()).await;
        }
    }

    /// Answers that it goes no further.
    pub async fn refuse(self, problem: Problem) {
        let refusal = Refusal::from(problem);
        match self.read {
            // A raw connection has no words: it ends without a byte.
            ReadSoFar::Nothing => drop(self.socket),
            ReadSoFar::Http1(_) => answer(self.socket, &refusal::render_http1(&refusal, false)).await,
            ReadSoFar::Http2(probe) => answer(self.socket, &probe.refuse(&refusal)).await,
        }
    }

    /// The connection, whose it is, and what was read of it, for a gate.
    pub(crate) fn into_parts(self) -> (TcpStream, SocketAddr, Vec<u8>) {
        let read = self.bytes();
        (self.socket, self.peer, read)
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

/// A request head without `prefix` before its path, and whatever was read behind it. `Connection: close` takes the place of
/// what the client asked for, but where it asks to switch the protocol: then there is no next request.
fn without_prefix(bytes: &[u8], prefix: &str) -> Option<Vec<u8>> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 2;
    let (head, rest) = bytes.split_at_checked(end)?;
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split_terminator("\r\n");
    let mut words = lines.next()?.splitn(3, ' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let path = target.strip_prefix(prefix)?;
    let path = match path.bytes().next() {
        None | Some(b'?') => format!("/{path}"),
        Some(b'/') => path.to_owned(),
        Some(_) => return None,
    };
    let name = |line: &str, name: &str| {
        line.split_once(':')
            .is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
    };
    let lines: Vec<&str> = lines.collect();
    let switches = lines.iter().any(|line| name(line, "upgrade"));
    let mut written = format!("{method} {path} {version}\r\n");
    for line in lines {
        let hop = name(line, "connection") || name(line, "keep-alive");
        if name(line, FORWARDED_PREFIX) || (hop && !switches) {
            continue;
        }
        written += line;
        written += "\r\n";
    }
    if !switches {
        written += "Connection: close\r\n";
    }
    written += &format!("{FORWARDED_PREFIX}: {prefix}\r\n");
    let mut written = written.into_bytes();
    written.extend_from_slice(rest);
    Some(written)
}

/// Where the object is on this host, for links that its workload makes.
const FORWARDED_PREFIX: &str = "X-Forwarded-Prefix";

fn connection(peer: SocketAddr) -> Request {
    Request {
        method: String::new(),
        path: String::new(),
        query: String::new(),
        host: String::new(),
        port: None,
        protocol: governance::Protocol::Tcp,
        peer_ip: peer.ip().to_canonical(),
        content_length: None,
        headers: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(head: &str, prefix: &str) -> Option<String> {
        without_prefix(head.as_bytes(), prefix).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_prefix_is_taken_off_and_said_and_the_connection_ends() {
        let head = "GET /o/t/a/x?y HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nX-Forwarded-Prefix: /lie\r\n\r\nbody";
        let expected =
            "GET /x?y HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Forwarded-Prefix: /o/t/a\r\n\r\nbody";
        assert_eq!(stripped(head, "/o/t/a").unwrap(), expected);
        let root = stripped("GET /o/t/a HTTP/1.1\r\nHost: h\r\n\r\n", "/o/t/a").unwrap();
        assert!(root.starts_with("GET / HTTP/1.1\r\n"), "{root}");
    }

    #[test]
    fn who_switches_protocols_keeps_the_connection() {
        let head = "GET /o/t/a/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let written = stripped(head, "/o/t/a").unwrap();
        assert!(
            written.contains("Connection: Upgrade\r\n") && !written.contains("close"),
            "{written}"
        );
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
