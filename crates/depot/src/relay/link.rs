//! A relay's asking end: writes what is queued, reads what comes, gives up what stays unanswered; on a thread of its own, or as
//! a task of the caller's event loop.
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
use tokio::io::Interest;
use tokio::sync::{Notify, oneshot};

use super::wire::{self, Call, Greeting, Refused, Request, Response, ServerFrame};
use crate::{Error, frame};

/// Bytes that wait to be written at most.
const MAX_QUEUED: usize = 2 * wire::MAX_FRAME;

/// Calls that wait for an answer at most.
const MAX_PENDING: usize = 256;

/// Bytes read at once: nearly every answer, and little for a machine to keep.
const CHUNK: usize = 16 << 10;

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

/// How whoever exchanges is told that something is queued.
#[derive(Debug)]
enum Wake {
    Thread(EventFd),
    Task(Notify),
}

impl Wake {
    fn wake(&self) {
        match self {
            Self::Thread(event) => drop(event.write(1)),
            Self::Task(notify) => notify.notify_one(),
        }
    }
}

/// What is on its way over the socket.
#[derive(Default)]
struct Exchange {
    out: Vec<u8>,
    written: usize,
    arrived: Vec<u8>,
}

impl Exchange {
    fn writes(&self) -> bool {
        self.written < self.out.len()
    }
}

/// A socket that is not waited for.
trait Socket {
    fn take(&self, into: &mut [u8]) -> io::Result<usize>;
    fn put(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl Socket for UnixStream {
    fn take(&self, into: &mut [u8]) -> io::Result<usize> {
        (&mut &*self).read(into)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(bytes)
    }
}

impl Socket for tokio::net::UnixStream {
    fn take(&self, into: &mut [u8]) -> io::Result<usize> {
        self.try_read(into)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }
}

/// A connection and what waits for it.
#[derive(Debug)]
pub(super) struct Link {
    wake: Wake,
    state: Mutex<State>,
    greeting: OnceLock<Greeting>,
}

impl Link {
    /// Over a connected socket; the thread runs until [`Link::end`] or the socket's end.
    pub(super) fn start(stream: UnixStream) -> io::Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        stream.set_nonblocking(true)?;
        let link = Self::woken_by(Wake::Thread(event));
        let theirs = Arc::clone(&link);
        std::thread::Builder::new()
            .name("depot-relay".to_owned())
            .stack_size(256 << 10)
            .spawn(move || theirs.run(&stream))?;
        Ok(link)
    }

    /// The same as a task of the event loop that this is called on.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task ends with the link, which knows of it, or with its loop; a set of tasks in the link would hold itself"
    )]
    pub(super) fn start_here(stream: UnixStream) -> io::Result<Arc<Self>> {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        let link = Self::woken_by(Wake::Task(Notify::new()));
        let theirs = Arc::clone(&link);
        drop(tokio::spawn(async move { theirs.run_here(&stream).await }));
        Ok(link)
    }

    fn woken_by(wake: Wake) -> Arc<Self> {
        Arc::new(Self {
            wake,
            state: Mutex::default(),
            greeting: OnceLock::new(),
        })
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
        self.wake.wake();
        Ok(wait)
    }

    /// Answers all who wait and lets the exchange end.
    pub(super) fn close(&self) {
        self.end("the client is gone");
        self.wake.wake();
    }

    fn end(&self, why: &str) {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| why.to_owned());
        state.queue.clear();
        // Their senders are dropped, which answers them.
        state.pending.clear();
    }

    fn run(&self, stream: &UnixStream) {
        let mut exchange = Exchange::default();
        let ended = loop {
            match self.begin(&mut exchange) {
                Some(next) => match self.pause(stream, next, exchange.writes()) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                None => break Ok(()),
            }
            match self.go_on(stream, &mut exchange) {
                Ok(true) => {}
                other => break other.map(drop),
            }
        };
        self.ended(ended);
    }

    async fn run_here(&self, stream: &tokio::net::UnixStream) {
        let mut exchange = Exchange::default();
        let ended = loop {
            let Some(next) = self.begin(&mut exchange) else {
                break Ok(());
            };
            if let Err(error) = self.pause_here(stream, next, exchange.writes()).await {
                break Err(error);
            }
            match self.go_on(stream, &mut exchange) {
                Ok(true) => {}
                other => break other.map(drop),
            }
        };
        self.ended(ended);
    }

    fn ended(&self, ended: io::Result<()>) {
        let why = match ended {
            Ok(()) => "the other end has closed it".to_owned(),
            Err(error) => frame::told(&error),
        };
        self.end(&why);
    }

    /// Takes what is to be written next; until when somebody waits, if at all. Nothing where there will be no more.
    fn begin(&self, exchange: &mut Exchange) -> Option<Option<Instant>> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return None;
        }
        if !exchange.writes() {
            exchange.out = state.queue.pop_front().unwrap_or_default();
            exchange.written = 0;
            state.queued -= exchange.out.len();
        }
        Some(state.pending.values().map(|pending| pending.until).min())
    }

    /// Reads and writes as much as goes; `false` at the end.
    fn go_on(&self, stream: &impl Socket, exchange: &mut Exchange) -> io::Result<bool> {
        if !self.receive(stream, &mut exchange.arrived)? {
            return Ok(false);
        }
        if let Some(rest) = exchange
            .out
            .get(exchange.written..)
            .filter(|rest| !rest.is_empty())
        {
            match stream.put(rest) {
                Ok(count) => exchange.written += count,
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.give_up();
        Ok(true)
    }

    /// Until there is something to do, or `next` has come.
    async fn pause_here(
        &self,
        stream: &tokio::net::UnixStream,
        next: Option<Instant>,
        writes: bool,
    ) -> io::Result<()> {
        let Wake::Task(queued) = &self.wake else {
            return Ok(());
        };
        let wanted = if writes {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        let late = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = stream.ready(wanted) => drop(ready?),
            () = queued.notified() => {}
            () = late => {}
        }
        Ok(())
    }

    /// The same on a thread of its own.
    fn pause(&self, stream: &UnixStream, next: Option<Instant>, writes: bool) -> io::Result<()> {
        let Wake::Thread(event) = &self.wake else {
            return Ok(());
        };
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
            PollFd::new(event.as_fd(), PollFlags::POLLIN),
            PollFd::new(stream.as_fd(), wanted),
        ];
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let _ = event.read();
        Ok(())
    }

    /// Reads what has come and answers; `false` at the end.
    fn receive(&self, stream: &impl Socket, arrived: &mut Vec<u8>) -> io::Result<bool> {
        let start = arrived.len();
        arrived.resize(start + CHUNK, 0);
        let read = stream.take(arrived.get_mut(start..).unwrap_or_default());
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
