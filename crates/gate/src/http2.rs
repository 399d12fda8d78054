//! Cleartext HTTP/2 (prior knowledge) through hyper: each stream is judged like a request of HTTP/1.1.
//!
//! The workload speaks HTTP/1.1 or, with [`Protocol::H2c`], HTTP/2. hyper bounds frames and resets; this module
//! bounds heads, idle connections and silent streams.

mod body;
mod client;
mod forwarded;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Uri};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;

use crate::Authorizer;
use crate::access::{self, Underway};
use crate::control::{Elapsed, Phase, Timer};
use crate::cors::Reader;
use crate::forward::{Forwarding, Origin, is_hop_by_hop, stays_behind};
use crate::gate::{Judged, Shared};
use crate::head::{self, Fields, Found, Line, Reject, RequestHead, Version};
use crate::own::{OwnAsk, Reply};
use crate::refusal::{self, Refusal};
use crate::seats::{Busy, Usage};
use crate::stream::{Prefixed, Stream};

use self::body::{Held, Meter, Relayed, Source};
pub(crate) use self::client::Clients;
use self::forwarded::{Asked, forwarded};

/// A peer that does not answer a ping for this long is gone.
const PING: Duration = Duration::from_secs(20);

/// The response given to hyper's server.
type Answer<P> = http::Response<Either<Full<Bytes>, Relayed<P>>>;

/// Runs hyper's inner tasks; they end with the last clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks(Rc<RefCell<JoinSet<()>>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task);
    }
}

/// What one connection's streams have in common.
#[derive(Debug, Default)]
struct Activity {
    open: Cell<usize>,
    seen: Cell<u64>,
    moved_ms: Cell<u64>,
    usage: Rc<Usage>,
}

/// Serves one connection, whose first bytes were read before.
pub(crate) async fn serve<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    stream: Stream,
    origin: Rc<Origin>,
    usage: &Rc<Usage>,
    read: Bytes,
) {
    let activity = Rc::new(Activity {
        usage: Rc::clone(usage),
        ..Activity::default()
    });
    let timer = gate.control.timer();
    activity.moved_ms.set(gate.control.now_ms());
    let streams = (Rc::clone(gate), Rc::clone(&activity));
    let service = service_fn(move |request| {
        let ((gate, activity), origin) = (streams.clone(), Rc::clone(&origin));
        async move { Ok::<_, Infallible>(handle(gate, activity, origin, request).await) }
    });
    let limits = &gate.limits;
    let connection = hyper::server::conn::http2::Builder::new(Tasks::default())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(Prefixed::new(read, stream)), service);
    let mut connection = pin!(connection);
    let mut leaving = false;
    timer.arm(limits.idle_ms);
    loop {
        let drains = || !leaving && gate.control.phase() >= Phase::Draining && activity.seen.get() > 0;
        let waited = timer.until(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if drains() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        match waited.await {
            Ok(true) => return,
            Err(Elapsed) if leaving || !is_alive(gate, &activity) => return,
            Err(Elapsed) if activity.open.get() > 0 => timer.arm(limits.idle_ms),
            Ok(false) | Err(Elapsed) => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
                // Who is told at the end of the drain that the object sleeps gets to read it.
                timer.arm(limits.drain_ms.saturating_add(limits.linger_ms));
            }
        }
    }
}

/// False: streams are open and none has moved for longer than any of them may be silent.
fn is_alive<A>(gate: &Shared<A>, activity: &Activity) -> bool {
    let silent_ms = gate.control.now_ms().saturating_sub(activity.moved_ms.get());
    activity.open.get() == 0 || silent_ms <= gate.limits.response_ms.max(gate.limits.body_idle_ms)
}

/// Counts one stream of a connection until it drops.
struct OpenStream {
    activity: Rc<Activity>,
    _busy: Busy,
}

