//! The reused buffers of a connection. An idle connection holds none; they wait in the gate's free list.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::limits::HEAD_BYTES;

/// Room for what the workload sends at once: two reads of a large loopback segment.
const ANSWER_BYTES: usize = 64 * 1024;

/// A fixed array with a filled window.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            data: vec![0; bytes].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// No read can add a byte.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start == self.data.len()
    }

    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Drops the first `bytes` of the filled window.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start = self.end.min(self.start + bytes);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Appends what fits of `bytes` and says how much that was.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let taken = bytes.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..taken), bytes.get(..taken)) {
            to.copy_from_slice(from);
        }
        self.end += taken;
        taken
    }

    fn room(&mut self) -> &mut [u8] {
        if self.end == self.data.len() && self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.data.get_mut(self.end..).unwrap_or_default()
    }

    /// One read into the free part. 0 is the peer's end; the buffer must not be full.
    ///
    /// A read that fills less than the free part also tells tokio that the socket is drained, which saves the
    /// second read that would only say so.
    pub(crate) fn poll_fill(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(self.room());
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }
}

/// What one active connection needs.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// From the client.
    pub(crate) input: Buffer,
    /// The head for the workload, with the first part of the body.
    pub(crate) request: Vec<u8>,
    /// From the workload.
    pub(crate) answer: Buffer,
    /// The head for the client, with the first part of the body.
    pub(crate) reply: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            input: Buffer::new(HEAD_BYTES),
            request: Vec::with_capacity(1024),
            answer: Buffer::new(ANSWER_BYTES),
            reply: Vec::with_capacity(1024),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.input.clear();
        self.request.clear();
        self.answer.clear();
        self.reply.clear();
    }
}
