//! What passes between the two ends of a relay: frames of canonical DAG-CBOR behind their length.
//!
//! Nothing here waits or reads; every function is of bytes it is given, whose sizes it checks before it allocates.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ObjectId, codec};

use crate::{
    Epoch, Error, MAX_BUNDLE, MAX_READ, MAX_SEGMENT, Posted, Presence, Swap, Version, Waiting, frame,
};

/// Version of what passes; the first frame says it.
pub(crate) const VERSION: u32 = 4;

/// What surrounds the largest content of a frame, bytes.
const ROOM: usize = 64 << 10;

/// Size of a frame at most, bytes: the largest content is a segment or a bundle.
pub(crate) const MAX_FRAME: usize = {
    let content = if MAX_SEGMENT > MAX_BUNDLE {
        MAX_SEGMENT
    } else {
        MAX_BUNDLE
    };
    assert!(content > MAX_READ + suijuris_core::message::MAX_BYTES);
    content + ROOM
};

/// Bytes of the length before a frame, big-endian.
const LENGTH: usize = 4;

/// Why bytes of the other end were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A frame that is empty or too long.
    #[error("a frame of {0} bytes; 1 to {MAX_FRAME} are allowed")]
    Length(u32),
    /// A frame that is no request, reply or greeting.
    #[error("a frame cannot be read")]
    Encoding(#[from] codec::Error),
    /// The other end speaks another version.
    #[error(
        "the other end of the relay speaks version {0}, this program version {VERSION}; use the same suijuris"
    )]
    Version(u32),
}

/// What the serving end says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Greeting {
    pub(crate) v: u32,
    pub(crate) depot: String,
    pub(crate) pace_ms: u64,
}

/// What the serving end sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ServerFrame {
    Greeting(Greeting),
    Reply(u64, Result<Response, Failure>),
}

/// What the asking end sends: a number for the reply, and a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request(pub(crate) u64, pub(crate) Call);

/// A call of a depot. `register` says under which name: whoever serves the relay holds the presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Call {
    Mark(ObjectId),
    Swap(Box<Mark>, Option<ByteBuf>),
    Register(ObjectId, HolderId),
    IsOwnWrite(Box<Mark>),
    Presence(ObjectId, HolderId),
    Announce(ObjectId, ByteBuf, Option<Timestamp>),
    Announcement(ObjectId),
    Announced(Option<ObjectId>, u64),
    Due(Timestamp, u64),
    PutSegment(ObjectId, u64, u64, ByteBuf),
    Segments(ObjectId),
    Segment(ObjectId, u64, u64),
    RemoveSegment(ObjectId, u64, u64),
    PutBundle(BundleId, ByteBuf),
    Bundle(BundleId),
    Post(ObjectId, Box<Message>),
    Inbox(ObjectId, u64),
    Acknowledge(ObjectId, Vec<MessageKey>),
    InboxChanged(ObjectId, u64),
    Epoch(ObjectId),
}

/// What a call yields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    Nothing,
    Mark(Option<(Mark, ByteBuf)>),
    Swapped(ByteBuf),
    IsOwnWrite(bool),
    Presence(Presence),
    Bytes(Option<ByteBuf>),
    Segments(Vec<(u64, u64)>),
    Objects(Vec<ObjectId>),
    Due(Vec<(Timestamp, ObjectId)>),
    Posted(bool),
    Inbox(Vec<(String, Message)>),
    Epoch(Option<Epoch>),
}

/// [`Error`] on the wire; sources as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    Unreachable(String, Option<String>),
    ReadOnly(String, Option<String>),
    Full(String),
    Garbage(String, String),
    Different(String),
    InboxFull,
    NotAllowed(String),
    Url(String, String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let why = |source: Option<Box<dyn std::error::Error + Send + Sync>>| {
            source.map(|source| frame::told(&*source))
        };
        match error {
            Error::Unreachable(depot, source) => Self::Unreachable(depot, why(source)),
            Error::ReadOnly(depot, source) => Self::ReadOnly(depot, why(source)),
            Error::Full(depot) => Self::Full(depot),
            Error::Garbage { place, why } => Self::Garbage(place, why),
            Error::Different(what) => Self::Different(what),
            Error::InboxFull => Self::InboxFull,
            Error::NotAllowed(why) => Self::NotAllowed(why),
            Error::Url { url, why } => Self::Url(url, why),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(depot, why) => Self::Unreachable(depot, why.map(Into::into)),
            Failure::ReadOnly(depot, why) => Self::ReadOnly(depot, why.map(Into::into)),
            Failure::Full(depot) => Self::Full(depot),
            Failure::Garbage(place, why) => Self::Garbage { place, why },
            Failure::Different(what) => Self::Different(what),
            Failure::InboxFull => Self::InboxFull,
            Failure::NotAllowed(why) => Self::NotAllowed(why),
            Failure::Url(url, why) => Self::Url { url, why },
        }
    }
}

impl From<Option<(Mark, Version)>> for Response {
    fn from(found: Option<(Mark, Version)>) -> Self {
        Self::Mark(found.map(|(mark, version)| (mark, ByteBuf::from(version.0))))
    }
}

