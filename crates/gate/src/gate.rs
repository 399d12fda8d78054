//! Accepting connections and what they share.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::accept::{accept, turn_away};
use crate::buffer::{FreeList, Inbound, Loan, Outbound, Rooms};
use crate::control::{Control, Elapsed, Phase, Timer};
use crate::cors::Cors;
use crate::forward::{Forwarding, Origin};
use crate::handoff::{Client, Handoff};
use crate::head::{HTTP2_PREFACE, RequestHead};
use crate::http1::{self, End};
use crate::limits::{LINGER_BYTES, Limits};
use crate::own::{Own, OwnAsk};
use crate::refusal::Refusal;
use crate::routing::Later;
use crate::seats::{Seat, Seats};
use crate::stream::Stream;
use crate::traffic::{Open, Traffic};
use crate::upstream::{Pool, Upstream};
use crate::{Admission, Authorizer, Peer, fd_passing, http2, tunnel};

/// What the workload speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.x; clients may speak HTTP/1.x or cleartext HTTP/2.
    Http,
    /// Cleartext HTTP/2 with prior knowledge (gRPC); clients must speak it too.
    H2c,
    /// Any byte stream, decided at connect.
    Tcp,
    /// Any byte stream; the workload gets the client's socket itself, as [`Gate::new`] says.
    FdPassing,
}

/// Why serving could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener is unusable.
    #[error("the gate's listener cannot be used: pass a bound, listening TCP socket")]
    Listener(#[source] io::Error),
    /// Connections can be handed over through a Unix socket only, and some Unix sockets for nothing else.
    #[error(
        "passing connections on needs a unix socket, not a TCP address, as upstream; and other protocols no given socket"
    )]
    FdPassing,
    /// No descriptor is left to watch handed-over connections with.
    #[error("handed-over connections cannot be watched: raise the limit of open files")]
    Watch(#[source] io::Error),
}

/// A gate in front of one workload.
#[derive(Debug)]
pub struct Gate<A> {
    shared: Rc<Shared<A>>,
    keeps_backlog: bool,
}

/// What all connections of a gate share.
#[derive(Debug)]
pub(crate) struct Shared<A> {
    pub(crate) authorizer: A,
    pub(crate) cors: Cors,
    pub(crate) protocol: Protocol,
    pub(crate) limits: Limits,
    pub(crate) control: Control,
    pub(crate) traffic: Rc<Traffic>,
    pub(crate) seats: Rc<Seats>,
    /// Counts what connections begin and end.
    moments: Rc<Cell<u64>>,
    pub(crate) pool: Pool,
    pub(crate) clients: http2::Clients,
    pub(crate) fd_passing: fd_passing::Channel,
    heads: FreeList<Inbound>,
    rooms: Rooms,
    pub(crate) outbound: FreeList<Outbound>,
}

impl<A: Authorizer> Gate<A> {
    /// A gate that asks `authorizer` and forwards to `upstream`.
    ///
    /// With [`Protocol::FdPassing`] each admitted connection is sent to the workload as a descriptor (`SCM_RIGHTS`) in
    /// one message over a `SOCK_SEQPACKET` Unix socket, `upstream`; the message's bytes are the client's address, a
    /// line feed, and what was read before. The gate keeps a second descriptor, to cut with: a workload must
    /// therefore `shutdown` a connection, not only close it.
    #[must_use]
    pub fn new(
        authorizer: A,
        upstream: Upstream,
        protocol: Protocol,
        limits: Limits,
        control: Control,
    ) -> Self {
        let shared = Shared {
            authorizer,
            cors: Cors::default(),
            protocol,
            control: control.clone(),
            traffic: Rc::default(),
            seats: Rc::new(Seats::new(limits.max_connections)),
            moments: Rc::default(),
            clients: http2::Clients::default(),
            fd_passing: fd_passing::Channel::new(&upstream),
            pool: Pool::new(upstream, &limits, control),
            limits,
            heads: FreeList::default(),
            rooms: Rooms::default(),
            outbound: FreeList::default(),
        };
        Self {
            shared: Rc::new(shared),
            keeps_backlog: false,
        }
    }

    /// While draining, leaves new connections where they are, in the listener's backlog and in the queue of those
    /// handed over, for a process that accepts from the same socket next. Without it they are taken and refused.
    #[must_use]
    pub fn keeping_backlog(mut self) -> Self {
        self.keeps_backlog = true;
        self
    }

    /// Lets pages of other origins read the gate's own answers.
    #[must_use]
    pub fn readable_by(mut self, cors: Cors) -> Self {
        // Nobody shares it before it serves.
        if let Some(shared) = Rc::get_mut(&mut self.shared) {
            shared.cors = cors;
        }
        self
    }

