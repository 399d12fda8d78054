//! The serving end of a relay: answers calls about one object out of a depot.
//!
//! What comes over the socket is not trusted: frames, calls in flight and their bytes are bounded, calls about other
//! objects are refused. Runs in tokio; ends when the other end does, or breaks the rules.

use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::{self, Call, Failure, Greeting, Refused, Request, Response, ServerFrame, milliseconds};
use crate::inbox::{Begun, begin};
use crate::{Depot, Error, Session, Version};

/// Calls that are worked on at once at most; more wait in the socket.
const MAX_IN_FLIGHT: usize = 16;

/// Bytes of their requests at most, but for the last.
const MAX_HELD: usize = 2 * wire::MAX_FRAME;

/// How long a depot may take for one call. Its own limits are shorter.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the other end may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(30);

/// Longest wait for a change of the inbox.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Why a relay ended before its other end did.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// What came was not a request.
    #[error("the other end of the relay does not keep to its rules")]
    Refused(#[from] Refused),
    /// The socket failed.
    #[error("the socket of the relay failed")]
    Socket(#[from] std::io::Error),
    /// The other end reads no answers.
    #[error("the other end of the relay leaves its answers unread")]
    Unread,
}

/// Serves `depot`, with the name of the copy that has it, to whoever is at the other end of `stream`, for `scope` and no
/// other object, until that end closes.
/// Bundles are not of one object and are served all, and so are the epochs that objects are in; lists of objects are refused.
///
/// Dropping the future ends the relay; operations under way may still happen.
///
/// # Errors
/// [`Ended`] where it was not the other end's wish.
pub async fn serve(stream: UnixStream, depot: Arc<Session>, scope: ObjectId) -> Result<(), Ended> {
    match exchange(stream, depot, scope).await {
        // The other end went with answers on their way to it: it wants them no more.
        Err(Ended::Socket(error)) if matches!(error.kind(), ConnectionReset | BrokenPipe) => Ok(()),
        ended => ended,
    }
}

async fn exchange(stream: UnixStream, depot: Arc<Session>, scope: ObjectId) -> Result<(), Ended> {
    let (mut from, mut to) = stream.into_split();
    let greeting = ServerFrame::Greeting(Greeting {
        v: wire::VERSION,
        depot: depot.describe(),
        pace_ms: milliseconds(depot.pace()),
    });
    let mut arrived = Vec::new();
    let mut calls = JoinSet::new();
    let mut held = 0_usize;
    let mut frame = encode(0, &greeting);
    loop {
        timeout(UNREAD, to.write_all(&frame))
            .await
            .map_err(|_| Ended::Unread)??;
        frame = loop {
            let room = calls.len() < MAX_IN_FLIGHT && held <= MAX_HELD;
            tokio::select! {
                Some(done) = calls.join_next() => {
                    // A panic of a backend answers nobody: the asking end gives up by itself.
                    let Ok((number, size, outcome)) = done else { continue };
                    held = held.saturating_sub(size);
                    break encode(number, &ServerFrame::Reply(number, outcome));
                }
                request = request(&mut from, &mut arrived), if room => {
                    let Some((Request(number, call), size)) = request? else { return Ok(()) };
                    held += size;
                    let depot = Arc::clone(&depot);
                    let waits = matches!(call, Call::InboxChanged(..));
                    let answer = Box::pin(async move { (number, size, answer(&*depot, scope, call).await) });
                    // Whatever is asked after a wait was asked for finds it begun.
                    calls.spawn(if waits { begin(answer).await } else { Begun::Under(answer) });
                }
            }
        };
    }
}

/// An answer as a frame; one that is too long for it says so instead.
fn encode(number: u64, frame: &ServerFrame) -> Vec<u8> {
    let too_long = |error: Error| wire::encode(&ServerFrame::Reply(number, Err(error.into())));
    wire::encode(frame).or_else(too_long).unwrap_or_default()
}

/// The next request and its size; `None` at the end. Cancel safe: what has arrived stays in `arrived`.
async fn request(from: &mut OwnedReadHalf, arrived: &mut Vec<u8>) -> Result<Option<(Request, usize)>, Ended> {
    loop {
        if let Some((frame, used)) = wire::split(arrived)? {
            let request = wire::decode(frame)?;
            arrived.drain(..used);
            return Ok(Some((request, used)));
        }
        if from.read_buf(arrived).await? == 0 {
            return Ok(None);
        }
    }
}

async fn answer(depot: &dyn Depot, scope: ObjectId, call: Call) -> Result<Response, Failure> {
    let patience = match &call {
        Call::InboxChanged(_, wait) => Duration::from_millis(*wait).min(LONGEST_WAIT) + PATIENCE,
        _ => PATIENCE,
    };
    let answered = match object_of(&call) {
        Some(object) if object != scope => Err(Error::NotAllowed(format!("this relay is for {scope} only"))),
        _ => timeout(patience, perform(depot, call)).await.unwrap_or_else(|_| {
            let why = format!("nothing for {} s", patience.as_secs());
            Err(Error::Unreachable(depot.describe(), Some(why.into())))
        }),
    };
    answered.map_err(Failure::from)
}

/// The object that a call is about.
fn object_of(call: &Call) -> Option<ObjectId> {
    match call {
        Call::Swap(mark, _) | Call::IsOwnWrite(mark) => Some(mark.object),
        Call::Mark(object)
        | Call::Register(object, _)
        | Call::Presence(object, _)
        | Call::Announce(object, ..)
        | Call::Announcement(object)
        | Call::PutSegment(object, ..)
        | Call::Segments(object)
        | Call::Segment(object, ..)
        | Call::RemoveSegment(object, ..)
        | Call::Post(object, _)
        | Call::Inbox(object, _)
        | Call::Acknowledge(object, _)
        | Call::InboxChanged(object, _) => Some(*object),
        // Of another object no more is said than which key signs for it.
        Call::Announced(..) | Call::Due(..) | Call::PutBundle(..) | Call::Bundle(_) | Call::Epoch(_) => None,
    }
}

async fn perform(depot: &dyn Depot, call: Call) -> Result<Response, Error> {
    Ok(match call {
        Call::Mark(object) => depot.mark(object).await?.into(),
        Call::Swap(mark, expected) => {
            let expected = expected.map(|version| Version(version.into_vec()));
            depot.swap(&mark, expected.as_ref()).await?.into()
        }
        // Held by the depot itself, which is the copy's own.
        Call::Register(object, holder) => depot.register(object, holder).await.map(drop)?.into(),
        Call::IsOwnWrite(mark) => Response::IsOwnWrite(depot.is_own_write(&mark).await?),
        Call::Presence(object, holder) => depot.presence(object, holder).await?.into(),
        Call::Announce(object, bytes, due) => depot.announce(object, &bytes, due).await?.into(),
        Call::Announcement(object) => depot.announcement(object).await?.into(),
        Call::Announced(..) | Call::Due(..) => {
            return Err(Error::NotAllowed(
                "a relay is for one object: it lists no others".to_owned(),
            ));
        }
        Call::PutSegment(object, first, last, bytes) => {
            depot.put_segment(object, first..=last, &bytes).await?.into()
        }
        Call::Segments(object) => depot.segments(object).await?.into(),
        Call::Segment(object, first, last) => depot.segment(object, first..=last).await?.into(),
        Call::RemoveSegment(object, first, last) => depot.remove_segment(object, first..=last).await?.into(),
        Call::PutBundle(id, bytes) => depot.put_bundle(id, &bytes).await?.into(),
        Call::Bundle(id) => depot.bundle(id).await?.into(),
        Call::Post(object, message) => depot.post(object, &message).await?.into(),
        Call::Epoch(object) => depot.epoch(object).await?.into(),
        Call::Inbox(object, limit) => depot.inbox(object, count(limit)).await?.into(),
        Call::Acknowledge(object, messages) => depot.acknowledge(object, &messages).await?.into(),
        Call::InboxChanged(object, wait) => {
            let at_most = Duration::from_millis(wait).min(LONGEST_WAIT);
            depot.inbox_changed(object, at_most).await?.into()
        }
    })
}

fn count(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
