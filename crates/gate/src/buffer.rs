//! The reused buffers of a connection. An idle connection holds none; they wait in the gate's free list. One that waits for its
//! workload keeps the head that it sent and no room to read into: however many wait, they read into the same warm memory.

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

/// Requests under way whose heads are kept; each is some hundred bytes.
const SPARE_HEADS: usize = 256;

/// Room that no buffer has at present, the warmest last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rooms(Rc<RefCell<Vec<Box<[u8]>>>>);

impl Rooms {
    /// Frees all but a few.
    pub(crate) fn trim(&self) {
        self.0.borrow_mut().truncate(QUIET);
    }
}

/// A fixed array with a filled window.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Empty, or `bytes` long.
    data: Box<[u8]>,
    bytes: usize,
    start: usize,
    end: usize,
    /// Where its room comes from and goes to while there is nothing in it; else it has one of its own.
    rooms: Option<Rooms>,
}

impl Buffer {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// From now on its room is one of `rooms`.
    pub(crate) fn share(&mut self, rooms: &Rooms) {
        self.rooms.get_or_insert_with(|| rooms.clone());
    }

    /// Gives its room back where nothing is in it.
    pub(crate) fn release(&mut self) {
        if self.is_empty() && !self.data.is_empty() {
            self.clear();
            if let Some(Rooms(rooms)) = &self.rooms {
                let data = std::mem::take(&mut self.data);
                let mut rooms = rooms.borrow_mut();
                if rooms.len() < SPARE {
                    rooms.push(data);
                }
            }
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
        self.end - self.start == self.bytes
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
        if self.data.is_empty() {
            let shared = self.rooms.as_ref().and_then(|rooms| rooms.0.borrow_mut().pop());
            self.data = shared.unwrap_or_else(|| vec![0; self.bytes].into_boxed_slice());
        }
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
    /// As many are kept.
    const KEPT: usize;
    fn fresh() -> Self;
    fn clear(&mut self);
}

impl Spare for Inbound {
    const KEPT: usize = SPARE_HEADS;

    fn fresh() -> Self {
        Self {
            input: Buffer::new(HEAD_BYTES),
            request: Vec::with_capacity(1024),
        }
    }

    fn clear(&mut self) {
        self.input.clear();
        self.input.release();
        self.request.clear();
    }
}

impl Spare for Outbound {
    const KEPT: usize = SPARE;

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

impl FreeList<Inbound> {
    /// One that reads into room of `rooms`.
    pub(crate) fn loan_with(&self, rooms: &Rooms) -> Loan<Inbound> {
        let mut inbound = self.loan();
        inbound.input.share(rooms);
        inbound
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
        if home.len() < T::KEPT {
            self.value.clear();
            home.push(std::mem::take(&mut self.value));
        }
    }
}
