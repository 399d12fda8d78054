//! The asking end of a relay: a depot behind a socket, under any executor.
//!
//! One thread of its own writes what is queued, reads what comes and gives up what stays unanswered; so calls may come
//! from any thread and any executor, and a heartbeat does not wait for an event loop. Or a task of the caller's loop does,
//! which costs a machine no thread ([`Client::here`]).

use std::io;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_bytes::ByteBuf;
use suijuris_core::class::Key;
use suijuris_core::class::founding::Entry;
use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ClassId, ObjectId};

use super::link::Link;
use super::wire::{Call, Response, milliseconds};
use crate::{
    Answer, Archive, Depot, Directory, Epoch, Error, Inbox, MAX_BUNDLE, MAX_SEGMENT, Marks, NameRemoval,
    NameSwap, Posted, Presence, PresenceGuard, Swap, Version, Waiting, frame, segment,
};

/// How long an answer is waited for: longer than any backend takes to give up.
const PATIENCE: Duration = Duration::from_secs(40);

/// A depot behind a socket that [`super::serve`] serves. With the socket's end every call is unreachable, until another
/// socket takes its place.
#[derive(Debug)]
pub struct Client {
    link: Mutex<Arc<Link>>,
    start: fn(UnixStream) -> io::Result<Arc<Link>>,
    /// The name that was said last: whoever serves next is told it first.
    registered: Mutex<Option<(ObjectId, HolderId)>>,
}

impl Client {
    /// Over a connected socket. Nothing is waited for.
    ///
    /// # Errors
    /// Where the system has no descriptor or thread left.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Self::started_by(stream, Link::start)
    }

    /// The same without a thread, on the event loop that this is called on; so is [`Client::replace`] then.
    ///
    /// # Errors
    /// Where the system has no descriptor left.
    ///
    /// # Panics
    /// Outside an event loop.
    pub fn here(stream: UnixStream) -> io::Result<Self> {
        Self::started_by(stream, Link::start_here)
    }

    fn started_by(stream: UnixStream, start: fn(UnixStream) -> io::Result<Arc<Link>>) -> io::Result<Self> {
        Ok(Self {
            link: Mutex::new(start(stream)?),
            start,
            registered: Mutex::default(),
        })
    }

    /// Goes on over another socket, which the same depot is behind. Calls that wait for an answer of the former are
    /// unreachable.
    ///
    /// # Errors
    /// Where the system has no descriptor or thread left; nothing has changed.
    pub fn replace(&self, stream: UnixStream) -> io::Result<()> {
        let link = (self.start)(stream)?;
        if let Some((object, holder)) = *self.registered() {
            // Nobody waits for its answer: whoever cannot be told holds no presence, and every later call shows it.
            drop(link.ask(Call::Register(object, holder), PATIENCE));
        }
        let former = std::mem::replace(&mut *self.current(), link);
        former.close();
        Ok(())
    }

    fn current(&self) -> MutexGuard<'_, Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Arc<Link> {
        self.current().clone()
    }

    fn registered(&self) -> MutexGuard<'_, Option<(ObjectId, HolderId)>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<'a, T: 'a>(
        &'a self,
        call: Call,
        patience: Duration,
        read: impl FnOnce(Response) -> Option<T> + Send + 'a,
    ) -> Answer<'a, T> {
        let link = self.link();
        let wait = link.ask(call, patience);
        Box::pin(async move {
            let response = match wait?.await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(link.unreachable("the relay has ended")),
            };
            read(response).ok_or_else(|| frame::garbage("relay", "the answer is to another question"))
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.current().close();
    }
}

fn found(found: Option<(Mark, ByteBuf)>) -> Option<(Mark, Version)> {
    found.map(|(mark, version)| (mark, Version(version.into_vec())))
}

fn nothing(response: Response) -> Option<()> {
    match response {
        Response::Nothing => Some(()),
        other => {
            drop(other);
            None
        }
    }
}

fn bytes(response: Response) -> Option<Option<Vec<u8>>> {
    match response {
        Response::Bytes(bytes) => Some(bytes.map(ByteBuf::into_vec)),
        _ => None,
    }
}

/// The name tables of classes do not pass: whoever is behind a relay is one object, and founds none.
fn founds_nothing<'a, T: Send + 'a>() -> Answer<'a, T> {
    let why = "a relay is for one object: the name table of a class does not pass through it; found instances where the \
               depot itself is open";
    Box::pin(std::future::ready(Err(Error::NotAllowed(why.to_owned()))))
}

