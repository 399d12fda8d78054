//! The socket side of the door of `up`: what arrives is read so far that it can be decided about, and then either waits
//! for the machine or is turned away. Who may ask and what the rules say is the door's own affair (`suijuris_door`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_core::bundle::Bundle;
use suijuris_core::governance;
use suijuris_core::inputs::Request;
use suijuris_core::manifest;
use suijuris_door::Credentials;
use suijuris_gate::head::{self, Peek};
use suijuris_gate::probe::{Found, Probe};
use suijuris_gate::{Limits, Refusal, RequestHead, refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Time for a request head at most.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// An HTTP/2 client that has said nothing after its preface for this long waits for the server's greeting.
const GREET_AFTER: Duration = Duration::from_millis(50);

/// Time to read on after a refusal, so that the client gets to see it.
const LINGER: Duration = Duration::from_millis(500);

/// Somebody at the door.
pub(super) struct Visitor {
    pub(super) socket: TcpStream,
    pub(super) request: Request,
    /// `Authorization`, where the request has it.
    authorization: Option<String>,
    /// Identity that the request asks for, where it names one.
    wants: Option<String>,
    said: Said,
    /// Machines that it was handed over to so far.
    pub(super) machines: u8,
}

/// What a visitor has said so far, to be said again to the runtime.
enum Said {
    Nothing,
    Http1(Vec<u8>),
    Http2(Box<Probe>),
}

impl std::fmt::Debug for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visitor")
            .field("request", &self.request.path)
            .finish_non_exhaustive()
    }
}

/// Reads what is needed to decide, and hands the visitor in. Whoever cannot be understood is answered here.
pub(super) async fn greet(
    socket: TcpStream,
    peer: SocketAddr,
    bundle: Arc<Bundle>,
    asks: mpsc::Sender<Visitor>,
) {
    let raw = matches!(
        bundle.manifest.gate.protocol,
        manifest::Protocol::Tcp | manifest::Protocol::FdPassing
    );
    let visitor = if raw {
        Some(Visitor {
            socket,
            request: connection(peer),
            authorization: None,
            wants: None,
            said: Said::Nothing,
            machines: 0,
        })
    } else {
        tokio::time::timeout(HEAD_WITHIN, read_head(socket, peer, &bundle))
            .await
            .ok()
            .flatten()
    };
    if let Some(visitor) = visitor {
        // The house is ending when nobody takes visitors any more.
        let _ = asks.send(visitor).await;
    }
}

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

struct Looked {
    request: Request,
    authorization: Option<String>,
    wants: Option<String>,
}

/// What is decided about; or the answer to what the gate would not judge either.
fn look(bundle: &Bundle, head: &RequestHead<'_>) -> Result<Looked, Refusal> {
    if head.is_reserved() {
        return Err(Refusal::reserved());
    }
    Ok(Looked {
        request: suijuris_door::request(&bundle.rules.vocabulary, head)?,
        authorization: head.authorization.map(str::to_owned),
        wants: head.object.map(str::to_owned),
    })
}

async fn read_head(mut socket: TcpStream, peer: SocketAddr, bundle: &Bundle) -> Option<Visitor> {
    let limits = Limits::default();
    let mut bytes = Vec::with_capacity(2_048);
    loop {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if head::starts_http2(&bytes) {
            if bytes.len() >= head::HTTP2_PREFACE.len() {
                return read_http2(socket, peer, bundle, &limits, bytes).await;
            }
            continue;
        }
        match head::peek(&bytes, peer, &limits, |head| look(bundle, head)) {
            Peek::Incomplete => {}
            Peek::Complete {
                value:
                    Ok(Looked {
                        request,
                        authorization,
                        wants,
                    }),
                ..
            } => {
                return Some(Visitor {
                    socket,
                    request,
                    authorization,
                    wants,
                    said: Said::Http1(bytes),
                    machines: 0,
                });
            }
            Peek::Complete {
                value: Err(refusal), ..
            } => {
                turn_away(socket, &refusal::render_http1(&refusal, false)).await;
                return None;
            }
            Peek::Bad(reject) => {
                turn_away(socket, &refusal::render_http1(&reject.into(), false)).await;
                return None;
            }
        }
    }
}

async fn read_http2(
    mut socket: TcpStream,
    peer: SocketAddr,
    bundle: &Bundle,
    limits: &Limits,
    mut bytes: Vec<u8>,
) -> Option<Visitor> {
    let mut probe = Box::new(Probe::new(peer, limits));
    let mut greeted = false;
    loop {
        match probe.push(&bytes) {
            Found::Incomplete => {}
            Found::Request => break,
            Found::Bad(reject) => {
                let answer = probe.refuse(&Refusal::from(reject));
                turn_away(socket, &answer).await;
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
    let looked = match probe.look(|head| look(bundle, head)) {
        Ok(looked) => looked?,
        Err(reject) => Err(reject.into()),
    };
    let Looked {
        request,
        authorization,
        wants,
    } = match looked {
        Ok(looked) => looked,
        Err(refusal) => {
            turn_away(socket, &probe.refuse(&refusal)).await;
            return None;
        }
    };
    Some(Visitor {
        socket,
        request,
        authorization,
        wants,
        said: Said::Http2(probe),
        machines: 0,
    })
}

/// Sends an answer and reads on for a moment, so that the client sees it before the connection ends.
async fn turn_away(mut socket: TcpStream, answer: &[u8]) {
    if socket.write_all(answer).await.is_err() || socket.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 1_024];
    let drain = async { while matches!(socket.read(&mut rest).await, Ok(n) if n > 0) {} };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

impl Visitor {
    /// One line about what is asked.
    pub(super) fn summary(&self) -> String {
        match self.said {
            Said::Nothing => format!("connection from {}", self.request.peer_ip),
            _ => format!("{} {}", self.request.method, self.request.path),
        }
    }

    /// Who it says that it is, and which object it means.
    pub(super) fn credentials(&self) -> Credentials<'_> {
        Credentials {
            wants: self.wants.as_deref(),
            authorization: self.authorization.as_deref(),
        }
    }

    /// Answers that it goes no further.
    pub(super) async fn refuse(self, problem: Problem) {
        let refusal = Refusal::from(problem);
        match self.said {
            // A raw connection has no words: it ends without a byte.
            Said::Nothing => drop(self.socket),
            Said::Http1(_) => turn_away(self.socket, &refusal::render_http1(&refusal, false)).await,
            Said::Http2(probe) => turn_away(self.socket, &probe.refuse(&refusal)).await,
        }
    }

    /// What was read from the connection, for the runtime.
    pub(super) fn said(&self) -> Vec<u8> {
        match &self.said {
            Said::Nothing => Vec::new(),
            Said::Http1(bytes) => bytes.clone(),
            Said::Http2(probe) => probe.recorded(),
        }
    }
}
