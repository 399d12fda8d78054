//! hyper's connections to the workload, and sending one admitted request through them.

use std::cell::RefCell;
use std::pin::pin;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Tasks;
use super::body::{Meter, Sent};
use crate::Authorizer;
use crate::control::{Elapsed, Timer};
use crate::gate::{Protocol, Shared};
use crate::refusal::Refusal;

/// Unused HTTP/1.1 connections kept for HTTP/2 clients.
const IDLE_CLIENTS: usize = 64;

/// hyper's connections to the workload.
#[derive(Default)]
pub(crate) struct Clients {
    http1: RefCell<Vec<http1::SendRequest<Sent>>>,
    http2: RefCell<Option<http2::SendRequest<Sent>>>,
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
        self.http2.take();
        self.tasks.0.borrow_mut().abort_all();
    }

    /// Forgets connections that have ended.
    pub(crate) fn expire(&self) {
        self.http1.borrow_mut().retain(|client| !client.is_closed());
        while self.tasks.0.borrow_mut().try_join_next().is_some() {}
    }

    fn spawn(&self, connection: impl Future<Output = ()> + 'static) {
        hyper::rt::Executor::execute(&self.tasks, connection);
    }

    fn idle(&self) -> Option<http1::SendRequest<Sent>> {
        let mut clients = self.http1.borrow_mut();
        clients.retain(|client| !client.is_closed());
        let ready = clients.iter().rposition(http1::SendRequest::is_ready)?;
        Some(clients.swap_remove(ready))
    }

    fn keep(&self, client: http1::SendRequest<Sent>) {
        let mut clients = self.http1.borrow_mut();
        if clients.len() < IDLE_CLIENTS {
            clients.push(client);
        }
    }
}

/// Sends one admitted request and waits for the response's head.
pub(super) async fn send<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
    request: http::Request<Sent>,
    timer: &Timer,
    meter: &Meter,
) -> Result<http::Response<Incoming>, Box<Refusal>> {
    let mut sending = pin!(async {
        match gate.protocol {
            Protocol::H2c => send2(gate, permit, request).await,
            _ => send1(gate, permit, request).await,
        }
    });
    let bound_ms = gate.limits.response_ms;
    loop {
        let polled = |cx: &mut std::task::Context<'_>| match sending.as_mut().poll(cx) {
            std::task::Poll::Pending if gate.control.is_drained() => {
                std::task::Poll::Ready(Err(Box::new(Refusal::cut_short())))
            }
            polled => polled,
        };
        match timer.within(bound_ms, polled).await {
            Ok(response) => return response,
            // The bound counts from the request's end.
            Err(Elapsed) if meter.silent_ms() < bound_ms => {}
            Err(Elapsed) => return Err(Box::new(Refusal::upstream_timeout())),
        }
    }
}

async fn send1<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
    mut request: http::Request<Sent>,
) -> Result<http::Response<Incoming>, Box<Refusal>> {
    if let Some(mut client) = gate.clients.idle() {
        match client.try_send_request(request).await {
            Ok(response) => {
                gate.clients.keep(client);
                return Ok(response);
            }
            // Closed before the request left: it goes on a new connection, once.
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(failed(gate, &error.into_error())),
            },
        }
    }
    let stream = gate
        .pool
        .connect(permit)
        .await
        .map_err(|error| Box::new(gate.unreachable(&error)))?
        .stream;
    let (mut client, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(gate, &error))?;
    gate.clients.spawn(async move {
        // The request's own future reports what goes wrong.
        let _reported = connection.await;
    });
    let response = client
        .send_request(request)
        .await
        .map_err(|error| failed(gate, &error))?;
    gate.clients.keep(client);
    Ok(response)
}

async fn send2<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
    request: http::Request<Sent>,
) -> Result<http::Response<Incoming>, Box<Refusal>> {
    let known = gate
        .clients
        .http2
        .borrow()
        .as_ref()
        .filter(|client| !client.is_closed())
        .cloned();
    let mut client = match known {
        Some(client) => client,
        None => connect2(gate, permit).await?,
    };
    client.ready().await.map_err(|error| failed(gate, &error))?;
    client
        .send_request(request)
        .await
        .map_err(|error| failed(gate, &error))
}

async fn connect2<A: Authorizer>(
    gate: &Shared<A>,
    permit: &A::Permit,
) -> Result<http2::SendRequest<Sent>, Box<Refusal>> {
    let stream = gate
        .pool
        .connect(permit)
        .await
        .map_err(|error| Box::new(gate.unreachable(&error)))?
        .stream;
    let handshake = http2::Builder::new(gate.clients.tasks.clone())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(stream));
    let (client, connection) = handshake.await.map_err(|error| failed(gate, &error))?;
    gate.clients.spawn(async move {
        // The requests' own futures report what goes wrong.
        let _reported = connection.await;
    });
    *gate.clients.http2.borrow_mut() = Some(client.clone());
    Ok(client)
}

fn failed<A: Authorizer>(gate: &Shared<A>, error: &hyper::Error) -> Box<Refusal> {
    let why = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Box::new(gate.failed(&why))
}