impl From<Swap> for Response {
    fn from(swap: Swap) -> Self {
        match swap {
            Swap::Done(version) => Self::Swapped(ByteBuf::from(version.0)),
            Swap::Conflict(present) => present.into(),
        }
    }
}

impl From<Option<Vec<u8>>> for Response {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        Self::Bytes(bytes.map(ByteBuf::from))
    }
}

impl From<Presence> for Response {
    fn from(presence: Presence) -> Self {
        Self::Presence(presence)
    }
}

impl From<Vec<RangeInclusive<u64>>> for Response {
    fn from(segments: Vec<RangeInclusive<u64>>) -> Self {
        Self::Segments(segments.into_iter().map(RangeInclusive::into_inner).collect())
    }
}

impl From<Posted> for Response {
    fn from(posted: Posted) -> Self {
        Self::Posted(posted == Posted::Stored)
    }
}

impl From<Vec<Waiting>> for Response {
    fn from(waiting: Vec<Waiting>) -> Self {
        Self::Inbox(
            waiting
                .into_iter()
                .map(|waiting| (waiting.place, waiting.message))
                .collect(),
        )
    }
}

impl From<Option<Epoch>> for Response {
    fn from(epoch: Option<Epoch>) -> Self {
        Self::Epoch(epoch)
    }
}

impl From<()> for Response {
    fn from((): ()) -> Self {
        Self::Nothing
    }
}

impl From<Vec<ObjectId>> for Response {
    fn from(objects: Vec<ObjectId>) -> Self {
        Self::Objects(objects)
    }
}

impl From<Vec<(Timestamp, ObjectId)>> for Response {
    fn from(due: Vec<(Timestamp, ObjectId)>) -> Self {
        Self::Due(due)
    }
}

/// A value as a frame, its length before it.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let refuse = |why: String| Error::NotAllowed(format!("for the relay: {why}"));
    let bytes = codec::encode(value).map_err(|error| refuse(error.to_string()))?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= MAX_FRAME);
    let length = length.ok_or_else(|| refuse(format!("{} bytes are too many", bytes.len())))?;
    let mut frame = Vec::with_capacity(LENGTH + bytes.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&bytes);
    Ok(frame)
}

/// The first frame of what has arrived, and how many bytes it took; `None` until it is whole.
pub(crate) fn split(arrived: &[u8]) -> Result<Option<(&[u8], usize)>, Refused> {
    let Some((length, rest)) = arrived.split_first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    if wanted == 0 || wanted > MAX_FRAME {
        return Err(Refused::Length(length));
    }
    Ok(rest.get(..wanted).map(|frame| (frame, LENGTH + wanted)))
}

/// Reads the content of a frame.
pub(crate) fn decode<T: Serialize + DeserializeOwned>(frame: &[u8]) -> Result<T, Refused> {
    Ok(codec::decode(frame, MAX_FRAME)?)
}

/// What is read of a frame is written back the same.
pub(crate) fn fuzz(frame: &[u8]) {
    fn same<T: Serialize + DeserializeOwned>(frame: &[u8]) {
        if let Ok(value) = decode::<T>(frame) {
            let again = encode(&value).unwrap_or_default();
            assert!(again.get(LENGTH..) == Some(frame), "it is written back otherwise");
        }
    }
    same::<Request>(frame);
    same::<ServerFrame>(frame);
}

/// A count of milliseconds, the greatest where it does not fit.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((frame, used))) = split(&bytes) {
                prop_assert!(used <= bytes.len());
                let _ = decode::<Request>(frame);
                let _ = decode::<ServerFrame>(frame);
            }
            let _ = decode::<Request>(&bytes);
            let _ = decode::<ServerFrame>(&bytes);
        }

        #[test]
        fn a_damaged_request_is_refused_or_another_request(at in 0_usize..200, bit in 0_u8..8) {
            let object = ObjectId::of(b"object");
            let request = Request(7, Call::Announce(object, ByteBuf::from(vec![1; 40]), Some(Timestamp(9))));
            let frame = encode(&request).unwrap();
            let (content, used) = split(&frame).unwrap().unwrap();
            prop_assert_eq!(used, frame.len());
            prop_assert_eq!(&decode::<Request>(content).unwrap(), &request);
            let mut damaged = content.to_vec();
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            if let Ok(read) = decode::<Request>(&damaged) {
                prop_assert_ne!(read, request);
            }
        }
    }

    #[test]
    fn a_frame_waits_for_its_last_byte_and_a_huge_length_is_refused_before_it_comes() {
        let frame = encode(&Request(1, Call::Bundle(BundleId::of(b"b")))).unwrap();
        for len in 0..frame.len() {
            assert!(split(&frame[..len]).unwrap().is_none(), "{len}");
        }
        for length in [0, u32::MAX, u32::try_from(MAX_FRAME).unwrap() + 1] {
            assert!(matches!(split(&length.to_be_bytes()), Err(Refused::Length(found)) if found == length));
        }
    }
}
