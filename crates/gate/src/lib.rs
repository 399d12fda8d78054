//! The gate: a reverse proxy that forwards only what a permit lets through.
//!
//! It stands in front of one workload inside a machine and knows no rules: it asks an [`Authorizer`], and every way to
//! the workload wants to see the [`Authorizer::Permit`] that only an authorizer can make. A refused request costs the
//! workload nothing, not even a connection.
//!
//! | module | duty |
//! |---|---|
//! | [`head`], [`chunked`] | what of HTTP/1.x is understood at all, shared with the door |
//! | `canonical` | the one form of a request that is judged and forwarded |
//! | [`access`] | requests for an access log |
//! | [`refusal`] | problem documents as responses |
//! | `routing` | at an edge: where a request goes, and where it goes next |
//! | [`probe`] | the first request on an HTTP/2 connection, before a byte is answered: for the door |
//! | `http1`, `http2`, `tunnel`, `fd_passing` | one connection each |
//! | `own` | what the object answers itself |
//! | `cors` | who may read the gate's own answers in a browser |
//! | `seats` | shares of the connections that there may be |
//! | `connection_status` | whether a raw connection may go on |
//! | `gate`, [`control`], [`traffic`], [`limits`] | accepting, phases, counters, bounds |
//!
//! Everything runs on one thread and inside [`Gate::serve`]: dropping that future closes every connection. No TLS,
//! no rules, no retries but one on a connection that the workload had closed.

pub mod access;
pub mod chunked;
pub mod control;
pub mod head;
pub mod limits;
pub mod probe;
pub mod refusal;
pub mod traffic;

mod accept;
mod buffer;
mod canonical;
mod connection_status;
mod cors;
mod fd_passing;
mod forward;
mod gate;
mod grpc;
mod handoff;
mod http1;
mod http2;
mod own;
mod response;
mod routing;
mod seats;
mod stream;
mod sys;
mod tunnel;
mod upstream;

use std::net::SocketAddr;
use std::rc::Rc;

use suijuris_api::access::{Access, Detail};
use suijuris_api::tls::Session;

pub use control::{Control, Phase};
pub use cors::{Cors, Reader};
pub use forward::{BadField, BadTarget, Forwarding, RESERVED_PREFIX};
pub use gate::{Gate, Protocol, ServeError};
pub use handoff::{Accepted, ByteStream, Claim, Client, Handoff};
pub use head::{RESERVED_PATHS, RequestHead, Version};
pub use limits::Limits;
pub use own::{Answering, Own, OwnAsk, Reply, serve_own};
pub use refusal::Refusal;
pub use routing::{AnswerHead, Answered, Connecting, Later, Route, Verdict, Why};
pub use suijuris_api::tls;
pub use traffic::Traffic;
pub use upstream::Upstream;

/// Decides what may pass. Called on the gate's thread for each request; must answer in microseconds and never block.
pub trait Authorizer: 'static {
    /// Proof of a positive verdict. The gate can neither make nor copy one, and drops it when what it allowed ended.
    type Permit: 'static;

    /// Whether the gate is an edge: each permit has a [`Route`], all paths and fields are its workloads', and the authorizer
    /// itself says what they learn of the client.
    const EDGE: bool = false;

    /// One HTTP request, upgrades included. `out` takes the header fields that the workload shall see in addition.
    fn admit(&self, head: &RequestHead<'_>, out: &mut Forwarding) -> Admission<Self::Permit>;

    /// One request below [`RESERVED_PATHS`], which the object answers itself or nobody.
    fn own(&self, head: &RequestHead<'_>) -> Own {
        let _nobody = head;
        Own::Nothing
    }

    /// One raw TCP connection: before anything of it is read, and again after each change of phase and each
    /// [`Control::ask_again`]. One that is refused then is cut.
    fn connect(&self, peer: Peer<'_>) -> Admission<Self::Permit>;

    /// Where what `permit` allows goes; none: to the gate's own workload.
    fn route<'p>(&self, permit: &'p Self::Permit) -> Option<&'p dyn Route> {
        let _own = permit;
        None
    }

    /// Looks at the head of an answer before the client gets a byte of it. `out` takes fields that the client gets in addition,
    /// and those that stay behind. Asked at an edge only.
    fn answered(&self, permit: &Self::Permit, head: &AnswerHead<'_>, out: &mut Forwarding) -> Answered {
        let _all_pass = (permit, head, out);
        Answered::Relay
    }

    /// Where a request goes that had no answer, or whose answer was taken; none: the gate says so to the client. The client
    /// has seen no byte. Without `repeatable` its body is gone, so that it cannot be sent again. Asked at an edge only.
    fn elsewhere(&self, permit: Self::Permit, why: Why<'_>, repeatable: bool) -> Option<Later<Self::Permit>> {
        let _nowhere = (permit, why, repeatable);
        None
    }

    /// How much of each request [`Authorizer::logged`] is told when it ends; none: it is not called. Requests that cannot be
    /// read, and raw connections, are not among them.
    fn logs(&self) -> Option<Detail> {
        None
    }

    /// A request ended. Its time is missing. Must return at once.
    fn logged(&self, access: Access) {
        let _nobody_asked = access;
    }

    /// The workload gave no answer to a request that was admitted. The caller reads `code`; why is for the owner alone.
    /// May be called for every request: bounding what is told is up to the authorizer.
    fn unanswered(&self, code: &'static str, why: &dyn std::fmt::Display) {
        let _nobody_listens = (code, why);
    }
}

impl<A: Authorizer> Authorizer for Rc<A> {
    type Permit = A::Permit;

    fn admit(&self, head: &RequestHead<'_>, out: &mut Forwarding) -> Admission<Self::Permit> {
        A::admit(self, head, out)
    }

    fn own(&self, head: &RequestHead<'_>) -> Own {
        A::own(self, head)
    }

    fn connect(&self, peer: Peer<'_>) -> Admission<Self::Permit> {
        A::connect(self, peer)
    }

    fn unanswered(&self, code: &'static str, why: &dyn std::fmt::Display) {
        A::unanswered(self, code, why);
    }

    fn logs(&self) -> Option<Detail> {
        A::logs(self)
    }

    fn logged(&self, access: Access) {
        A::logged(self, access);
    }

    const EDGE: bool = A::EDGE;

    fn route<'p>(&self, permit: &'p Self::Permit) -> Option<&'p dyn Route> {
        A::route(self, permit)
    }

    fn answered(&self, permit: &Self::Permit, head: &AnswerHead<'_>, out: &mut Forwarding) -> Answered {
        A::answered(self, permit, head, out)
    }

    fn elsewhere(&self, permit: Self::Permit, why: Why<'_>, repeatable: bool) -> Option<Later<Self::Permit>> {
        A::elsewhere(self, permit, why, repeatable)
    }
}

/// Who is at the other end of a raw connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its address, as far as it is believed.
    pub address: SocketAddr,
    /// What TLS came to, where it ended at whoever handed the connection over.
    pub tls: Option<&'a Session>,
}

/// An authorizer's answer.
#[derive(Debug)]
pub enum Admission<P> {
    /// Goes to the workload.
    Forward(P),
    /// No verdict yet: asked again after [`Control::ask_again`] or a change of phase, bounded by [`Limits::hold_ms`].
    Hold,
    /// The verdict takes time; the request waits for it, bounded like every hold.
    Later(Later<P>),
    /// Is answered with this, whose body is short.
    Answer(Box<http::Response<bytes::Bytes>>),
    /// Goes back.
    Refuse(Box<Refusal>),
}
