//! Bytes that arrive in pieces, cut into frames.

use crate::frame::{Frame, FrameError, parse};
use crate::limits::Limits;

/// Bytes that arrive in pieces, cut into frames. Keeps no more than one frame and what was fed last.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    arrived: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Nothing has arrived.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            arrived: Vec::new(),
            at: 0,
        }
    }

    /// More bytes. Take all frames before feeding again.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.arrived.drain(..self.at);
        self.at = 0;
        self.arrived.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// As [`crate::frame::parse`]; the same again from then on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = self.arrived.get(self.at..).unwrap_or_default();
        let Some((frame, used)) = parse(rest, &self.limits)? else {
            if rest.is_empty() {
                self.arrived = Vec::new();
                self.at = 0;
            }
            return Ok(None);
        };
        self.at += used;
        Ok(Some(frame))
    }

    /// Whether part of a frame waits for the rest.
    #[must_use]
    pub fn is_inside_a_frame(&self) -> bool {
        self.at < self.arrived.len()
    }

    /// Bytes kept.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.arrived.len()
    }
}
