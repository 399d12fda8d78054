//! Messages and streams over one byte stream, each with a window of its own. Pure: frames in, frames out.
//!
//! Whoever sends has credit for it, so whoever receives can always take it: reading never waits for anybody, and a peer
//! or an application that stands still costs no more than the windows. Messages and openings keep their order among
//! themselves; streams take turns. Generic over descriptors, so that tests need none.
//! Called by the async ends; the handshake comes before.

mod errors;
mod stream;

use std::collections::{BTreeMap, VecDeque};

pub use self::errors::{OpenError, QueueError, Violation};
use self::stream::Stream;
pub use self::stream::{Read, Write};
use crate::frame::{Frame, Reset, StreamId, StreamKind};
use crate::handshake::Side;
use crate::limits::{Limits, MAX_DESCRIPTORS};

/// What a received frame is news for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nobody.
    None,
    /// A message can be taken.
    Message,
    /// Messages can be sent.
    MessageCredit,
    /// The other end is alive.
    Heartbeat(u64),
    /// A stream can be accepted.
    Opened(StreamId),
    /// A stream can be read, or written, or is cut.
    Stream(StreamId),
}

#[derive(Debug)]
enum Outgoing<D> {
    Message { body: Vec<u8>, descriptors: Vec<D> },
    Open(StreamId, StreamKind),
}

/// A message as it came.
#[derive(Debug)]
pub struct Incoming<D> {
    /// Its bytes.
    pub body: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<D>,
}

/// One end of the link after its handshake.
#[derive(Debug)]
pub struct Mux<D> {
    limits: Limits,
    side: Side,
    outgoing: VecDeque<Outgoing<D>>,
    queued: usize,
    credit: usize,
    incoming: VecDeque<Incoming<D>>,
    allowance: usize,
    owed: usize,
    beat: Option<u64>,
    streams: BTreeMap<StreamId, Stream>,
    turns: VecDeque<StreamId>,
    arrivals: VecDeque<(StreamId, StreamKind)>,
    next: u64,
    greatest_of_theirs: u64,
}

impl<D> Mux<D> {
    /// An end on which nothing was said. Both ends need the same limits.
    #[must_use]
    pub const fn new(side: Side, limits: Limits) -> Self {
        Self {
            limits,
            side,
            outgoing: VecDeque::new(),
            queued: 0,
            credit: limits.message_window,
            incoming: VecDeque::new(),
            allowance: limits.message_window,
            owed: 0,
            beat: None,
            streams: BTreeMap::new(),
            turns: VecDeque::new(),
            arrivals: VecDeque::new(),
            next: match side {
                Side::Supervisor => 1,
                Side::Runtime => 2,
            },
            greatest_of_theirs: 0,
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`QueueError`]; nothing was queued.
    pub fn queue(&mut self, body: Vec<u8>, descriptors: Vec<D>) -> Result<(), QueueError> {
        let most = self.limits.max_message_bytes;
        if body.len() > most || descriptors.len() > MAX_DESCRIPTORS {
            let (bytes, descriptors) = (body.len(), descriptors.len());
            return Err(QueueError::TooLarge {
                bytes,
                descriptors,
                most,
            });
        }
        let cost = Limits::cost(body.len(), descriptors.len());
        if self.queued + cost > self.limits.max_queued {
            return Err(QueueError::Full);
        }
        self.queued += cost;
        self.outgoing.push_back(Outgoing::Message { body, descriptors });
        Ok(())
    }

    /// Whether a message of this cost would be queued.
    #[must_use]
    pub const fn has_room_for(&self, cost: usize) -> bool {
        self.queued + cost <= self.limits.max_queued
    }

    /// Whether no message waits to be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.beat.is_none()
    }

    /// The next message.
    pub fn take(&mut self) -> Option<Incoming<D>> {
        let message = self.incoming.pop_front()?;
        self.owed += Limits::cost(message.body.len(), message.descriptors.len());
        Some(message)
    }