impl OpenStream {
    fn new(activity: &Rc<Activity>) -> Self {
        activity.open.set(activity.open.get() + 1);
        activity.seen.set(activity.seen.get() + 1);
        Self {
            activity: Rc::clone(activity),
            _busy: activity.usage.begin(),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.activity.open.set(self.activity.open.get() - 1);
    }
}

async fn handle<A: Authorizer>(
    gate: Rc<Shared<A>>,
    activity: Rc<Activity>,
    origin: Rc<Origin>,
    request: http::Request<Incoming>,
) -> Answer<A::Permit> {
    let stream = OpenStream::new(&activity);
    activity.moved_ms.set(gate.control.now_ms());
    let timer = gate.control.timer();
    let (parts, body) = request.into_parts();
    let (mut reader, mut underway) = (None, None);
    let told = (&mut reader, &mut underway);
    let answered = match judged(&gate, &parts, &origin, &timer, told).await {
        Err(refusal) => {
            gate.traffic.count_refused();
            Err(refusal)
        }
        Ok(Passed::Own(ask)) => match owned(&gate, body, ask, &timer).await {
            Ok(reply) => return whole(reply.into_response(), underway.as_deref()),
            Err(refusal) => {
                gate.traffic.count_refused();
                Err(refusal)
            }
        },
        Ok(Passed::Forward(permit, outbound)) => {
            let held = Held {
                permit,
                _admitted: gate.traffic.admitted(),
                _stream: stream,
                underway: underway.clone(),
            };
            let meter = Meter::new(&gate, &activity);
            let kept = if A::EDGE { gate.limits.replay_bytes } else { 0 };
            let body = Source::new(body, kept, meter.clone());
            let asked = Asked {
                parts: &parts,
                origin: &origin,
                outbound: Some(*outbound),
                body,
                meter,
            };
            forwarded(&gate, asked, held, timer).await
        }
        Ok(Passed::Answer(answer)) => return whole(*answer, underway.as_deref()),
    };
    answered.unwrap_or_else(|refusal| {
        let answer = refusal::response(&refusal, &parts.headers, reader.as_ref());
        let answer = whole(answer, underway.as_deref());
        if let Some(underway) = &underway {
            underway.refused(&refusal);
        }
        answer
    })
}

/// An answer that is no workload's.
fn whole<P>(answer: http::Response<Bytes>, underway: Option<&Underway>) -> Answer<P> {
    if let Some(underway) = underway {
        underway.answered(answer.status().as_u16(), None);
        underway.sent(answer.body().len());
    }
    answer.map(|body| Either::Left(Full::new(body)))
}

/// What was let through.
enum Passed<P> {
    /// To the workload, with this head.
    Forward(P, Box<http::request::Parts>),
    /// To the object itself.
    Own(OwnAsk),
    /// Back, with the authorizer's answer.
    Answer(Box<http::Response<Bytes>>),
}

/// The object's own answer.
async fn owned<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    body: Incoming,
    ask: OwnAsk,
    timer: &Timer,
) -> Result<Reply, Box<Refusal>> {
    let mut read = pin!(Limited::new(body, ask.max_body).collect());
    let read = timer
        .within(gate.limits.body_idle_ms, |cx| read.as_mut().poll(cx))
        .await;
    let bytes = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Box::new(Refusal::body_too_large())),
        Ok(Err(_cut)) => return Err(Box::new(head::bad("the request's body was cut short").into())),
        Err(Elapsed) => return Err(Box::new(Refusal::body_timeout())),
    };
    (ask.answer)(bytes).await
}

/// The authorizer's answer on one stream, waiting while it is held, and the head for the workload.
async fn judged<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    parts: &http::request::Parts,
    origin: &Origin,
    timer: &Timer,
    (reader, underway): (&mut Option<Reader>, &mut Option<Rc<Underway>>),
) -> Result<Passed<A::Permit>, Box<Refusal>> {
    let rejected = |reject: Reject| Box::new(Refusal::from(reject));
    let head = head(parts, origin.peer, gate.limits.headers).map_err(rejected)?;
    let head = origin.trusted(head);
    *reader = gate.cors.reader(&head);
    *underway = access::begin(gate, &head);
    let (mut held, mut added) = (None, Forwarding::default());
    loop {
        added.clear();
        match gate.admit(&head, &mut added) {
            Judged::Forward(permit) => {
                let outbound = outbound(gate, parts, (&head, &permit), &added, origin).map_err(rejected)?;
                return Ok(Passed::Forward(permit, Box::new(outbound)));
            }
            Judged::Later(later) => {
                let (permit, added) = gate.later(later, timer).await?;
                let outbound = outbound(gate, parts, (&head, &permit), &added, origin).map_err(rejected)?;
                return Ok(Passed::Forward(permit, Box::new(outbound)));
            }
            Judged::Answer(answer) => return Ok(Passed::Answer(answer)),
            Judged::Own(ask) => return Ok(Passed::Own(ask)),
            Judged::Refuse(refusal) => return Err(refusal),
            Judged::Hold => gate.hold(&mut held, timer).await?,
        }
    }
}