impl Directory for Client {
    fn name<'a>(&'a self, _: ClassId, _: &'a Key) -> Answer<'a, Option<(Entry, Version)>> {
        founds_nothing()
    }

    fn swap_name<'a>(
        &'a self,
        _: ClassId,
        _: &'a Key,
        _: &'a Entry,
        _: Option<&'a Version>,
    ) -> Answer<'a, NameSwap> {
        founds_nothing()
    }

    fn remove_name<'a>(&'a self, _: ClassId, _: &'a Key, _: &'a Version) -> Answer<'a, NameRemoval> {
        founds_nothing()
    }

    fn names<'a>(&'a self, _: ClassId, _: Option<&'a Key>, _: usize) -> Answer<'a, Vec<(Key, Entry)>> {
        founds_nothing()
    }

    fn count_names(&self, _: ClassId) -> Answer<'_, u64> {
        founds_nothing()
    }
}

impl Depot for Client {
    fn describe(&self) -> String {
        let link = self.link();
        let greeting = link.greeting();
        greeting.map_or_else(
            || "behind the relay".to_owned(),
            |greeting| greeting.depot.clone(),
        )
    }

    fn pace(&self) -> Duration {
        let link = self.link();
        let greeting = link.greeting();
        Duration::from_millis(greeting.map_or(0, |greeting| greeting.pace_ms))
    }

    fn is_relayed(&self) -> bool {
        true
    }

    /// Verified where the depot is open: a machine reads no other object's history.
    fn epoch(&self, object: ObjectId) -> Answer<'_, Option<Epoch>> {
        self.call(Call::Epoch(object), PATIENCE, |response| match response {
            Response::Epoch(epoch) => Some(epoch),
            _ => None,
        })
    }
}

impl Marks for Client {
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.call(Call::Mark(object), PATIENCE, |response| match response {
            Response::Mark(mark) => Some(found(mark)),
            _ => None,
        })
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        let expected = expected.map(|version| ByteBuf::from(version.0.clone()));
        let call = Call::Swap(Box::new(mark.clone()), expected);
        self.call(call, PATIENCE, |response| match response {
            Response::Swapped(version) => Some(Swap::Done(Version(version.into_vec()))),
            Response::Mark(present) => Some(Swap::Conflict(found(present))),
            _ => None,
        })
    }

    /// Says the name; the other end holds the presence.
    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        *self.registered() = Some((object, holder));
        self.call(Call::Register(object, holder), PATIENCE, |response| {
            nothing(response).map(|()| None)
        })
    }

    fn is_own_write<'a>(&'a self, mark: &'a Mark) -> Answer<'a, bool> {
        self.call(
            Call::IsOwnWrite(Box::new(mark.clone())),
            PATIENCE,
            |response| match response {
                Response::IsOwnWrite(wrote) => Some(wrote),
                _ => None,
            },
        )
    }

    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence> {
        self.call(
            Call::Presence(object, holder),
            PATIENCE,
            |response| match response {
                Response::Presence(presence) => Some(presence),
                _ => None,
            },
        )
    }
}

impl Archive for Client {
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
            |response| match response {
                Response::Objects(objects) => Some(objects),
                _ => None,
            },
        )
    }

    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>> {
        self.call(
            Call::Due(until, limit as u64),
            PATIENCE,
            |response| match response {
                Response::Due(due) => Some(due),
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
        self.call(Call::Segments(object), PATIENCE, |response| match response {
            Response::Segments(found) => Some(found.into_iter().map(|(first, last)| first..=last).collect()),
            _ => None,
        })
    }

    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>> {
        let (first, last) = positions.into_inner();
        self.call(Call::Segment(object, first, last), PATIENCE, bytes)
    }

    fn remove_segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, ()> {
        let (first, last) = positions.into_inner();
        self.call(Call::RemoveSegment(object, first, last), PATIENCE, nothing)
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
}

impl Inbox for Client {
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted> {
        let call = Call::Post(object, Box::new(message.clone()));
        self.call(call, PATIENCE, |response| match response {
            Response::Posted(true) => Some(Posted::Stored),
            Response::Posted(false) => Some(Posted::Duplicate),
            _ => None,
        })
    }

    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>> {
        self.call(
            Call::Inbox(object, limit as u64),
            PATIENCE,
            |response| match response {
                Response::Inbox(inbox) => {
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