    /// Says that this end is alive; a heartbeat that waits is replaced.
    pub const fn beat(&mut self, number: u64) {
        self.beat = Some(number);
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`OpenError::TooMany`].
    pub fn open(&mut self, kind: StreamKind) -> Result<StreamId, OpenError> {
        let id = StreamId::new(self.next).ok_or(OpenError::TooMany)?;
        if self.live(self.side) >= self.limits.max_streams {
            return Err(OpenError::TooMany);
        }
        self.next = self.next.checked_add(2).ok_or(OpenError::TooMany)?;
        self.streams
            .insert(id, Stream::new(self.limits.stream_window, false, true));
        self.outgoing.push_back(Outgoing::Open(id, kind));
        Ok(id)
    }

    /// The stream that was opened by the other end first and not accepted, of this kind where one is named.
    pub fn accept(&mut self, kind: Option<StreamKind>) -> Option<(StreamId, StreamKind)> {
        let wanted = |(_, found): &(StreamId, StreamKind)| kind.is_none_or(|kind| kind == *found);
        let at = self.arrivals.iter().position(wanted)?;
        self.hold(at)
    }

    /// That stream, if the other end has opened it and nobody accepted it.
    pub fn accept_this(&mut self, id: StreamId) -> Option<StreamKind> {
        let at = self.arrivals.iter().position(|(found, _)| *found == id)?;
        self.hold(at).map(|(_, kind)| kind)
    }

    fn hold(&mut self, at: usize) -> Option<(StreamId, StreamKind)> {
        let (id, kind) = self.arrivals.remove(at)?;
        self.streams.get_mut(&id)?.is_held = true;
        Some((id, kind))
    }

