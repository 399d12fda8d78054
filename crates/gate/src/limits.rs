//! Bounds on everything a peer can hold open: time, size and count.
//!
//! Plain numbers with named defaults; not read from any file here. The runtime fills them from the bundle.

/// Connections open at once. Each costs a descriptor and, while idle, a few hundred bytes.
pub const MAX_CONNECTIONS: usize = 8_192;
/// Requests, tunnels and handed-over connections in flight at once, whatever number of connections carries them.
pub const MAX_IN_FLIGHT: usize = 8_192;
/// Requests waiting for a first verdict at once.
pub const MAX_HELD: usize = 256;
/// A request waits this long for a verdict: longer than a slow boot, shorter than common client timeouts.
pub const HOLD_MS: u64 = 25_000;
/// A request head, request line included: what nginx and Apache accept, rounded.
pub const HEAD_BYTES: usize = 16 * 1024;
/// Header fields in one head.
pub const HEADERS: usize = 100;
/// A workload's response head, status line included and counted as HTTP/1.1 writes it, whatever the workload or the client
/// speaks: several cookies and long policies fit.
pub const RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// Header fields in one response head.
pub const RESPONSE_HEADERS: usize = 256;
/// From the first byte of a head to its last.
pub const HEAD_MS: u64 = 10_000;
/// A connection without a request; longer than the 60 s of common load balancers, so that they close first.
pub const IDLE_MS: u64 = 75_000;
/// A body, either way, in which no byte moves.
pub const BODY_IDLE_MS: u64 = 60_000;
/// From the request's end to the first byte of its response; long polls live below this.
pub const RESPONSE_MS: u64 = 300_000;
/// Connecting to the workload, which is on this machine.
pub const UPSTREAM_CONNECT_MS: u64 = 5_000;
/// An unused connection to the workload.
pub const UPSTREAM_IDLE_MS: u64 = 55_000;
/// Unused connections kept to the workload.
pub const UPSTREAM_IDLE: usize = 512;
/// `Expect: 100-continue`: after this the body goes even if the workload said nothing (RFC 9110 §10.1.1).
pub const EXPECT_MS: u64 = 1_000;
/// A client that closed its sending side may still read an answer for this long.
pub const HALF_CLOSED_MS: u64 = 10_000;
/// A tunnel (raw TCP, upgraded connection) in which no byte moves.
pub const TUNNEL_IDLE_MS: u64 = 3_600_000;
/// In-flight requests when draining begins.
pub const DRAIN_MS: u64 = 10_000;
/// After a refusal: reading what the client still sends, so that it sees the answer and not a reset.
pub const LINGER_MS: u64 = 2_000;
/// Bytes read and dropped while lingering.
pub const LINGER_BYTES: usize = 256 * 1024;
/// Bytes of a request's body that an edge keeps, so that it can send the request elsewhere.
pub const REPLAY_BYTES: usize = 1024 * 1024;
/// Concurrent HTTP/2 streams on one connection.
pub const H2_STREAMS: u32 = 128;

/// Bounds of one gate; [`Limits::default`] has the constants of this module.
#[derive(Debug, Clone)]
pub struct Limits {
    /// See [`MAX_CONNECTIONS`]; for one more an idle one is closed, or it is answered 503. One client gets seven eighths.
    pub max_connections: usize,
    /// See [`MAX_IN_FLIGHT`]; one more is answered 503 `too_many_requests`.
    pub max_in_flight: usize,
    /// See [`MAX_HELD`]; one more is answered 503 `held_full`.
    pub max_held: usize,
    /// See [`HOLD_MS`]; then 503 `hold_timeout`.
    pub hold_ms: u64,
    /// See [`HEAD_BYTES`]; then 414 or 431. At most [`HEAD_BYTES`].
    pub head_bytes: usize,
    /// See [`HEADERS`]; then 431. At most [`HEADERS`].
    pub headers: usize,
    /// See [`HEAD_MS`]; then 408.
    pub head_ms: u64,
    /// See [`IDLE_MS`]; then closed without a word.
    pub idle_ms: u64,
    /// See [`BODY_IDLE_MS`]; then cut.
    pub body_idle_ms: u64,
    /// See [`RESPONSE_MS`]; then 504.
    pub response_ms: u64,
    /// See [`UPSTREAM_CONNECT_MS`]; then 503 `upstream_unreachable`.
    pub upstream_connect_ms: u64,
    /// See [`UPSTREAM_IDLE_MS`].
    pub upstream_idle_ms: u64,
    /// See [`UPSTREAM_IDLE`].
    pub upstream_idle: usize,
    /// See [`EXPECT_MS`].
    pub expect_ms: u64,
    /// See [`HALF_CLOSED_MS`].
    pub half_closed_ms: u64,
    /// See [`TUNNEL_IDLE_MS`]; then cut.
    pub tunnel_idle_ms: u64,
    /// See [`DRAIN_MS`]; then cut.
    pub drain_ms: u64,
    /// See [`LINGER_MS`].
    pub linger_ms: u64,
    /// See [`REPLAY_BYTES`]; used at an edge only.
    pub replay_bytes: usize,
    /// See [`H2_STREAMS`].
    pub h2_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            max_in_flight: MAX_IN_FLIGHT,
            max_held: MAX_HELD,
            hold_ms: HOLD_MS,
            head_bytes: HEAD_BYTES,
            headers: HEADERS,
            head_ms: HEAD_MS,
            idle_ms: IDLE_MS,
            body_idle_ms: BODY_IDLE_MS,
            response_ms: RESPONSE_MS,
            upstream_connect_ms: UPSTREAM_CONNECT_MS,
            upstream_idle_ms: UPSTREAM_IDLE_MS,
            upstream_idle: UPSTREAM_IDLE,
            expect_ms: EXPECT_MS,
            half_closed_ms: HALF_CLOSED_MS,
            tunnel_idle_ms: TUNNEL_IDLE_MS,
            drain_ms: DRAIN_MS,
            linger_ms: LINGER_MS,
            replay_bytes: REPLAY_BYTES,
            h2_streams: H2_STREAMS,
        }
    }
}
