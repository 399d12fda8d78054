//! The thread of a relay's asking end: writes what is queued, reads what comes, gives up what stays unanswered.
//!
//! Not here: what is asked. Called by the client.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::wire::{self, Call, Greeting, Refused, Request, Response, ServerFrame};
use crate::{Error, frame};

/// Bytes that wait to be written at most.
const MAX_QUEUED: usize = 2 * wire::MAX_FRAME;

/// Calls that wait for an answer at most.
const MAX_PENDING: usize = 256;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

pub(super) type Outcome = Result<Response, Error>;

#[derive(Debug)]
struct Pending {
    until: Instant,
    answer: oneshot::Sender<Outcome>,
}

#[derive(Debug, Default)]
struct State {
    number: u64,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    pending: HashMap<u64, Pending>,
    /// Why there will be no more answers.
    ended: Option<String>,
}

/// A connection and what waits for it.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    wake: EventFd,
    state: Mutex<State>,
    greeting: OnceLock<Greeting>,
}

impl Link {
    /// Over a connected socket; the thread runs until [`Link::end`] or the socket's end.
    pub(super) fn start(stream: UnixStream) -> io::Result<Arc<Self>> {
        stream.set_nonblocking(true)?;
        let link = Arc::new(Self {
            stream,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            state: Mutex::default(),
            greeting: OnceLock::new(),
        });
        let theirs = Arc::clone(&link);
        std::thread::Builder::new()
            .name("depot-relay".to_owned())
            .stack_size(256 << 10)
            .spawn(move || theirs.run())?;
        Ok(link)
    }

    /// What the other end said first, once it has.
    pub(super) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.get()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unreachable(&self, why: &str) -> Error {
        let depot = self
            .greeting
            .get()
            .map_or("behind the relay", |greeting| &greeting.depot);
        Error::Unreachable(depot.to_owned(), Some(why.into()))
    }

    /// Queues a call; what is returned resolves with its answer, or without one at the relay's end.
    pub(super) fn ask(&self, call: Call, patience: Duration) -> Result<oneshot::Receiver<Outcome>, Error> {
        let (answer, wait) = oneshot::channel();
        let mut state = self.lock();
        if let Some(why) = &state.ended {
            return Err(self.unreachable(why));
        }
        state.pending.retain(|_, pending| !pending.answer.is_closed());
        if state.pending.len() >= MAX_PENDING || state.queued > MAX_QUEUED {
            return Err(self.unreachable("too many calls are waiting already"));
        }
        let number = state.number;
        let frame = wire::encode(&Request(number, call))?;
        state.number += 1;
        state.queued += frame.len();
        state.queue.push_back(frame);
        let now = Instant::now();
        let until = now
            .checked_add(patience)
            .unwrap_or_else(|| now + Duration::from_secs(3_600));
        state.pending.insert(number, Pending { until, answer });
        drop(state);
        let _ = self.wake.write(1);
        Ok(wait)
    }

    /// Answers all who wait and lets the thread end.
    pub(super) fn close(&self) {
        self.end("the client is gone");
        let _ = self.wake.write(1);
    }

    fn end(&self, why: &str) {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| why.to_owned());
        state.queue.clear();
        // Their senders are dropped, which answers them.
        state.pending.clear();
    }

    fn run(&self) {
        let why = match self.exchange() {
            Ok(()) => "the other end has closed it".to_owned(),
            Err(error) => frame::told(&error),
        };
        self.end(&why);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn exchange(&self) -> io::Result<()> {
        let (mut out, mut written) = (Vec::new(), 0);
        let mut arrived = Vec::new();
        loop {
            let next = {
                let mut state = self.lock();
                if state.ended.is_some() {
                    return Ok(());
                }
                if written == out.len() {
                    (out, written) = (state.queue.pop_front().unwrap_or_default(), 0);
                    state.queued -= out.len();
                }
                state.pending.values().map(|pending| pending.until).min()
            };
            self.pause(next, written < out.len())?;
            if !self.receive(&mut arrived)? {
                return Ok(());
            }
            if let Some(rest) = out.get(written..).filter(|rest| !rest.is_empty()) {
                match (&self.stream).write(rest) {
                    Ok(count) => written += count,
                    Err(error) if is_later(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            self.give_up();
        }
    }

    /// Until there is something to do, or `next` has come.
    fn pause(&self, next: Option<Instant>, writes: bool) -> io::Result<()> {
        let timeout = next.map_or(PollTimeout::NONE, |next| {
            let left = next.saturating_duration_since(Instant::now()).as_millis() + 1;
            i32::try_from(left)
                .ok()
                .and_then(|left| left.try_into().ok())
                .unwrap_or(PollTimeout::MAX)
        });
        let wanted = if writes {
            PollFlags::POLLIN | PollFlags::POLLOUT
        } else {
            PollFlags::POLLIN
        };
        let mut polled = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stream.as_fd(), wanted),
        ];
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let _ = self.wake.read();
        Ok(())
    }

    /// Reads what has come and answers; `false` at the end.
    fn receive(&self, arrived: &mut Vec<u8>) -> io::Result<bool> {
        let start = arrived.len();
        arrived.resize(start + CHUNK, 0);
        let read = (&self.stream).read(arrived.get_mut(start..).unwrap_or_default());
        arrived.truncate(start + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if is_later(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
        let refused = |refused: Refused| io::Error::new(ErrorKind::InvalidData, refused);
        let mut taken = 0;
        while let Some((frame, used)) =
            wire::split(arrived.get(taken..).unwrap_or_default()).map_err(refused)?
        {
            self.take(wire::decode(frame).map_err(refused)?)
                .map_err(refused)?;
            taken += used;
        }
        arrived.drain(..taken);
        Ok(true)
    }

    fn take(&self, frame: ServerFrame) -> Result<(), Refused> {
        match frame {
            ServerFrame::Greeting(greeting) if greeting.v != wire::VERSION => {
                return Err(Refused::Version(greeting.v));
            }
            ServerFrame::Greeting(greeting) => drop(self.greeting.set(greeting)),
            ServerFrame::Reply(number, outcome) => {
                if let Some(pending) = self.lock().pending.remove(&number) {
                    let _ = pending.answer.send(outcome.map_err(Error::from));
                }
            }
        }
        Ok(())
    }

    /// Answers those who have waited too long.
    fn give_up(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let late: Vec<Pending> = state
            .pending
            .extract_if(|_, pending| pending.until <= now)
            .map(|(_, pending)| pending)
            .collect();
        drop(state);
        for pending in late {
            let _ = pending
                .answer
                .send(Err(self.unreachable("the other end of the relay does not answer")));
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
