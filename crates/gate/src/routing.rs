//! What a gate asks at an edge, where more than one workload stands behind it: which one a request goes to, what becomes of a
//! workload's answer before the client sees it, and where a request goes next that had none.
//!
//! A gate in front of one workload uses nothing of this.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use crate::Authorizer;
use crate::control::{Elapsed, Timer};
use crate::forward::Forwarding;
use crate::gate::{Protocol, Shared};
use crate::head::Fields;
use crate::refusal::Refusal;
use crate::upstream::Lease;

/// A connection that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// Where an admitted request goes.
pub trait Route {
    /// Tells this target from all others: a connection to one serves no other.
    fn target(&self) -> u64;
    /// How long an unused connection is kept, milliseconds; 0: each exchange has one of its own.
    fn idle_ms(&self) -> u64;
    /// Whether HTTP/2 is spoken there; HTTP/1.1 otherwise.
    fn h2c(&self) -> bool;
    /// A new connection; the gate bounds it in time.
    fn connect(&self) -> Connecting;
}

/// What a verdict comes to that takes time.
pub type Verdict<P> = Result<(P, Forwarding), Box<Refusal>>;

/// A verdict that takes time: a machine starts, somebody is asked. It stays on the gate's thread, and is dropped where the
/// client leaves.
pub struct Later<P>(Pin<Box<dyn Future<Output = Verdict<P>>>>);

impl<P> Later<P> {
    /// The verdict of `future`, which must end; [`Limits::hold_ms`](crate::Limits::hold_ms) bounds it anyway.
    pub fn new(future: impl Future<Output = Verdict<P>> + 'static) -> Self {
        Self(Box::pin(future))
    }
}

impl<P> Future for Later<P> {
    type Output = Verdict<P>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<P> fmt::Debug for Later<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

/// The head of a workload's answer.
#[derive(Debug, Clone, Copy)]
pub struct AnswerHead<'a> {
    /// Its status.
    pub status: u16,
    pub(crate) fields: Fields<'a>,
}

impl<'a> AnswerHead<'a> {
    /// All fields as (name, value), in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.fields.iter()
    }

    /// The first value of `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut all = self.headers();
        all.find(|(sent, _)| sent.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The client gets it.
    Relay,
    /// The client gets nothing of it: its body is read, up to so many bytes, and the request goes elsewhere.
    Take {
        /// Bytes of its body at most; 0: none is read.
        max_body: usize,
    },
}

/// Why a request goes elsewhere.
#[derive(Debug)]
pub enum Why<'a> {
    /// Nobody listens: nothing was sent.
    Unreachable(&'a io::Error),
    /// The connection ended before the first byte of an answer.
    Silent,
    /// The answer was taken; its body, as far as it was asked for.
    Taken(Vec<u8>),
}

impl<A: Authorizer> Shared<A> {
    /// What an answer becomes.
    pub(crate) fn answered(
        &self,
        permit: &A::Permit,
        head: &AnswerHead<'_>,
        out: &mut Forwarding,
    ) -> Answered {
        if A::EDGE {
            self.authorizer.answered(permit, head, out)
        } else {
            Answered::Relay
        }
    }

    /// Where a request goes next, if anywhere.
    pub(crate) fn elsewhere(
        &self,
        permit: A::Permit,
        why: Why<'_>,
        repeatable: bool,
    ) -> Option<Later<A::Permit>> {
        A::EDGE.then(|| self.authorizer.elsewhere(permit, why, repeatable))?
    }

    /// Where it goes now.
    pub(crate) fn route<'p>(&self, permit: &'p A::Permit) -> Option<&'p dyn Route> {
        self.authorizer.route(permit)
    }

    /// Whether HTTP/2 is spoken where it goes.
    pub(crate) fn speaks_h2c(&self, permit: &A::Permit) -> bool {
        let own = self.protocol == Protocol::H2c;
        self.route(permit).map_or(own, Route::h2c)
    }

    /// A connection for what `permit` allows; a `fresh` one was never used.
    pub(crate) async fn lease(&self, permit: &A::Permit, fresh: bool) -> io::Result<Lease> {
        let route = self.route(permit);
        if fresh {
            return self.pool.connect(permit, route).await;
        }
        self.pool.lease(permit, route).await
    }

    /// Waits for a verdict that takes time, bounded like every hold.
    pub(crate) async fn later(&self, later: Later<A::Permit>, timer: &Timer) -> Verdict<A::Permit> {
        if self.traffic.held() >= self.limits.max_held {
            return Err(Box::new(Refusal::held_full()));
        }
        let _held = self.traffic.hold();
        timer.arm(self.limits.hold_ms);
        let mut later = std::pin::pin!(later);
        let waited = timer.until(|cx| later.as_mut().poll(cx)).await;
        waited.unwrap_or_else(|Elapsed| Err(Box::new(Refusal::hold_timeout())))
    }
}