/// The request as the authorizer sees it; hyper has refused malformed ones before.
pub(crate) fn head(
    parts: &http::request::Parts,
    peer: SocketAddr,
    max_headers: usize,
) -> Result<RequestHead<'_>, Reject> {
    if parts.headers.len() > max_headers {
        let detail = "the request has too many header fields";
        return Err(Reject {
            status: 431,
            code: "head_too_large",
            detail,
        });
    }
    if parts.method == http::Method::CONNECT {
        return Err(Reject {
            status: 501,
            code: "not_implemented",
            detail: "this is no forward proxy",
        });
    }
    let edge = |&byte: &u8| byte == b' ' || byte == b'\t';
    for value in parts.headers.values().map(HeaderValue::as_bytes) {
        if value.first().is_some_and(edge) || value.last().is_some_and(edge) {
            // HTTP/1.1 would drop it on the way (RFC 9113 §8.2.1).
            return Err(head::bad("a header value begins or ends with white space"));
        }
    }
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let line = Line {
        method: parts.method.as_str(),
        target,
        authority: parts.uri.authority().map(Authority::as_str),
        version: Version::Http2,
    };
    let fields = parts.headers.iter();
    let found = Found::scan(fields.map(|(name, value)| (name.as_str(), value.as_bytes())))?;
    head::understand(&line, &found, Fields::Http2(&parts.headers), peer)
}

/// The head for the workload.
fn outbound<A: Authorizer>(
    gate: &Shared<A>,
    parts: &http::request::Parts,
    (judged, permit): (&RequestHead<'_>, &A::Permit),
    added: &Forwarding,
    origin: &Origin,
) -> Result<http::request::Parts, Reject> {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = parts.method.clone();
    let h2c = gate.speaks_h2c(permit);
    // Both were part of a valid address.
    head.uri =
        uri(judged, added.target(), h2c).map_err(|_| head::bad("the request's address cannot be written"))?;
    if A::EDGE {
        fields_at_edge(parts, added, &mut head.headers);
    } else {
        fields(parts, added, origin, &mut head.headers);
    }
    if h2c {
        if parts.headers.get(header::TE).is_some_and(|te| te == "trailers") {
            head.headers
                .insert(header::TE, HeaderValue::from_static("trailers"));
        }
        return Ok(head);
    }
    join_cookies(&mut head.headers);
    let host = HeaderValue::from_str(&judged.authority());
    head.headers.insert(
        header::HOST,
        host.map_err(|_| head::bad("the host cannot be written"))?,
    );
    Ok(head)
}

/// The canonical address; without scheme and host for a workload that speaks HTTP/1.1.
fn uri(head: &RequestHead<'_>, target: Option<&str>, h2c: bool) -> Result<Uri, http::Error> {
    let target = match head.query {
        Some(query) if target.is_none() => format!("{}?{query}", head.path),
        _ => target.unwrap_or(&head.path).to_owned(),
    };
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(target.parse()?);
    if h2c {
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(head.authority().parse()?);
    }
    Ok(Uri::from_parts(uri)?)
}

/// What an edge sends on: the client's fields without hop-by-hop ones and those that `added` hides, and what it adds.
fn fields_at_edge(parts: &http::request::Parts, added: &Forwarding, out: &mut HeaderMap) {
    for (name, value) in &parts.headers {
        let stays =
            (is_hop_by_hop(name.as_str()) && name != header::CONTENT_LENGTH) || name == header::EXPECT;
        if !stays && !added.hides(name.as_str()) {
            out.append(name.clone(), value.clone());
        }
    }
    append(added, out);
}

fn append(added: &Forwarding, out: &mut HeaderMap) {
    for (name, value) in added.iter() {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            out.append(name, value);
        }
    }
}

fn fields(parts: &http::request::Parts, added: &Forwarding, origin: &Origin, out: &mut HeaderMap) {
    out.reserve(parts.headers.len() + 4);
    let sent = |name: &str| origin.forwards(name).then(|| parts.headers.get_all(name));
    for (name, value) in &parts.headers {
        if !origin.forwards(name.as_str()) {
            continue;
        }
        if name == header::CONTENT_LENGTH || !(stays_behind(name.as_str()) || name == header::EXPECT) {
            out.append(name.clone(), value.clone());
        }
    }
    let before = sent("x-forwarded-for").into_iter().flatten();
    let before = before.filter_map(|value| value.to_str().ok());
    let chain = before.chain([origin.ip.as_str()]).collect::<Vec<_>>().join(", ");
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            out.append(name, value);
        }
    };
    add(HeaderName::from_static("x-forwarded-for"), &chain);
    let has = |name: &str| sent(name).is_some_and(|values| values.iter().next().is_some());
    if !has("x-forwarded-proto") {
        add(HeaderName::from_static("x-forwarded-proto"), origin.scheme());
    }
    if has("forwarded") {
        add(header::FORWARDED, &origin.forwarded());
    }
    for (name, value) in origin.known() {
        add(HeaderName::from_static(name), value);
    }
    add(header::VIA, "2.0 suijuris");
    append(added, out);
}

/// HTTP/2 may split cookies, HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}
