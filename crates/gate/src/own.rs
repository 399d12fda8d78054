//! What the object answers itself, below [`RESERVED_PATHS`](crate::RESERVED_PATHS): nothing of it goes to the workload, so no
//! permit is needed. The authorizer says what is answered; here it is read and sent, over either version of HTTP.
//!
//! [`serve_own`] does the same where there is no workload: for a sleeping object, in the process that listens for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::forward::Origin;
use crate::gate::{Gate, Protocol, connection};
use crate::handoff::Handoff;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::upstream::Upstream;
use crate::{Authorizer, Control, Phase};

/// What becomes of a request to the object itself.
#[derive(Debug)]
pub enum Own {
    /// Nothing is there: 404.
    Nothing,
    /// It cannot be said yet, as [`Admission::Hold`](crate::Admission::Hold).
    Hold,
    /// Goes back.
    Refuse(Box<Refusal>),
    /// Is answered.
    Ask(OwnAsk),
}

/// The future of an answer; it stays on the gate's thread.
pub type Answering = Pin<Box<dyn Future<Output = Result<Reply, Box<Refusal>>>>>;

/// A request that the object answers when its body is here.
pub struct OwnAsk {
    /// Size of the body at most, bytes.
    pub max_body: usize,
    /// Answers it.
    pub answer: Box<dyn FnOnce(Bytes) -> Answering>,
}

impl fmt::Debug for OwnAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnAsk")
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

/// A positive answer: status 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its media type.
    pub media: &'static str,
    /// Its bytes.
    pub body: Vec<u8>,
}

impl Reply {
    /// JSON.
    #[must_use]
    pub const fn json(body: Vec<u8>) -> Self {
        let media = "application/json";
        Self { media, body }
    }

    /// The HTTP/1.1 response; without `keep_alive` it announces the close.
    pub(crate) fn render_into(&self, keep_alive: bool, out: &mut Vec<u8>) {
        use std::io::Write as _;
        // Writing to a Vec cannot fail.
        let _infallible = write!(
            out,
            "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-length: {}\r\ncache-control: no-store\r\n",
            self.media,
            self.body.len()
        );
        out.extend_from_slice(if keep_alive {
            b"\r\n"
        } else {
            b"connection: close\r\n\r\n"
        });
        out.extend_from_slice(&self.body);
    }

    /// The response over HTTP/2.
    pub(crate) fn into_response(self) -> http::Response<Bytes> {
        let mut response = http::Response::new(Bytes::from(self.body));
        let headers = response.headers_mut();
        headers.insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static(self.media),
        );
        headers.insert(
            http::header::CACHE_CONTROL,
            http::HeaderValue::from_static("no-store"),
        );
        response
    }
}

/// Answers the requests of one connection that ask the object itself, and refuses the others: they are to come again over
/// another connection. Ends with the first answer over HTTP/1.1, over HTTP/2 once those under way are answered. Needs a [`tokio::task::LocalSet`]; cancel safe: dropping the future closes the connection.
pub async fn serve_own<A: Authorizer>(authorizer: A, protocol: Protocol, handoff: Handoff) {
    let Some((stream, peer)) = handoff.stream.open() else {
        return;
    };
    // Nothing is forwarded in this phase, so that nobody connects there.
    let control = Control::new(Phase::Draining);
    let nowhere = Upstream::Unix(std::path::PathBuf::new());
    let gate = Gate::new(authorizer, nowhere, protocol, Limits::default(), control.clone());
    let shared = gate.shared();
    let mut clock = JoinSet::new();
    clock.spawn_local(control.sweep());
    let peer = handoff.client.as_ref().map_or(peer, |client| client.address);
    let Some(place) = shared.place(peer) else { return };
    let origin = Origin::new(peer, handoff.client);
    connection(Rc::clone(shared), stream, origin, handoff.prefix, place).await;
}
