//! Traces of requests, told to a collector by OTLP over HTTP as JSON: a span for each request of the proxy and of the host's API, in the trace
//! that the client's `traceparent` (W3C Trace Context) names, else in a new one. Whoever serves the request gets the span as its parent.
//!
//! Nobody waits for it: spans that a collector does not take in time are dropped and counted. Without the feature `traces` nothing is
//! noted and fields pass as they are.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The field that carries a trace.
pub const FIELD: &str = "traceparent";
/// Spans that wait for the collector, at most.
const MAX_WAITING: usize = 4_096;
/// Spans of one message at most.
const MAX_SENT: usize = 512;
/// How long spans are collected before they are sent.
const EVERY: Duration = Duration::from_millis(500);
/// How long a collector may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Where spans go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    spans: mpsc::Sender<Value>,
    dropped: Arc<AtomicU64>,
}

/// Why an address is none of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a collector is http://HOST:PORT, as http://127.0.0.1:4318")]
pub struct BadCollector;

/// A collector: host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector(String);

impl std::str::FromStr for Collector {
    type Err = BadCollector;

    fn from_str(text: &str) -> Result<Self, BadCollector> {
        let uri: http::Uri = text.parse().map_err(|_| BadCollector)?;
        let authority = uri
            .authority()
            .filter(|authority| !authority.as_str().contains('@'));
        match (uri.scheme_str(), authority, uri.path()) {
            (Some("http"), Some(authority), "" | "/") => Ok(Self(format!(
                "{}:{}",
                authority.host(),
                authority.port_u16().unwrap_or(4318)
            ))),
            _ => Err(BadCollector),
        }
    }
}

/// A request under way; told when it is dropped.
#[derive(Debug)]
pub struct Span {
    tracer: Tracer,
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    flags: u8,
    name: String,
    attributes: Vec<(&'static str, Value)>,
    status: std::sync::atomic::AtomicU16,
    began: Duration,
}

fn now() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "spans stand on the clock of all who tell them"
    )]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    bytes.iter().any(|byte| *byte != 0).then_some(bytes)
}

/// Trace, parent and flags of version 00 of `traceparent`; what a later version adds behind is left out.
fn parent(text: &str) -> Option<([u8; 16], [u8; 8], u8)> {
    let mut parts = text.split('-');
    let version = parts
        .next()
        .filter(|version| version.len() == 2 && *version != "ff")?;
    let (trace, id, flags) = (parts.next()?, parts.next()?, parts.next()?);
    if (version == "00" && parts.next().is_some()) || flags.len() != 2 {
        return None;
    }
    Some((unhex(trace)?, unhex(id)?, u8::from_str_radix(flags, 16).ok()?))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness traces cannot be told apart, and everything else goes on.
    let _random = getrandom::fill(&mut bytes);
    bytes
}

impl Tracer {
    /// One that tells `collector` as `service`, and the task that does it.
    #[must_use]
    pub fn to(collector: Collector, service: &'static str) -> (Self, impl Future<Output = ()> + Send) {
        let (spans, told) = mpsc::channel(MAX_WAITING);
        let tracer = Self {
            spans,
            dropped: Arc::default(),
        };
        (tracer, tell(collector, service, told))
    }

    /// A request that begins now; `traceparent` is what its client said.
    #[must_use]
    pub fn begin(&self, name: String, traceparent: Option<&[u8]>) -> Span {
        let said = traceparent.and_then(|text| std::str::from_utf8(text).ok());
        let (trace, parent, flags) = match said.and_then(|said| parent(said.trim())) {
            Some((trace, parent, flags)) => (trace, Some(parent), flags),
            None => (random(), None, 1),
        };
        Span {
            tracer: self.clone(),
            trace,
            id: random(),
            parent,
            flags,
            name,
            attributes: Vec::new(),
            status: 0.into(),
            began: now(),
        }
    }

    /// Spans that nobody took.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Span {
    /// One more thing that is known of it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// What it was answered with.
    pub fn answered(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// `traceparent` for whoever serves it.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", hex(&self.trace), hex(&self.id), self.flags)
    }

    /// Ids of trace and span.
    #[must_use]
    pub fn ids(&self) -> (String, String) {
        (hex(&self.trace), hex(&self.id))
    }

    fn told(&self) -> Value {
        let status = self.status.load(Ordering::Relaxed);
        let mut attributes: Vec<Value> = self
            .attributes
            .iter()
            .map(|(name, value)| json!({ "key": name, "value": { "stringValue": value } }))
            .collect();
        if status > 0 {
            let number = json!({ "intValue": status.to_string() });
            attributes.push(json!({ "key": "http.response.status_code", "value": number }));
        }
        // Nobody answered, or the one who should have could not.
        let code = if status == 0 || status >= 500 { 2 } else { 0 };
        let mut span = json!({
            "traceId": hex(&self.trace), "spanId": hex(&self.id), "name": self.name, "kind": 2, "attributes": attributes,
            "startTimeUnixNano": self.began.as_nanos().to_string(), "endTimeUnixNano": now().as_nanos().to_string(),
            "status": { "code": code },
        });
        if let (Some(parent), Some(span)) = (self.parent, span.as_object_mut()) {
            span.insert("parentSpanId".to_owned(), hex(&parent).into());
        }
        span
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // The client does not want it noted.
        if self.flags & 1 == 1 && self.tracer.spans.try_send(self.told()).is_err() {
            self.tracer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends what is noted, until nobody notes any more.
async fn tell(collector: Collector, service: &'static str, mut spans: mpsc::Receiver<Value>) {
    let mut waiting = Vec::new();
    while spans.recv_many(&mut waiting, MAX_SENT).await > 0 {
        tokio::time::sleep(EVERY).await;
        while waiting.len() < MAX_SENT
            && let Ok(span) = spans.try_recv()
        {
            waiting.push(span);
        }
        let named = json!({ "key": "service.name", "value": { "stringValue": service } });
        let document = json!({ "resourceSpans": [{
            "resource": { "attributes": [named] },
            "scopeSpans": [{ "scope": { "name": "suijuris" }, "spans": std::mem::take(&mut waiting) }],
        }] });
        // A collector that is away misses them.
        let _missed = timeout(WITHIN, send(&collector, document.to_string())).await;
    }
}

async fn send(
    Collector(authority): &Collector,
    body: String,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(authority.as_str()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::post("/v1/traces")
        .header("host", authority.as_str())
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body)))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        response.into_body().collect().await.map(drop)
    };
    tokio::select! {
        answered = exchange => Ok(answered?),
        ended = connection => Ok(ended?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_trace_is_gone_on_with_where_it_is_one() {
        let said = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (trace, id, flags) = parent(said).unwrap();
        assert_eq!(hex(&trace), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((hex(&id).as_str(), flags), ("00f067aa0ba902b7", 1));
        assert!(
            parent(&format!("cc{}-more", &said[2..])).is_some(),
            "of a later version"
        );
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(parent(bad), None, "{bad}");
        }
    }

    #[test]
    fn collectors_are_addresses() {
        let read = |text: &str| text.parse::<Collector>().map(|Collector(at)| at);
        assert_eq!(read("http://127.0.0.1:4318"), Ok("127.0.0.1:4318".to_owned()));
        assert_eq!(read("http://collector/"), Ok("collector:4318".to_owned()));
        for bad in ["", "https://a", "a:1", "http://a/v1/traces", "http://u@a"] {
            assert_eq!(read(bad), Err(BadCollector), "{bad}");
        }
    }
}
