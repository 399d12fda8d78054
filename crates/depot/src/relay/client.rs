//! The asking end of a relay: a depot behind a socket, under any executor.
//!
//! One thread of its own writes what is queued, reads what comes and gives up what stays unanswered; so calls may come
//! from any thread and any executor, and a heartbeat does not wait for an event loop.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde_bytes::ByteBuf;
use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ObjectId};
use tokio::sync::oneshot;

use super::wire::{self, Answered, Call, Greeting, Refused, Request, Seen, Told, milliseconds};
use crate::{
    Answer, Attendance, Depot, Error, MAX_BUNDLE, MAX_SEGMENT, Posted, Presence, Swap, Version, Waiting,
    frame, segment,
};

/// How long an answer is waited for: longer than any backend takes to give up.
const PATIENCE: Duration = Duration::from_secs(40);

/// Bytes that wait to be written at most.
const MAX_QUEUED: usize = 2 * wire::MAX_FRAME;

/// Calls that wait for an answer at most.
const MAX_PENDING: usize = 256;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

type Outcome = Result<Answered, Error>;

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

#[derive(Debug)]
struct Link {
    stream: UnixStream,
    wake: EventFd,
    state: Mutex<State>,
    greeting: OnceLock<Greeting>,
}

/// A depot behind a socket that [`super::serve`] serves. Ends with the socket: every call is unreachable from then on.
#[derive(Debug)]
pub struct Client {
    link: Arc<Link>,
}

