//! The door of a sleeping object: what arrives is read, decided by the object's own rules, and then either waits for
//! the machine or is turned away; nothing is started for what is turned away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use suijuris_api::agent::Patch;
use suijuris_api::{Problem, verdict};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{Verdict, View, decide, foresee};
use suijuris_core::governance::{self, Action, TriggerKind};
use suijuris_core::inputs::{Host, Inputs, Principal, Request, Trigger, Witnessed};
use suijuris_core::lineage::{Body, Decision, Fired, Outcome, Refused, State};
use suijuris_core::manifest::{self, Witness};
use suijuris_core::memory::Name;
use suijuris_core::time::{Now, Ratchet, Reading};
use suijuris_core::trigger::Due;
use suijuris_gate::head::{self, Peek};
use suijuris_gate::probe::{Found, Probe};
use suijuris_gate::{Limits, Refusal, RequestHead, refusal};
use suijuris_runtime::callers::Callers;
use suijuris_runtime::refusals::Refusals;
use suijuris_store::Writer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::sleeping::{self, Written};

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
        manifest::Protocol::Tcp | manifest::Protocol::Handover
    );
    let visitor = if raw {
        Some(Visitor {
            socket,
            request: connection(peer),
            authorization: None,
            wants: None,
            said: Said::Nothing,
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

fn look(bundle: &Bundle, head: &RequestHead<'_>) -> Looked {
    let text = |name| {
        head.header(name)
            .and_then(|value| std::str::from_utf8(value).ok())
            .map(str::to_owned)
    };
    Looked {
        request: suijuris_runtime::judge::request(&bundle.rules.vocabulary, head),
        authorization: text("authorization"),
        wants: text("x-suijuris-object"),
    }
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
                    Looked {
                        request,
                        authorization,
                        wants,
                    },
                ..
            } => {
                return Some(Visitor {
                    socket,
                    request,
                    authorization,
                    wants,
                    said: Said::Http1(bytes),
                });
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
    let Looked {
        request,
        authorization,
        wants,
    } = probe.look(|head| look(bundle, head)).ok().flatten()?;
    Some(Visitor {
        socket,
        request,
        authorization,
        wants,
        said: Said::Http2(probe),
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

    /// The connection and what was read from it, for the runtime.
    pub(super) fn into_parts(self) -> std::io::Result<(std::net::TcpStream, Vec<u8>)> {
        let bytes = match self.said {
            Said::Nothing => Vec::new(),
            Said::Http1(bytes) => bytes,
            Said::Http2(probe) => probe.into_recorded(),
        };
        Ok((self.socket.into_std()?, bytes))
    }
}

/// A proposal to wake.
#[derive(Debug, Clone)]
pub(super) struct Proposal {
    pub(super) trigger: Trigger,
    pub(super) principal: Principal,
    pub(super) request: Option<Request>,
    pub(super) fired: Fired,
}

impl Proposal {
    /// Because these timers are due.
    pub(super) fn timers(due: &[(Name, Due)]) -> Self {
        let name = due.first().map(|(name, _)| name.to_string());
        let missed = due.first().map_or(0, |(_, due)| due.missed);
        let trigger = Trigger {
            name,
            missed,
            ..Trigger::new(TriggerKind::Timer)
        };
        let fired = due.iter().map(|(name, due)| (name.clone(), due.up_to)).collect();
        Self {
            trigger,
            principal: Principal::Timer,
            request: None,
            fired,
        }
    }

    /// By an owner, for no other reason than that they ask.
    pub(super) fn manual(owner: Principal) -> Self {
        let trigger = Trigger::new(TriggerKind::Manual);
        Self {
            trigger,
            principal: owner,
            request: None,
            fired: Fired::new(),
        }
    }

    /// Because an owner wrote a field that wakes.
    pub(super) fn memory(owner: Principal, field: String) -> Self {
        let trigger = Trigger {
            field: Some(field),
            ..Trigger::new(TriggerKind::Memory)
        };
        Self {
            trigger,
            principal: owner,
            request: None,
            fired: Fired::new(),
        }
    }
}

/// Who is at the door, and with which proposal; or the answer to somebody who has no business here.
pub(super) fn hear(
    visitor: &Visitor,
    bundle: &Bundle,
    callers: &Callers,
    id: &str,
    now: Now,
) -> Result<Proposal, Problem> {
    if visitor.wants.as_ref().is_some_and(|wants| wants != id) {
        let problem = Problem::new(421, "wrong_object", "Another object lives here");
        return Err(problem.with_detail(format!("`{id}` lives here")));
    }
    if !bundle.manifest.triggers.request {
        return Err(Problem::new(503, "asleep", "The object sleeps")
            .with_detail("requests do not wake it; it wakes for what its bundle declares"));
    }
    let caller = match &visitor.authorization {
        Some(header) if !callers.is_empty() => callers.verify(header, now).map_err(|error| {
            Problem::new(401, "invalid_token", "The caller's token is not valid")
                .with_detail(error.to_string())
        })?,
        _ => Arc::default(),
    };
    Ok(Proposal {
        trigger: Trigger::new(TriggerKind::Request),
        principal: Principal::Caller(Box::new(Arc::unwrap_or_clone(caller))),
        request: Some(visitor.request.clone()),
        fired: Fired::new(),
    })
}

/// A sleeping object, open for writing.
pub(super) struct Asleep {
    pub(super) writer: Writer,
    bundle: Arc<Bundle>,
    ratchet: Ratchet,
    refusals: Refusals,
    host: Host,
}

impl Asleep {
    /// The object, which nobody runs.
    pub(super) fn new(
        writer: Writer,
        bundle: Arc<Bundle>,
        host: Host,
        reading: Reading,
    ) -> anyhow::Result<Self> {
        sleeping::settle_crash(&writer, reading.wall)?;
        let at = writer.published().head().at;
        Ok(Self {
            ratchet: Ratchet::new(at),
            refusals: Refusals::default(),
            writer,
            bundle,
            host,
        })
    }

    /// The time that decisions use.
    pub(super) fn now(&mut self, reading: Reading) -> Now {
        self.ratchet.observe(reading)
    }

    /// Decides `wake`, and for a request `admit` as well; the refusal, or the inputs to launch with.
    pub(super) fn decide(&mut self, proposal: &Proposal, reading: Reading) -> Verdict {
        let mut inputs = Inputs::new(self.now(reading), proposal.principal.clone());
        inputs.host = self.host.clone();
        inputs.trigger = Some(proposal.trigger.clone());
        inputs.request.clone_from(&proposal.request);
        if self.bundle.manifest.witness == Witness::Required {
            inputs.standing.witness = Witnessed::Missing;
        }
        let state = self.writer.published();
        let view = View::new(&state, &self.bundle.rules);
        let verdict = decide(view, Action::Wake, state.head().object, inputs.clone());
        match verdict {
            Verdict::Permit(permit, decision) if proposal.request.is_some() => {
                match refused_admission(view, inputs) {
                    Some(refusal) => Verdict::Refuse(refusal),
                    None => Verdict::Permit(permit, decision),
                }
            }
            verdict => verdict,
        }
    }

    /// Takes note of a refusal; records that are due now are made durable and returned.
    pub(super) fn refused(
        &mut self,
        decision: Decision,
        fired: Fired,
        reading: Reading,
    ) -> anyhow::Result<Vec<Refused>> {
        self.refusals.add(decision, reading.wall);
        self.record_refusals(fired, reading, false)
    }

    /// Records counted refusals that are due, or all.
    pub(super) fn record_refusals(
        &mut self,
        mut fired: Fired,
        reading: Reading,
        all: bool,
    ) -> anyhow::Result<Vec<Refused>> {
        let at = self.now(reading).at;
        let mut recorded = Vec::new();
        for mut refused in self.refusals.take(reading.wall, all) {
            "door".clone_into(&mut refused.at);
            refused.fired = std::mem::take(&mut fired);
            sleeping::record(&self.writer, Body::Refused(Box::new(refused.clone())), at)?;
            recorded.push(refused);
        }
        if !fired.is_empty() {
            // A repeated refusal is only counted, but its timer must not come due again.
            let seal = suijuris_core::lineage::Seal {
                fired,
                admitted: Vec::new(),
            };
            sleeping::record(&self.writer, Body::Seal(seal), at)?;
        }
        Ok(recorded)
    }

    /// An owner's write.
    pub(super) fn write(&mut self, patch: &Patch, reading: Reading) -> Result<Written, sleeping::Error> {
        let owner = Principal::Controller(self.look(|state| state.head().controllers.clone()));
        let now = self.now(reading);
        sleeping::write(&self.writer, &self.bundle, owner, self.host.clone(), now, patch)
    }

    /// Looks at the state.
    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.writer.published())
    }

    /// The bundle in force.
    pub(super) fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The problem document of a refused proposal.
    pub(super) fn problem(&self, decision: &Decision) -> Problem {
        verdict::problem(decision, &self.writer.published().head().object.to_string())
    }
}

fn refused_admission(view: View<'_>, inputs: Inputs) -> Option<Box<Decision>> {
    let decision = foresee(view, Action::Admit, inputs);
    (decision.outcome != Outcome::Permit).then(|| Box::new(decision))
}