    pub(crate) const fn shared(&self) -> &Rc<Shared<A>> {
        &self.shared
    }

    /// The gate's counters.
    #[must_use]
    pub fn traffic(&self) -> Rc<Traffic> {
        Rc::clone(&self.shared.traffic)
    }

    /// Serves until the phase is [`Phase::Closed`]. Needs a current-thread runtime with I/O and time, and a
    /// [`tokio::task::LocalSet`]: connections are tasks of it. Whoever has nothing else of weight in the set's main future, such
    /// as a select over the whole program, spares each request the polling of that.
    ///
    /// `listener` is put into non-blocking mode, for every process that shares it. Without one, all connections are handed
    /// over.
    ///
    /// Cancel safe: dropping the future closes every connection, as soon as the set is polled.
    ///
    /// # Errors
    /// [`ServeError`] before the first connection; later ones concern one connection and end there.
    pub async fn serve(
        &self,
        listener: impl Into<Option<std::net::TcpListener>>,
        handed_over: mpsc::Receiver<Handoff>,
    ) -> Result<(), ServeError> {
        let listen = |listener: std::net::TcpListener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listener = listener
            .into()
            .map(listen)
            .transpose()
            .map_err(ServeError::Listener)?;
        let mut watch = None;
        if self.shared.protocol == Protocol::FdPassing {
            let watching = self
                .shared
                .fd_passing
                .has_way()
                .then(|| self.shared.fd_passing.watch());
            watch = Some(
                watching
                    .ok_or(ServeError::FdPassing)?
                    .map_err(ServeError::Watch)?,
            );
        }
        let server = Server {
            gate: Rc::clone(&self.shared),
            keeps_backlog: self.keeps_backlog,
            connections: JoinSet::new(),
            cuts: self.shared.control.cuts(),
            lingers: false,
        };
        server.run(listener, handed_over, watch).await;
        Ok(())
    }
}

/// The accept loop and the connections it owns.
struct Server<A> {
    gate: Rc<Shared<A>>,
    keeps_backlog: bool,
    connections: JoinSet<()>,
    cuts: u64,
    /// The drain is over, and who has been told so has a moment to read it.
    lingers: bool,
}

impl<A: Authorizer> Server<A> {
    async fn run(
        mut self,
        listener: Option<TcpListener>,
        mut handed_over: mpsc::Receiver<Handoff>,
        watch: Option<impl Future<Output = ()> + 'static>,
    ) {
        let control = self.gate.control.clone();
        let timer = control.timer();
        let mut background = JoinSet::new();
        background.spawn_local(control.clone().sweep());
        background.spawn_local(expire_and_trim(Rc::clone(&self.gate)));
        watch.map(|watch| background.spawn_local(watch));
        let mut round = control.round();
        self.on_change(Phase::Holding, &timer);
        while control.phase() != Phase::Closed {
            let phase = control.phase();
            let accepts = phase < Phase::LastTurn || !self.keeps_backlog;
            tokio::select! {
                (stream, peer) = accept(listener.as_ref()), if accepts => self.open(Stream::Tcp(stream), peer, Vec::new(), None),
                Some(handoff) = handed_over.recv(), if accepts => self.take_over(handoff),
                Some(_ended) = self.connections.join_next() => {}
                changed = changed(&control, round, &timer) => {
                    match changed {
                        Ok(()) => self.on_change(phase, &timer),
                        Err(Elapsed) => self.end_drain(&timer),
                    }
                    round = control.round();
                }
            }
            if self.cuts != control.cuts() {
                self.cuts = control.cuts();
                self.cut();
            }
        }
        self.cut();
        while self.connections.join_next().await.is_some() {}
    }

    fn on_change(&mut self, before: Phase, timer: &Timer) {
        match self.gate.control.phase() {
            Phase::Draining if before < Phase::Draining => timer.arm(self.gate.limits.drain_ms),
            Phase::LastTurn | Phase::Draining | Phase::Closed => {}
            Phase::Holding | Phase::Open => {
                self.lingers = false;
                timer.arm(u64::MAX);
            }
        }
    }

    /// What did not finish in time is told so where no answer has begun, and cut a moment later.
    fn end_drain(&mut self, timer: &Timer) {
        if self.lingers {
            timer.arm(u64::MAX);
            return self.cut();
        }
        self.lingers = true;
        timer.arm(self.gate.limits.linger_ms);
        self.gate.control.end_drain();
    }

    fn cut(&mut self) {
        self.connections.abort_all();
        self.gate.close_idle();
    }

