//! The inside of a link: transport, handshake and multiplexer behind one lock, and who waits for what.
//!
//! The driver polls it; handles and streams change it and write at once what the transport takes, so that a word needs no
//! turn of another task. Not here: what messages say.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::decoder::Decoder;
use crate::frame::{Frame, FrameError, Refusal, StreamId};
use crate::handshake::{Handshake, HandshakeError, Side, Step, VERSION};
use crate::identity::ActivationId;
use crate::limits::{HEADER_BYTES, Limits, MAX_DATA_BYTES, MAX_DESCRIPTORS};
use crate::message::MessageError;
use crate::mux::{Mux, News, Violation};
use crate::transport::Transport;

/// Bytes that are collected for one write at most, the last frame not counted.
const WRITE_BYTES: usize = 32 << 10;

/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;

/// Reads in one turn of the driver at most, so that other tasks have theirs.
const READS_A_TURN: usize = 32;

/// Why a link has ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// The other end has closed it, or is gone.
    #[error("the other end of the link is gone")]
    Closed,
    /// It was closed here.
    #[error("the link was closed")]
    Abandoned,
    /// The connection failed.
    #[error("the connection of the link failed")]
    Connection(#[source] Arc<std::io::Error>),
    /// The ends do not belong together.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Bytes that are no frame.
    #[error("the other end of the link sends bytes that are not a frame")]
    Frame(#[from] FrameError),
    /// A frame that must not come.
    #[error("the other end of the link does not keep to the protocol")]
    Violation(#[from] Violation),
    /// A message that is none.
    #[error("the other end of the link sends bytes that are not a message")]
    Message(#[source] Arc<MessageError>),
    /// Descriptors that belong to no frame, or the other way round.
    #[error("the descriptors of the link are not those that its frames speak of")]
    Descriptors,
}

/// Tasks that wait for one thing.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Vec<Waker>);

impl Waiting {
    pub(crate) fn add(&mut self, waker: &Waker) {
        if !self.0.iter().any(|known| known.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }

    fn wake(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

pub(crate) struct State {
    transport: Option<Box<dyn Transport>>,
    decoder: Decoder,
    came: VecDeque<OwnedFd>,
    out: Vec<u8>,
    written: usize,
    out_descriptors: Vec<OwnedFd>,
    /// A frame with descriptors, which begins a write of its own.
    next: Option<(Frame, Vec<OwnedFd>)>,
    first: VecDeque<Frame>,
    handshake: Option<Handshake>,
    may_talk: bool,
    pub(crate) mux: Mux<OwnedFd>,
    pub(crate) limits: Limits,
    pub(crate) passes_descriptors: bool,
    pub(crate) activation: Option<ActivationId>,
    pub(crate) ended: Option<LinkError>,
    /// The other end takes nothing more; what it said is still to be read.
    deaf: bool,
    pub(crate) heard: Instant,
    driver: Option<Waker>,
    pub(crate) takers: Waiting,
    pub(crate) senders: Waiting,
    pub(crate) acceptors: Waiting,
    pub(crate) established: Waiting,
    pub(crate) flushers: Waiting,
    pub(crate) streams: HashMap<StreamId, Waiting>,
}

impl State {
    pub(crate) fn new(
        transport: Box<dyn Transport>,
        side: Side,
        handshake: Handshake,
        limits: Limits,
    ) -> Self {
        Self {
            passes_descriptors: transport.passes_descriptors(),
            transport: Some(transport),
            decoder: Decoder::new(limits),
            came: VecDeque::new(),
            out: Vec::new(),
            written: 0,
            out_descriptors: Vec::new(),
            next: None,
            first: VecDeque::from([handshake.hello()]),
            may_talk: handshake.may_go_on(),
            handshake: Some(handshake),
            mux: Mux::new(side, limits),
            limits,
            activation: None,
            ended: None,
            deaf: false,
            heard: Instant::now(),
            driver: None,
            takers: Waiting::default(),
            senders: Waiting::default(),
            acceptors: Waiting::default(),
            established: Waiting::default(),
            flushers: Waiting::default(),
            streams: HashMap::new(),
        }
    }

    /// Reads and writes what is possible; ready when the link has ended.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) -> Poll<LinkError> {
        if !self
            .driver
            .as_ref()
            .is_some_and(|known| known.will_wake(context.waker()))
        {
            self.driver = Some(context.waker().clone());
        }
        for _ in 0..READS_A_TURN {
            let came = self.read(context);
            self.write(context);
            if let Some(ended) = &self.ended {
                return Poll::Ready(ended.clone());
            }
            if came.is_pending() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes at once what has just been queued; the driver goes on where the transport does not take all.
    pub(crate) fn push(&mut self) {
        let waker = self.driver.clone().unwrap_or_else(|| Waker::noop().clone());
        self.write(&mut Context::from_waker(&waker));
        if self.ended.is_some() {
            waker.wake();
        }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(transport) = &mut self.transport else {
            return Poll::Pending;
        };
        let mut buffer = [0; READ_BYTES];
        let mut descriptors = Vec::new();
        let read = match transport.poll_read(context, &mut buffer, &mut descriptors) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => {
                self.end(LinkError::Closed);
                return Poll::Ready(());
            }
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => {
                self.end(LinkError::Connection(Arc::new(error)));
                return Poll::Ready(());
            }
        };
        self.came.extend(descriptors);
        self.decoder.feed(buffer.get(..read).unwrap_or_default());
        if let Err(error) = self.take_frames() {
            self.fail(error);
        }
        Poll::Ready(())
    }

    fn take_frames(&mut self) -> Result<(), LinkError> {
        while let Some(frame) = self.decoder.next_frame()? {
            self.heard = Instant::now();
            let count = match &frame {
                Frame::Message { descriptors, .. } => usize::from(*descriptors),
                _ => 0,
            };
            if count > self.came.len() {
                return Err(LinkError::Descriptors);
            }
            let descriptors = self.came.drain(..count).collect();
            self.frame(frame, descriptors)?;
        }
        let left_over = if self.decoder.is_inside_a_frame() {
            MAX_DESCRIPTORS
        } else {
            0
        };
        if self.came.len() > left_over {
            return Err(LinkError::Descriptors);
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame, descriptors: Vec<OwnedFd>) -> Result<(), LinkError> {
        if let Some(handshake) = &mut self.handshake {
            match handshake.on(&frame)? {
                Step::Send(frame) => self.first.push_back(frame),
                Step::Done(activation) => {
                    self.handshake = None;
                    self.may_talk = true;
                    self.activation = Some(activation);
                    self.established.wake();
                }
            }
            return Ok(());
        }
        if let Frame::Refused { refusal, .. } = frame {
            return Err(HandshakeError::Refused(refusal).into());
        }
        match self.mux.receive(frame, descriptors)? {
            News::Message => self.takers.wake(),
            News::MessageCredit => self.senders.wake(),
            News::Opened(_) => self.acceptors.wake(),
            News::Stream(id) => self.wake_stream(id),
            News::None | News::Heartbeat(_) => {}
        }
        Ok(())
    }

    fn wake_stream(&mut self, id: StreamId) {
        if let Some(waiting) = self.streams.get_mut(&id) {
            waiting.wake();
        }
    }

    fn write(&mut self, context: &mut Context<'_>) {
        loop {
            if self.written == self.out.len() {
                self.fill();
            }
            let rest = self.out.get(self.written..).unwrap_or_default();
            let Some(transport) = self.transport.as_mut().filter(|_| !self.deaf) else {
                return;
            };
            if rest.is_empty() {
                // What was flushed or failed shows at the next read or write.
                if transport.poll_flush(context).is_ready() {
                    self.flushers.wake();
                }
                return;
            }
            match transport.poll_write(context, rest, &self.out_descriptors) {
                Poll::Pending => return,
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.written += written;
                    self.out_descriptors.clear();
                }
                Poll::Ready(_) => {
                    // Reading finds what it said last, and its end.
                    self.deaf = true;
                    self.senders.wake();
                    self.flushers.wake();
                }
            }
        }
    }

    /// Collects frames for the next write.
    fn fill(&mut self) {
        self.out.clear();
        self.out.shrink_to(HEADER_BYTES + 8 + MAX_DATA_BYTES);
        self.written = 0;
        while let Some(frame) = self.first.pop_front() {
            frame.write(&mut self.out);
        }
        if !self.may_talk {
            return;
        }
        while self.out.len() < WRITE_BYTES {
            let Some((frame, descriptors)) = self.next.take().or_else(|| self.mux.transmit()) else {
                return;
            };
            if !descriptors.is_empty() && !self.out.is_empty() {
                self.next = Some((frame, descriptors));
                return;
            }
            frame.write(&mut self.out);
            self.out_descriptors.extend(descriptors);
            match frame {
                Frame::Message { .. } => self.senders.wake(),
                Frame::Data { stream, .. } => self.wake_stream(stream),
                _ => {}
            }
        }
    }

    /// Whether nothing more can be sent.
    pub(crate) const fn is_over(&self) -> bool {
        self.deaf || self.ended.is_some()
    }

    /// Whether everything that was queued has left.
    pub(crate) fn is_flushed(&self) -> bool {
        let idle = self.mux.is_idle() && self.next.is_none() && self.first.is_empty();
        self.is_over() || (idle && self.written == self.out.len())
    }

    /// Tells the other end why, as far as it listens, and ends.
    fn fail(&mut self, error: LinkError) {
        let refusal = match &error {
            LinkError::Handshake(error) => error.refusal(),
            _ => Some(Refusal::Violation),
        };
        if let Some(refusal) = refusal {
            // Behind what is half written; nothing else follows it.
            self.may_talk = false;
            self.first.push_back(Frame::Refused {
                version: VERSION,
                refusal,
            });
            self.write(&mut Context::from_waker(Waker::noop()));
        }
        self.end(error);
    }

    /// Ends the link; all who wait learn it.
    pub(crate) fn end(&mut self, why: LinkError) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(why);
        self.transport = None;
        self.came.clear();
        let all = [
            &mut self.takers,
            &mut self.senders,
            &mut self.acceptors,
            &mut self.established,
            &mut self.flushers,
        ];
        all.into_iter()
            .chain(self.streams.values_mut())
            .for_each(Waiting::wake);
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}
