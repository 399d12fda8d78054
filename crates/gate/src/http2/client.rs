//! hyper's connections to the workload, and sending one admitted request through them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::pin;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Tasks;
use super::body::{Meter, Sent};
use crate::Authorizer;
use crate::control::{Elapsed, Timer};
use crate::gate::Shared;
use crate::limits::{RESPONSE_HEAD_BYTES, RESPONSE_HEADERS};
use crate::refusal::Refusal;

/// A response head of HTTP/2, which counts 32 bytes more for each field: far enough above [`RESPONSE_HEAD_BYTES`] that it is
/// read and answered by the bound that holds for all.
const HEADER_LIST_BYTES: u32 = 4 * 64 * 1024;
/// Unused HTTP/1.1 connections kept for HTTP/2 clients.
const IDLE_CLIENTS: usize = 64;

/// Connections that lead to one place: at an edge its target.
type Place = Option<u64>;

/// An unused connection, and until when it is kept, by the gate's clock.
type Unused = (http1::SendRequest<Sent>, u64);

/// hyper's connections to workloads.
#[derive(Default)]
pub(crate) struct Clients {
    http1: RefCell<HashMap<Place, Vec<Unused>>>,
    http2: RefCell<HashMap<Place, http2::SendRequest<Sent>>>,
    tasks: Tasks,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients")
            .field("http1", &self.http1.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Clients {
    /// Closes everything.
    pub(crate) fn clear(&self) {
        self.http1.borrow_mut().clear();
        self.http2.borrow_mut().clear();
        self.tasks.0.borrow_mut().abort_all();
    }

    /// Forgets connections that have ended or are too old.
    pub(crate) fn expire(&self, now_ms: u64) {
        self.http1.borrow_mut().retain(|_, clients| {
            clients.retain(|(client, until_ms)| !client.is_closed() && *until_ms >= now_ms);
            !clients.is_empty()
        });
        self.http2.borrow_mut().retain(|_, client| !client.is_closed());
        while self.tasks.0.borrow_mut().try_join_next().is_some() {}
    }

    fn spawn(&self, connection: impl Future<Output = ()> + 'static) {
        hyper::rt::Executor::execute(&self.tasks, connection);
    }

    fn idle(&self, place: Place) -> Option<http1::SendRequest<Sent>> {
        let mut all = self.http1.borrow_mut();
        let clients = all.get_mut(&place)?;
        clients.retain(|(client, _)| !client.is_closed());
        let ready = clients.iter().rposition(|(client, _)| client.is_ready())?;
        Some(clients.swap_remove(ready).0)
    }

    fn keep(&self, place: Place, client: http1::SendRequest<Sent>, until_ms: u64) {
        let mut all = self.http1.borrow_mut();
        let clients = all.entry(place).or_default();
        if clients.len() < IDLE_CLIENTS {
            clients.push((client, until_ms));
        }
    }
}

/// Why there is no response's head.
pub(super) enum Unsent {
    /// Nobody listens.
    Unreachable(io::Error),
    /// The connection failed before a response began.
    Silent(hyper::Error),
    /// This is the answer.
    Refused(Box<Refusal>),
}

/// Sends one admitted request and waits for the response's head.
pub(super) async fn send<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
    request: http::Request<Sent>,
    timer: &Timer,
    meter: &Meter,
) -> Result<http::Response<Incoming>, Unsent> {
    let mut sending = pin!(async {
        if gate.speaks_h2c(permit) {
            send2(gate, permit, request).await
        } else {
            send1(gate, permit, request).await
        }
    });
    let bound_ms = gate.limits.response_ms;
    loop {
        let polled = |cx: &mut std::task::Context<'_>| match sending.as_mut().poll(cx) {
            std::task::Poll::Pending if gate.control.is_drained() => {
                std::task::Poll::Ready(Err(Unsent::Refused(Box::new(Refusal::cut_short()))))
            }
            polled => polled,
        };
        match timer.within(bound_ms, polled).await {
            Ok(response) => return response,
            // The bound counts from the request's end.
            Err(Elapsed) if meter.silent_ms() < bound_ms => {}
            Err(Elapsed) => return Err(Unsent::Refused(Box::new(Refusal::upstream_timeout()))),
        }
    }
}