    fn take_over(&mut self, handoff: Handoff) {
        if !handoff.claim.make() {
            return;
        }
        if let Some((stream, peer)) = handoff.stream.open() {
            self.open(stream, peer, handoff.prefix, handoff.client);
        }
    }

    fn open(&mut self, stream: Stream, peer: SocketAddr, prefix: Vec<u8>, client: Option<Box<Client>>) {
        let peer = client.as_ref().map_or(peer, |client| client.address);
        let Some(place) = self.gate.place(peer) else {
            self.gate.traffic.count_refused();
            return turn_away(stream, self.gate.protocol);
        };
        if let Stream::Tcp(socket) = &stream {
            // Only latency is lost where it cannot be set.
            let _slower = socket.set_nodelay(true);
        }
        let (number, origin) = (place.seat.number(), Origin::new(peer, client));
        let ends =
            self.connections
                .spawn_local(connection(Rc::clone(&self.gate), stream, origin, prefix, place));
        self.gate.seats.ends_by(number, ends);
    }
}

impl<A> Drop for Server<A> {
    fn drop(&mut self) {
        self.gate.close_idle();
    }
}

/// Cleans up what no connection would come by to clean.
async fn expire_and_trim<A: Authorizer>(gate: Rc<Shared<A>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        gate.pool.expire();
        gate.clients.expire(gate.control.now_ms());
        if gate.traffic.in_flight() == 0 {
            gate.heads.trim();
            gate.rooms.trim();
            gate.outbound.trim();
        }
    }
}

async fn changed(control: &Control, round: u64, timer: &Timer) -> Result<(), Elapsed> {
    let cuts = control.cuts();
    timer
        .until(|_| ready_if(control.round() != round || control.cuts() != cuts))
        .await
}

fn ready_if(condition: bool) -> std::task::Poll<()> {
    if condition {
        std::task::Poll::Ready(())
    } else {
        std::task::Poll::Pending
    }
}

pub(crate) async fn connection<A: Authorizer>(
    gate: Rc<Shared<A>>,
    stream: Stream,
    origin: Origin,
    prefix: Vec<u8>,
    place: Place,
) {
    let usage = &place.seat.usage;
    let raw = matches!(gate.protocol, Protocol::Tcp | Protocol::FdPassing);
    let _busy = raw.then(|| usage.begin());
    if gate.protocol == Protocol::FdPassing {
        return match stream {
            Stream::Tcp(stream) => fd_passing::serve(&gate, stream, &origin, &prefix).await,
            // The workload is given sockets, and this is none.
            Stream::Unix(_) | Stream::Bytes(_) => gate.traffic.count_refused(),
        };
    }
    let mut guard = Guard {
        stream: Some(stream),
        control: gate.control.clone(),
        raw,
    };
    let Some(stream) = guard.stream.as_mut() else {
        return;
    };
    let origin = Rc::new(origin);
    let end = if gate.protocol == Protocol::Tcp {
        if tunnel::serve(&gate, stream, &origin, &prefix).await {
            End::Close
        } else {
            End::Reset
        }
    } else if prefix.starts_with(HTTP2_PREFACE) {
        End::Http2(prefix.into())
    } else {
        Box::pin(http1::serve(&gate, stream, &origin, usage, &prefix)).await
    };
    match end {
        End::Reset => {
            // It broke: nobody may take it for whole.
            guard.raw = false;
            return;
        }
        End::Close => stream.close().await,
        End::Linger => {
            let timer = gate.control.timer();
            tunnel::linger(stream, &timer, gate.limits.linger_ms, LINGER_BYTES).await;
        }
        End::Http2(read) => {
            if let Some(stream) = guard.stream.take() {
                http2::serve(&gate, stream, origin, usage, read).await;
            }
        }
    }
    guard.stream = None;
}

/// A connection's place among the others.
pub(crate) struct Place {
    _open: Open,
    seat: Seat,
}

/// Resets a connection that is dropped in the middle of something, so that its end cannot be taken for a whole. A raw connection that
/// the object's sleep ends is ended in order: what the workload wrote goes out first, and its protocol says what is whole.
struct Guard {
    stream: Option<Stream>,
    control: Control,
    raw: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        if self.raw && self.control.drains() {
            stream.end();
        } else {
            stream.reset_on_close();
        }
    }
}

/// What becomes of one request.
#[derive(Debug)]
pub(crate) enum Judged<P> {
    Forward(P),
    Hold,
    Refuse(Box<Refusal>),
    /// The object answers itself.
    Own(OwnAsk),
    Later(Later<P>),
    Answer(Box<http::Response<bytes::Bytes>>),
}

