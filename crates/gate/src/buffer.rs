//! The reused buffers of a connection. An idle connection holds none; they wait in the gate's free list.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::limits::{HEAD_BYTES, RESPONSE_HEAD_BYTES};

/// Room for what the workload sends at once: its head at most, which is two reads of a large loopback segment.
const ANSWER_BYTES: usize = RESPONSE_HEAD_BYTES;

/// Up to this much of a response body is copied behind its head, so that one plain write sends both.
pub(crate) const COPY_BYTES: usize = 4 * 1024;
/// Free buffers kept of each kind: a burst of this many allocates nothing.
const SPARE: usize = 64;
/// Kept while no request is in flight.
const QUIET: usize = 4;

/// A fixed array with a filled window.
#[derive(Debug, Default)]
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

/// The client's side of one active connection.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// From the client.
    pub(crate) input: Buffer,
    /// The head for the workload, with the first part of the body.
    pub(crate) request: Vec<u8>,
}

/// The workload's side; held only while a response is under way, so that all of them share warm memory.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// From the workload.
    pub(crate) answer: Buffer,
    /// The head for the client, with the first part of the body.
    pub(crate) reply: Vec<u8>,
}

/// Something the free list keeps.
pub(crate) trait Spare: Default {
    fn fresh() -> Self;
    fn clear(&mut self);
}

impl Spare for Inbound {
    fn fresh() -> Self {
        Self {
            input: Buffer::new(HEAD_BYTES),
            request: Vec::with_capacity(1024),
        }
    }

    fn clear(&mut self) {
        self.input.clear();
        self.request.clear();
    }
}

impl Spare for Outbound {
    fn fresh() -> Self {
        Self {
            answer: Buffer::new(ANSWER_BYTES),
            reply: Vec::with_capacity(COPY_BYTES),
        }
    }

    fn clear(&mut self) {
        self.answer.clear();
        self.reply.clear();
    }
}

/// Buffers that nobody uses at present, the warmest last.
#[derive(Debug)]
pub(crate) struct FreeList<T>(Rc<RefCell<Vec<T>>>);

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<T: Spare> FreeList<T> {
    pub(crate) fn loan(&self) -> Loan<T> {
        let value = self.0.borrow_mut().pop().unwrap_or_else(T::fresh);
        Loan {
            value,
            home: Rc::clone(&self.0),
        }
    }

    /// Frees all but a few.
    pub(crate) fn trim(&self) {
        self.0.borrow_mut().truncate(QUIET);
    }
}

/// Goes back to its free list when dropped.
#[derive(Debug)]
pub(crate) struct Loan<T: Spare> {
    value: T,
    home: Rc<RefCell<Vec<T>>>,
}

impl<T: Spare> Deref for Loan<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Spare> DerefMut for Loan<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Spare> Drop for Loan<T> {
    fn drop(&mut self) {
        let mut home = self.home.borrow_mut();
        if home.len() < SPARE {
            self.value.clear();
            home.push(std::mem::take(&mut self.value));
        }
    }
}
