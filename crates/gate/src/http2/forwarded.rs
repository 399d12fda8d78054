//! One admitted request of HTTP/2: sent to where its permit leads, and elsewhere where the authorizer says so and the client has
//! seen nothing of an answer.

use std::rc::Rc;

use http::header;
use http_body_util::{BodyExt as _, Either, Limited};
use hyper::body::Incoming;

use super::body::{Held, Meter, Relayed, Source};
use super::client::{Unsent, send, told};
use super::{Answer, append, head, outbound};
use crate::Authorizer;
use crate::control::{Elapsed, Timer};
use crate::forward::{Forwarding, Origin};
use crate::gate::Shared;
use crate::head::Fields;
use crate::refusal::Refusal;
use crate::response;
use crate::routing::{AnswerHead, Answered, Why};

/// A request as it came, and as it goes on.
pub(super) struct Asked<'x> {
    pub(super) parts: &'x http::request::Parts,
    pub(super) origin: &'x Origin,
    /// Made anew for each attempt.
    pub(super) outbound: Option<http::request::Parts>,
    pub(super) body: Rc<Source>,
    pub(super) meter: Meter,
}

/// Sends the request until it is answered, or nowhere else is left.
pub(super) async fn forwarded<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    mut asked: Asked<'_>,
    mut held: Held<A::Permit>,
    timer: Timer,
) -> Result<Answer<A::Permit>, Box<Refusal>> {
    loop {
        let Some(outgoing) = asked.outbound.take() else {
            return Err(nothing());
        };
        let request = http::Request::from_parts(outgoing, asked.body.begin());
        let sent = send(gate, &held.permit, request, &timer, &asked.meter).await;
        let (unsent, taken) = match sent {
            Ok(response) => {
                let mut edited = Forwarding::default();
                let seen = AnswerHead {
                    status: response.status().as_u16(),
                    fields: Fields::Http2(response.headers()),
                };
                match gate.answered(&held.permit, &seen, &mut edited) {
                    Answered::Relay => return relay(gate, response, &edited, held, timer, asked.meter),
                    Answered::Take { max_body } => (None, take(gate, response, max_body, &timer).await?),
                }
            }
            Err(unsent) => (Some(unsent), Vec::new()),
        };
        let why = match &unsent {
            None => Why::Taken(taken),
            Some(Unsent::Unreachable(error)) => Why::Unreachable(error),
            Some(Unsent::Silent(_)) => Why::Silent,
            Some(Unsent::Refused(_)) => return Err(unsent.map_or_else(nothing, |unsent| told(gate, unsent))),
        };
        let Held {
            permit,
            _admitted,
            _stream,
            underway,
        } = held;
        let Some(later) = gate.elsewhere(permit, why, asked.body.is_repeatable()) else {
            return Err(unsent.map_or_else(nothing, |unsent| told(gate, unsent)));
        };
        let (permit, added) = gate.later(later, &timer).await?;
        let rejected = |reject| Box::new(Refusal::from(reject));
        let head = head(asked.parts, asked.origin.peer, gate.limits.headers).map_err(rejected)?;
        let next = outbound(gate, asked.parts, (&head, &permit), &added, asked.origin);
        asked.outbound = Some(next.map_err(rejected)?);
        held = Held {
            permit,
            _admitted,
            _stream,
            underway,
        };
    }
}

/// An answer was taken, and nothing takes its place.
fn nothing() -> Box<Refusal> {
    Box::new(Refusal::upstream_failed())
}

/// The body of an answer that the client does not get.
async fn take<A: Authorizer>(
    gate: &Shared<A>,
    response: http::Response<Incoming>,
    max: usize,
    timer: &Timer,
) -> Result<Vec<u8>, Box<Refusal>> {
    if max == 0 {
        return Ok(Vec::new());
    }
    let mut read = std::pin::pin!(Limited::new(response.into_body(), max).collect());
    let read = timer
        .within(gate.limits.body_idle_ms, |cx| read.as_mut().poll(cx))
        .await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(_)) => Err(Box::new(
            gate.failed(&"the body of the answer is cut or too large"),
        )),
        Err(Elapsed) => Err(Box::new(Refusal::upstream_timeout())),
    }
}

/// The response, on its way to the client.
fn relay<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    response: http::Response<Incoming>,
    edited: &Forwarding,
    held: Held<A::Permit>,
    timer: Timer,
    meter: Meter,
) -> Result<Answer<A::Permit>, Box<Refusal>> {
    let (mut head, inner) = response.into_parts();
    for name in edited.hidden_in(&head.headers) {
        head.headers.remove(name);
    }
    if !response::fits(head.status, &head.headers) {
        return Err(Box::new(gate.response_head_too_large()));
    }
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TRAILER,
    ] {
        head.headers.remove(name);
    }
    head.headers.remove("keep-alive");
    head.headers.remove("proxy-connection");
    append(edited, &mut head.headers);
    head.version = http::Version::HTTP_2;
    if let Some(underway) = &held.underway {
        underway.answered(head.status.as_u16(), None);
    }
    let idle_ms = gate.limits.body_idle_ms;
    timer.arm(idle_ms);
    let body = Relayed {
        inner,
        timer,
        idle_ms,
        meter,
        trailers: gate.speaks_h2c(&held.permit),
        held,
    };
    Ok(http::Response::from_parts(head, Either::Right(body)))
}