impl<A: Authorizer> Shared<A> {
    /// The client's side of a connection that becomes active.
    pub(crate) fn inbound(&self) -> Loan<Inbound> {
        self.heads.loan_with(&self.rooms)
    }

    /// The verdict on a request, as far as the phase lets one be asked for.
    pub(crate) fn admit(&self, head: &RequestHead<'_>, out: &mut Forwarding) -> Judged<A::Permit> {
        let admission = if head.is_reserved() && !A::EDGE {
            // The object answers while it drains, too: a write counts as long as it has not gone to sleep.
            match self.control.phase() {
                Phase::Holding => Admission::Hold,
                _ => match self.authorizer.own(head) {
                    Own::Nothing => Admission::Refuse(Box::new(Refusal::reserved())),
                    Own::Hold => Admission::Hold,
                    Own::Refuse(refusal) => Admission::Refuse(refusal),
                    Own::Ask(ask) => return Judged::Own(ask),
                },
            }
        } else {
            self.by_phase(|| self.authorizer.admit(head, out))
        };
        match admission {
            Admission::Forward(permit) => Judged::Forward(permit),
            Admission::Hold => Judged::Hold,
            Admission::Refuse(refusal) => Judged::Refuse(refusal),
            Admission::Later(later) => Judged::Later(later),
            Admission::Answer(answer) => Judged::Answer(answer),
        }
    }

    /// The verdict on a raw connection.
    pub(crate) fn connect(&self, peer: Peer<'_>) -> Admission<A::Permit> {
        self.by_phase(|| self.authorizer.connect(peer))
    }

    /// The workload could not be reached: the owner is told why, the caller that it may ask again.
    pub(crate) fn unreachable(&self, why: &io::Error) -> Refusal {
        if self.control.phase() != Phase::Open {
            return Refusal::cut_short();
        }
        self.unanswered("upstream_unreachable", why);
        Refusal::upstream_unreachable()
    }

    /// The workload gave no valid answer: the owner is told why, the caller that it failed.
    pub(crate) fn failed(&self, why: &dyn std::fmt::Display) -> Refusal {
        if self.control.phase() != Phase::Open {
            // Its object ended it: the workload did nothing wrong.
            return Refusal::cut_short();
        }
        self.unanswered("upstream_failed", why);
        Refusal::upstream_failed()
    }

    /// The head of the workload's response is above the bound: both are told the bound.
    pub(crate) fn response_head_too_large(&self) -> Refusal {
        let refusal = Refusal::upstream_head_too_large();
        self.unanswered("upstream_head_too_large", &refusal.problem.detail);
        refusal
    }

    fn unanswered(&self, code: &'static str, why: &dyn std::fmt::Display) {
        self.authorizer.unanswered(code, why);
    }

    fn by_phase(&self, ask: impl FnOnce() -> Admission<A::Permit>) -> Admission<A::Permit> {
        match self.control.phase() {
            Phase::Holding => Admission::Hold,
            Phase::Open | Phase::LastTurn if self.traffic.in_flight() >= self.limits.max_in_flight => {
                Admission::Refuse(Box::new(Refusal::too_many_requests()))
            }
            Phase::Open | Phase::LastTurn => ask(),
            Phase::Draining | Phase::Closed => Admission::Refuse(Box::new(Refusal::draining())),
        }
    }

    /// Waits until asking again makes sense. The bound in time starts with the first wait of a request.
    pub(crate) async fn hold(&self, held: &mut Option<Open>, timer: &Timer) -> Result<(), Box<Refusal>> {
        if held.is_none() {
            if self.traffic.held() >= self.limits.max_held {
                return Err(Box::new(Refusal::held_full()));
            }
            *held = Some(self.traffic.hold());
            timer.arm(self.limits.hold_ms);
        }
        let round = self.control.round();
        let _waiting = (self.control.phase() == Phase::Holding).then(|| self.traffic.wait());
        let asked = timer.until(|_| ready_if(self.control.round() != round)).await;
        asked.map_err(|Elapsed| Box::new(Refusal::hold_timeout()))
    }
}

impl<A> Shared<A> {
    /// A place for one more connection, if there is one.
    pub(crate) fn place(&self, peer: SocketAddr) -> Option<Place> {
        let seat = self.seats.take(peer.ip(), &self.moments)?;
        let _open = self.traffic.connection();
        Some(Place { _open, seat })
    }

    /// Closes connections to the workload that serve nobody at present, and hyper's.
    fn close_idle(&self) {
        self.pool.clear();
        self.clients.clear();
    }
}
