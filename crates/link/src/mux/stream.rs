//! One stream: two directions, each with a window of bytes and an end of its own.
//!
//! Called by the multiplexer, which keeps the numbers and the turns.

use std::collections::VecDeque;
use std::io::Read as _;

use super::Violation;
use crate::frame::{Frame, Reset, StreamId};
use crate::limits::MAX_DATA_BYTES;

/// The direction in which this end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// Nothing more is written; the end follows what still waits.
    Ending,
    /// The end was sent.
    Ended,
}

/// The direction in which this end receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Open,
    Ended,
}

/// What reading finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were put into the buffer, 1 or more.
    Bytes(usize),
    /// Nothing yet.
    Pending,
    /// The other end has said all.
    End,
    /// The stream was cut.
    Reset(Reset),
}

/// What writing finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// So many bytes were taken, 1 or more.
    Bytes(usize),
    /// No room yet.
    Pending,
    /// The other end reads no more, or this one has ended its direction.
    Closed,
    /// The stream was cut.
    Reset(Reset),
}

#[derive(Debug)]
pub(super) struct Stream {
    window: u32,
    /// Whether its opening was sent or received.
    pub(super) is_open: bool,
    /// Whether it waits for its turn to send.
    pub(super) in_turns: bool,
    /// Whether somebody here reads and writes it.
    pub(super) is_held: bool,
    waiting: VecDeque<u8>,
    credit: u32,
    sending: Sending,
    arrived: VecDeque<u8>,
    allowance: u32,
    /// Bytes that were read and not granted again.
    owed: u32,
    receiving: Receiving,
    discards: bool,
    must_stop: bool,
    must_reset: bool,
    cut: Option<Reset>,
}

impl Stream {
    pub(super) const fn new(window: u32, is_open: bool, is_held: bool) -> Self {
        Self {
            window,
            is_open,
            in_turns: false,
            is_held,
            waiting: VecDeque::new(),
            credit: window,
            sending: Sending::Open,
            arrived: VecDeque::new(),
            allowance: window,
            owed: 0,
            receiving: Receiving::Open,
            discards: false,
            must_stop: false,
            must_reset: false,
            cut: None,
        }
    }