/// Where the connections of this permit lead, and how long unused ones are kept.
fn place<A: Authorizer>(gate: &Shared<A>, permit: &A::Permit) -> (Place, u64) {
    match gate.route(permit) {
        None => (None, gate.limits.upstream_idle_ms),
        Some(route) => (Some(route.target()), route.idle_ms()),
    }
}

async fn send1<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
    mut request: http::Request<Sent>,
) -> Result<http::Response<Incoming>, Unsent> {
    let (place, idle_ms) = place(gate, permit);
    let keep = |client| {
        if idle_ms > 0 {
            let until_ms = gate.control.now_ms().saturating_add(idle_ms);
            gate.clients.keep(place, client, until_ms);
        }
    };
    if let Some(mut client) = gate.clients.idle(place) {
        match client.try_send_request(request).await {
            Ok(response) => {
                keep(client);
                return Ok(response);
            }
            // Closed before the request left: it goes on a new connection, once.
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(failed(gate, error.into_error())),
            },
        }
    }
    let lease = gate.lease(permit, true).await.map_err(Unsent::Unreachable)?;
    let (mut client, connection) = http1::Builder::new()
        .max_buf_size(RESPONSE_HEAD_BYTES)
        .max_headers(RESPONSE_HEADERS)
        .handshake(TokioIo::new(lease.stream))
        .await
        .map_err(|error| failed(gate, error))?;
    gate.clients.spawn(async move {
        // The request's own future reports what goes wrong.
        let _reported = connection.await;
    });
    let response = client
        .send_request(request)
        .await
        .map_err(|error| failed(gate, error))?;
    keep(client);
    Ok(response)
}

async fn send2<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
    request: http::Request<Sent>,
) -> Result<http::Response<Incoming>, Unsent> {
    let (place, _) = place(gate, permit);
    let known = gate
        .clients
        .http2
        .borrow()
        .get(&place)
        .filter(|client| !client.is_closed())
        .cloned();
    let mut client = match known {
        Some(client) => client,
        None => connect2(gate, permit, place).await?,
    };
    client.ready().await.map_err(|error| failed(gate, error))?;
    client
        .send_request(request)
        .await
        .map_err(|error| failed(gate, error))
}

async fn connect2<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
    place: Place,
) -> Result<http2::SendRequest<Sent>, Unsent> {
    let lease = gate.lease(permit, true).await.map_err(Unsent::Unreachable)?;
    let handshake = http2::Builder::new(gate.clients.tasks.clone())
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST_BYTES)
        .handshake(TokioIo::new(lease.stream));
    let (client, connection) = handshake.await.map_err(|error| failed(gate, error))?;
    gate.clients.spawn(async move {
        // The requests' own futures report what goes wrong.
        let _reported = connection.await;
    });
    gate.clients.http2.borrow_mut().insert(place, client.clone());
    Ok(client)
}

fn failed<A: Authorizer>(gate: &Shared<A>, error: hyper::Error) -> Unsent {
    if error.is_parse_too_large() {
        return Unsent::Refused(Box::new(gate.response_head_too_large()));
    }
    Unsent::Silent(error)
}

/// What the client is told of a response that never came.
pub(super) fn told<A: Authorizer>(gate: &Shared<A>, unsent: Unsent) -> Box<Refusal> {
    match unsent {
        Unsent::Unreachable(error) => Box::new(gate.unreachable(&error)),
        Unsent::Refused(refusal) => refusal,
        Unsent::Silent(error) => {
            let why = match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            Box::new(gate.failed(&why))
        }
    }
}
