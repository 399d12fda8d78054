//! What stands between a listener and whatever serves: here a client becomes known. A PROXY header is heard where the
//! listener requires one, TLS ends, and what trusted proxies say is believed, once.
//!
//! | module | duty |
//! |---|---|
//! | [`trust`] | whose word counts |
//! | [`proxy_header`] | the PROXY protocol, required or forbidden, never sniffed |
//! | [`forwarded`] | `X-Forwarded-For` of a trusted proxy |
//! | [`tls`], `authority`, `certificate` | certificates, reloaded when they change; those of development; those of clients (feature `tls`) |
//! | [`postgres`] | what clients of PostgreSQL say before TLS |
//! | [`handshakes`] | how many may be under way |
//!
//! Not here: what is served, and by whom.

#[cfg(feature = "tls")]
pub mod authority;
#[cfg(feature = "tls")]
mod certificate;
pub mod forwarded;
pub mod handshakes;
pub mod postgres;
pub mod proxy_header;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;
pub mod trust;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.x or HTTP/2.
    Http,
    /// Anything: nothing is agreed on.
    Anything,
}