    /// Whether the other end may still think that it is open.
    pub(super) const fn is_live(&self) -> bool {
        match self.cut {
            Some(_) => self.must_reset,
            None => !matches!((self.sending, self.receiving), (Sending::Ended, Receiving::Ended)),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Write {
        if let Some(why) = self.cut {
            return Write::Reset(why);
        }
        if self.sending != Sending::Open {
            return Write::Closed;
        }
        let room = usize::try_from(self.window).unwrap_or(usize::MAX) - self.waiting.len();
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        if taken.is_empty() {
            return Write::Pending;
        }
        self.waiting.extend(taken);
        Write::Bytes(taken.len())
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Read {
        if let Some(why) = self.cut {
            return Read::Reset(why);
        }
        // Reading from memory does not fail.
        let read = self.arrived.read(buffer).unwrap_or_default();
        match (read, self.receiving) {
            (0, Receiving::Ended) => Read::End,
            (0, Receiving::Open) => Read::Pending,
            (read, _) => {
                self.owed += u32::try_from(read).unwrap_or(u32::MAX);
                if self.arrived.is_empty() {
                    self.arrived = VecDeque::new();
                }
                Read::Bytes(read)
            }
        }
    }

    /// Nothing more will be written.
    pub(super) fn end(&mut self) {
        if self.sending == Sending::Open {
            self.sending = Sending::Ending;
        }
    }

    /// Nothing more will be read.
    fn stop(&mut self) {
        self.arrived = VecDeque::new();
        self.must_stop = self.receiving == Receiving::Open && !self.discards;
        self.discards = true;
    }

    /// Cuts it from this end.
    pub(super) fn reset(&mut self, why: Reset) {
        if self.cut.is_none() && self.is_live() {
            self.must_reset = true;
            self.cut_off(why);
        }
    }

    fn cut_off(&mut self, why: Reset) {
        self.cut = Some(why);
        self.waiting = VecDeque::new();
        self.arrived = VecDeque::new();
    }

    /// Nobody here reads or writes it any more. What was written and ended is still sent; what was not ended is cut.
    pub(super) fn let_go(&mut self) {
        self.is_held = false;
        match self.sending {
            Sending::Open => self.reset(Reset::Dropped),
            Sending::Ending | Sending::Ended => self.stop(),
        }
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.cut.is_some() {
            return Ok(());
        }
        if self.receiving == Receiving::Ended {
            return Err(Violation::AfterEnd);
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.allowance = self
            .allowance
            .checked_sub(length)
            .ok_or(Violation::BeyondWindow)?;
        if !self.discards {
            self.arrived.extend(bytes);
        }
        Ok(())
    }

    pub(super) fn credited(&mut self, bytes: u32) -> Result<(), Violation> {
        let credit = self
            .credit
            .checked_add(bytes)
            .filter(|credit| *credit <= self.window);
        self.credit = credit.ok_or(Violation::Credit)?;
        Ok(())
    }

    pub(super) fn ended(&mut self) -> Result<(), Violation> {
        if self.receiving == Receiving::Ended && self.cut.is_none() {
            return Err(Violation::AfterEnd);
        }
        self.receiving = Receiving::Ended;
        if self.sending == Sending::Ended {
            // Both have said all: the other end may open another in its place, and a reset says nothing more.
            self.must_reset = false;
        }
        Ok(())
    }

    /// The other end reads no more: what waits for it goes, and the end follows.
    pub(super) fn stopped(&mut self) {
        self.waiting = VecDeque::new();
        self.end();
    }

    pub(super) fn was_reset(&mut self, why: Reset) {
        // What was cut here is over with the first of the two resets.
        self.must_reset = false;
        if self.cut.is_none() {
            self.cut_off(why);
        }
    }

    /// Whether a turn would send something.
    pub(super) fn wants_turn(&self) -> bool {
        if !self.is_open {
            return false;
        }
        if self.cut.is_some() {
            return self.must_reset;
        }
        self.must_stop
            || self.grant() > 0
            || (self.credit > 0 && !self.waiting.is_empty())
            || (self.waiting.is_empty() && self.sending == Sending::Ending)
    }

    /// Bytes to grant now: in halves of the window, so that few frames are needed and the sender never runs dry.
    const fn grant(&self) -> u32 {
        let open = matches!(self.receiving, Receiving::Open) && !self.discards;
        if open && self.owed >= self.window / 2 {
            self.owed
        } else {
            0
        }
    }

    /// The next frame of this stream.
    pub(super) fn turn(&mut self, stream: StreamId) -> Option<Frame> {
        if let Some(why) = self.cut {
            let must = std::mem::take(&mut self.must_reset);
            return must.then_some(Frame::Reset { stream, why });
        }
        if std::mem::take(&mut self.must_stop) {
            return Some(Frame::Stop { stream });
        }
        let bytes = self.grant();
        if bytes > 0 {
            self.owed = 0;
            self.allowance += bytes;
            return Some(Frame::Credit { stream, bytes });
        }
        let most = usize::try_from(self.credit)
            .unwrap_or(usize::MAX)
            .min(MAX_DATA_BYTES);
        let bytes: Vec<u8> = self.waiting.drain(..most.min(self.waiting.len())).collect();
        if !bytes.is_empty() {
            self.credit -= u32::try_from(bytes.len()).unwrap_or(self.credit);
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
            }
            return Some(Frame::Data { stream, bytes });
        }
        if self.sending == Sending::Ending && self.waiting.is_empty() {
            self.sending = Sending::Ended;
            return Some(Frame::End { stream });
        }
        None
    }

    /// Bytes kept for it.
    pub(super) fn kept(&self) -> usize {
        self.waiting.len() + self.arrived.len()
    }
}
