//! Connections accepted elsewhere, by whoever answers while nothing runs, and how the gate takes them over.

use std::fmt;

/// A connection accepted elsewhere, with what was read from it.
#[derive(Debug)]
pub struct Handoff {
    /// The connection, in blocking mode or not.
    pub stream: std::net::TcpStream,
    /// Bytes read before, in order; at most [`Limits::head_bytes`](crate::Limits::head_bytes) for HTTP/1.x.
    pub prefix: Vec<u8>,
    /// Takes it from whoever handed it over.
    pub claim: Claim,
}

/// Takes a connection from whoever handed it over: called once, just before the gate serves it. Until then the other
/// side may still hand it to somebody else.
pub struct Claim(Box<dyn FnOnce() -> bool + Send>);

impl Claim {
    /// A claim that `claim` makes; where it returns false the gate lets go of the connection without a word.
    pub fn new(claim: impl FnOnce() -> bool + Send + 'static) -> Self {
        Self(Box::new(claim))
    }

    /// Makes the claim; whether the connection is the gate's now.
    pub(crate) fn make(self) -> bool {
        (self.0)()
    }
}

impl Default for Claim {
    /// Nobody else has the connection.
    fn default() -> Self {
        Self::new(|| true)
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}