    /// Writes to a stream.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Write {
        self.with(id, Write::Closed, |stream| stream.write(bytes))
    }

    /// Reads from a stream.
    pub fn read(&mut self, id: StreamId, buffer: &mut [u8]) -> Read {
        self.with(id, Read::End, |stream| stream.read(buffer))
    }

    /// Ends what this end writes to a stream.
    pub fn end(&mut self, id: StreamId) {
        self.with(id, (), Stream::end);
    }

    /// Cuts a stream.
    pub fn reset(&mut self, id: StreamId, why: Reset) {
        self.with(id, (), |stream| stream.reset(why));
    }

    /// Nobody here reads or writes the stream any more.
    pub fn let_go(&mut self, id: StreamId) {
        self.with(id, (), Stream::let_go);
    }

    fn with<T>(&mut self, id: StreamId, gone: T, act: impl FnOnce(&mut Stream) -> T) -> T {
        let Some(stream) = self.streams.get_mut(&id) else {
            return gone;
        };
        let done = act(stream);
        self.tend(id);
        done
    }

    /// Gives the stream a turn where it wants one, and forgets it where it is over.
    fn tend(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.wants_turn() && !stream.in_turns {
            stream.in_turns = true;
            self.turns.push_back(id);
        } else if stream.is_open && !stream.is_live() && !stream.is_held && !stream.in_turns {
            self.streams.remove(&id);
            self.arrivals.retain(|(found, _)| *found != id);
        }
    }

    fn live(&self, opener: Side) -> usize {
        let is_odd = opener == Side::Supervisor;
        let count =
            |(id, stream): &(&StreamId, &Stream)| (id.number() % 2 == 1) == is_odd && stream.is_live();
        self.streams.iter().filter(count).count()
    }

    /// The next frame to send, with its descriptors; call until there is none.
    pub fn transmit(&mut self) -> Option<(Frame, Vec<D>)> {
        let alone = |frame| Some((frame, Vec::new()));
        if let Some(number) = self.beat.take() {
            return alone(Frame::Heartbeat { number });
        }
        if self.owed >= self.limits.message_window / 2 {
            let bytes = u32::try_from(self.owed).unwrap_or(u32::MAX);
            let granted = usize::try_from(bytes).unwrap_or(self.owed);
            self.owed -= granted;
            self.allowance += granted;
            return alone(Frame::Credit {
                stream: StreamId::MESSAGES,
                bytes,
            });
        }
        if let Some(next) = self.next_outgoing() {
            return Some(next);
        }
        while let Some(id) = self.turns.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.in_turns = false;
            let frame = stream.turn(id);
            self.tend(id);
            if let Some(frame) = frame {
                return alone(frame);
            }
        }
        None
    }

    fn next_outgoing(&mut self) -> Option<(Frame, Vec<D>)> {
        let cost = match self.outgoing.front()? {
            Outgoing::Message { body, descriptors } => Limits::cost(body.len(), descriptors.len()),
            Outgoing::Open(..) => 0,
        };
        self.credit = self.credit.checked_sub(cost)?;
        match self.outgoing.pop_front()? {
            Outgoing::Message { body, descriptors } => {
                self.queued -= cost;
                // No more than `MAX_DESCRIPTORS`, as queueing has seen to.
                let count = u8::try_from(descriptors.len()).unwrap_or(u8::MAX);
                Some((
                    Frame::Message {
                        descriptors: count,
                        body,
                    },
                    descriptors,
                ))
            }
            Outgoing::Open(stream, kind) => {
                if let Some(opened) = self.streams.get_mut(&stream) {
                    opened.is_open = true;
                }
                self.tend(stream);
                Some((Frame::Open { stream, kind }, Vec::new()))
            }
        }
    }

    /// Takes a frame of the other end in, with the descriptors that belong to it.
    ///
    /// # Errors
    /// [`Violation`]: the link is of no more use.
    pub fn receive(&mut self, frame: Frame, descriptors: Vec<D>) -> Result<News, Violation> {
        match frame {
            Frame::Hello(_) | Frame::Foreign { .. } | Frame::Proof(_) | Frame::Refused { .. } => {
                Err(Violation::Handshake)
            }
            Frame::Message { body, .. } => {
                let cost = Limits::cost(body.len(), descriptors.len());
                self.allowance = self.allowance.checked_sub(cost).ok_or(Violation::Messages)?;
                self.incoming.push_back(Incoming { body, descriptors });
                Ok(News::Message)
            }
            Frame::Heartbeat { number } => Ok(News::Heartbeat(number)),
            Frame::Open { stream, kind } => self.opened(stream, kind),
            Frame::Credit {
                stream: StreamId::MESSAGES,
                bytes,
            } => {
                let credit = self
                    .credit
                    .saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
                self.credit = Some(credit)
                    .filter(|credit| *credit <= self.limits.message_window)
                    .ok_or(Violation::Credit)?;
                Ok(News::MessageCredit)
            }
            Frame::Data { stream, bytes } => self.on(stream, |found| found.data(&bytes)),
            Frame::Credit { stream, bytes } => self.on(stream, |found| found.credited(bytes)),
            Frame::End { stream } => self.on(stream, Stream::ended),
            Frame::Stop { stream } => self.on(stream, |found| {
                found.stopped();
                Ok(())
            }),
            Frame::Reset { stream, why } => self.on(stream, |found| {
                found.was_reset(why);
                Ok(())
            }),
        }
    }

    fn opened(&mut self, id: StreamId, kind: StreamKind) -> Result<News, Violation> {
        let by_supervisor = id.number() % 2 == 1;
        let (theirs, opener) = match self.side {
            Side::Supervisor => (!by_supervisor, Side::Runtime),
            Side::Runtime => (by_supervisor, Side::Supervisor),
        };
        if !theirs || id.number() <= self.greatest_of_theirs {
            return Err(Violation::Number);
        }
        if self.live(opener) >= self.limits.max_streams {
            return Err(Violation::TooMany);
        }
        self.greatest_of_theirs = id.number();
        self.streams
            .insert(id, Stream::new(self.limits.stream_window, true, false));
        self.arrivals.push_back((id, kind));
        Ok(News::Opened(id))
    }

    fn on(
        &mut self,
        id: StreamId,
        act: impl FnOnce(&mut Stream) -> Result<(), Violation>,
    ) -> Result<News, Violation> {
        let ours = (id.number() % 2 == 1) == (self.side == Side::Supervisor);
        let was_opened = if ours {
            id.number() < self.next
        } else {
            id.number() <= self.greatest_of_theirs
        };
        if !was_opened {
            return Err(Violation::NoStream);
        }
        // A stream that is over here may still be spoken of: the other end did not know yet.
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(News::None);
        };
        if !stream.is_open {
            return Err(Violation::NoStream);
        }
        act(stream)?;
        self.tend(id);
        Ok(News::Stream(id))
    }

    /// Bytes and messages kept for either direction; bounded by the limits whatever the other end does.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let messages: usize = self.incoming.iter().map(|message| message.body.len()).sum();
        messages + self.queued + self.streams.values().map(Stream::kept).sum::<usize>()
    }

    /// Streams that are not over.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }
}