impl Client {
    /// Over a connected socket. Nothing is waited for.
    ///
    /// # Errors
    /// Where the system has no descriptor or thread left.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let link = Arc::new(Link {
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
        Ok(Self { link })
    }

    fn call<'a, T: 'a>(
        &'a self,
        call: Call,
        patience: Duration,
        read: impl FnOnce(Answered) -> Option<T> + Send + 'a,
    ) -> Answer<'a, T> {
        let wait = self.link.ask(call, patience);
        Box::pin(async move {
            let answered = match wait?.await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(self.link.unreachable("the relay has ended")),
            };
            read(answered).ok_or_else(|| frame::garbage("relay", "the answer is to another question"))
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.end("the client is gone");
        let _ = self.link.wake.write(1);
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreachable(&self, why: &str) -> Error {
        let depot = self
            .greeting
            .get()
            .map_or("behind the relay", |greeting| &greeting.depot);
        Error::Unreachable(depot.to_owned(), Some(why.into()))
    }

    fn ask(&self, call: Call, patience: Duration) -> Result<oneshot::Receiver<Outcome>, Error> {
        let (answer, wait) = oneshot::channel();
        let mut state = self.lock();
        if let Some(why) = &state.ended {
            return Err(self.unreachable(why));
        }
        state.pending.retain(|_, pending| !pending.answer.is_closed());
        if state.pending.len() >= MAX_PENDING || state.queued > MAX_QUEUED {
            return Err(self.unreachable("too many calls wait already"));
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
            self.told(wire::decode(frame).map_err(refused)?)
                .map_err(refused)?;
            taken += used;
        }
        arrived.drain(..taken);
        Ok(true)
    }

    fn told(&self, told: Told) -> Result<(), Refused> {
        match told {
            Told::Greeting(greeting) if greeting.v != wire::VERSION => {
                return Err(Refused::Version(greeting.v));
            }
            Told::Greeting(greeting) => drop(self.greeting.set(greeting)),
            Told::Reply(number, outcome) => {
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

fn found(found: Option<(Mark, ByteBuf)>) -> Option<(Mark, Version)> {
    found.map(|(mark, version)| (mark, Version(version.into_vec())))
}

fn nothing(answered: Answered) -> Option<()> {
    match answered {
        Answered::Nothing => Some(()),
        other => {
            drop(other);
            None
        }
    }
}

fn bytes(answered: Answered) -> Option<Option<Vec<u8>>> {
    match answered {
        Answered::Bytes(bytes) => Some(bytes.map(ByteBuf::into_vec)),
        _ => None,
    }
}

impl Depot for Client {
    fn describe(&self) -> String {
        let greeting = self.link.greeting.get();
        greeting.map_or_else(
            || "behind the relay".to_owned(),
            |greeting| greeting.depot.clone(),
        )
    }

    fn pace(&self) -> Duration {
        let greeting = self.link.greeting.get();
        Duration::from_millis(greeting.map_or(0, |greeting| greeting.pace_ms))
    }

    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.call(Call::Mark(object), PATIENCE, |answered| match answered {
            Answered::Mark(mark) => Some(found(mark)),
            _ => None,
        })
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        let expected = expected.map(|version| ByteBuf::from(version.0.clone()));
        let call = Call::Swap(Box::new(mark.clone()), expected);
        self.call(call, PATIENCE, |answered| match answered {
            Answered::Swapped(version) => Some(Swap::Done(Version(version.into_vec()))),
            Answered::Mark(present) => Some(Swap::Conflict(found(present))),
            _ => None,
        })
    }

    fn attend(&self, _object: ObjectId, _holder: HolderId) -> Answer<'_, Option<Arc<dyn Attendance>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence> {
        self.call(
            Call::Presence(object, holder),
            PATIENCE,
            |answered| match answered {
                Answered::Presence(Seen::Here) => Some(Presence::Here),
                Answered::Presence(Seen::Gone) => Some(Presence::Gone),
                Answered::Presence(Seen::Unknown) => Some(Presence::Unknown),
                _ => None,
            },
        )
    }

    fn announce<'a>(&'a self, object: ObjectId, bytes: &'a [u8], due: Option<Timestamp>) -> Answer<'a, ()> {
        if let Err(error) = frame::announce(bytes, due) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.call(
            Call::Announce(object, ByteBuf::from(bytes), due),
            PATIENCE,
            nothing,
        )
    }

    fn announcement(&self, object: ObjectId) -> Answer<'_, Option<Vec<u8>>> {
        self.call(Call::Announcement(object), PATIENCE, bytes)
    }

    fn announced(&self, after: Option<ObjectId>, limit: usize) -> Answer<'_, Vec<ObjectId>> {
        self.call(
            Call::Announced(after, limit as u64),
            PATIENCE,
            |answered| match answered {
                Answered::Objects(objects) => Some(objects),
                _ => None,
            },
        )
    }

    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>> {
        self.call(
            Call::Due(until, limit as u64),
            PATIENCE,
            |answered| match answered {
                Answered::Due(due) => Some(due),
                _ => None,
            },
        )
    }

    fn put_segment<'a>(
        &'a self,
        object: ObjectId,
        positions: RangeInclusive<u64>,
        bytes: &'a [u8],
    ) -> Answer<'a, ()> {
        let allowed =
            segment::check(&positions).and_then(|()| frame::bounded("the segment", bytes, MAX_SEGMENT));
        if let Err(error) = allowed {
            return Box::pin(std::future::ready(Err(error)));
        }
        let (first, last) = positions.into_inner();
        let call = Call::PutSegment(object, first, last, ByteBuf::from(bytes));
        self.call(call, PATIENCE, nothing)
    }

    fn segments(&self, object: ObjectId) -> Answer<'_, Vec<RangeInclusive<u64>>> {
        self.call(Call::Segments(object), PATIENCE, |answered| match answered {
            Answered::Segments(found) => Some(found.into_iter().map(|(first, last)| first..=last).collect()),
            _ => None,
        })
    }

    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>> {
        let (first, last) = positions.into_inner();
        self.call(Call::Segment(object, first, last), PATIENCE, bytes)
    }

    fn put_bundle<'a>(&'a self, id: BundleId, content: &'a [u8]) -> Answer<'a, ()> {
        if let Err(error) = frame::bounded("the bundle", content, MAX_BUNDLE) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.call(Call::PutBundle(id, ByteBuf::from(content)), PATIENCE, nothing)
    }

    fn bundle(&self, id: BundleId) -> Answer<'_, Option<Vec<u8>>> {
        self.call(Call::Bundle(id), PATIENCE, bytes)
    }

    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted> {
        let call = Call::Post(object, Box::new(message.clone()));
        self.call(call, PATIENCE, |answered| match answered {
            Answered::Posted(true) => Some(Posted::Stored),
            Answered::Posted(false) => Some(Posted::Duplicate),
            _ => None,
        })
    }

    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>> {
        self.call(
            Call::Inbox(object, limit as u64),
            PATIENCE,
            |answered| match answered {
                Answered::Inbox(inbox) => {
                    let waiting = |(place, message)| Waiting { place, message };
                    Some(inbox.into_iter().map(waiting).collect())
                }
                _ => None,
            },
        )
    }

    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()> {
        self.call(Call::Acknowledge(object, messages.to_vec()), PATIENCE, nothing)
    }

    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()> {
        let call = Call::InboxChanged(object, milliseconds(at_most));
        self.call(call, at_most.saturating_add(PATIENCE), nothing)
    }
}
