//! The few bytes that every backend puts around a mark and an announcement; `spec/depot.md` gives them byte for byte.
//!
//! A mark is stored behind a random stamp, so that two contents of one mark never have the same bytes and a version never
//! comes again. An announcement is stored behind its due time, so that both change at once. Called by the backends.

use suijuris_core::ObjectId;
use suijuris_core::lineage::MAX_ANNOUNCEMENT;
use suijuris_core::message::{self, Message};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{self, Mark};

use crate::Error;

const STAMP: usize = 16;
const DUE: usize = 9;

/// Size of a stored mark at most, bytes.
pub(crate) const MAX_MARK: usize = STAMP + witness::MAX_BYTES;

/// Size of a stored announcement at most, bytes.
pub(crate) const MAX_ANNOUNCED: usize = DUE + MAX_ANNOUNCEMENT;

/// A mark as stored, with a fresh stamp.
pub(crate) fn stamp(mark: &Mark) -> Result<Vec<u8>, Error> {
    let bytes = encode_mark(mark)?;
    let mut stored = random::<STAMP>()?.to_vec();
    stored.extend_from_slice(&bytes);
    Ok(stored)
}

/// So many random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::NotAllowed(format!("no randomness: {error}")))?;
    Ok(bytes)
}

/// The canonical bytes of a mark that [`Mark::decode`] reads.
pub(crate) fn encode_mark(mark: &Mark) -> Result<Vec<u8>, Error> {
    let refuse = |error: String| Error::NotAllowed(format!("the mark: {error}"));
    let bytes = mark.encode().map_err(|error| refuse(error.to_string()))?;
    Mark::decode(&bytes).map_err(|error| refuse(error.to_string()))?;
    Ok(bytes)
}

/// Reads a mark of `object` as stored at `place`.
pub(crate) fn open_mark(stored: &[u8], object: ObjectId, place: &str) -> Result<Mark, Error> {
    let bytes = stored
        .get(STAMP..)
        .ok_or_else(|| garbage(place, "shorter than the stamp of a mark"))?;
    let mark = Mark::decode(bytes).map_err(|error| garbage(place, &told(&error)))?;
    if mark.object == object {
        Ok(mark)
    } else {
        Err(garbage(place, "it is the mark of another object"))
    }
}

/// An announcement as stored.
pub(crate) fn announce(bytes: &[u8], due: Option<Timestamp>) -> Result<Vec<u8>, Error> {
    if bytes.len() > MAX_ANNOUNCEMENT {
        return Err(too_long("the announcement", bytes.len(), MAX_ANNOUNCEMENT));
    }
    let mut stored = Vec::with_capacity(DUE + bytes.len());
    stored.push(u8::from(due.is_some()));
    stored.extend_from_slice(&due.map_or(0, |at| at.0).to_be_bytes());
    stored.extend_from_slice(bytes);
    Ok(stored)
}

/// Reads due time and announcement as stored at `place`.
pub(crate) fn open_announcement<'a>(
    stored: &'a [u8],
    place: &str,
) -> Result<(Option<Timestamp>, &'a [u8]), Error> {
    let (header, bytes) = stored
        .split_first_chunk::<DUE>()
        .ok_or_else(|| garbage(place, "shorter than the due time of an announcement"))?;
    let [flag, at @ ..] = *header;
    match (flag, i64::from_be_bytes(at)) {
        (0, 0) => Ok((None, bytes)),
        (1, at) => Ok((Some(Timestamp(at)), bytes)),
        _ => Err(garbage(place, "its due time cannot be read")),
    }
}

/// Bytes with which a stored announcement begins: enough for its due time.
pub(crate) const DUE_BYTES: usize = DUE;

/// Reads a message as stored at `place`.
pub(crate) fn open_message(bytes: &[u8], place: &str) -> Result<Message, Error> {
    Message::decode(bytes).map_err(|error| garbage(place, &error.to_string()))
}

/// The bytes of a message that is allowed.
pub(crate) fn encode_message(message: &Message) -> Result<Vec<u8>, Error> {
    message
        .encode()
        .map_err(|error: message::Error| Error::NotAllowed(error.to_string()))
}

/// Refuses more than `max` bytes of `what`.
pub(crate) fn bounded(what: &str, bytes: &[u8], max: usize) -> Result<(), Error> {
    if bytes.len() <= max {
        Ok(())
    } else {
        Err(too_long(what, bytes.len(), max))
    }
}

/// Something at `place` is not what it should be.
pub(crate) fn garbage(place: &str, why: &str) -> Error {
    Error::Garbage {
        place: place.to_owned(),
        why: why.to_owned(),
    }
}

fn too_long(what: &str, len: usize, max: usize) -> Error {
    Error::NotAllowed(format!("{what} has {len} bytes; at most {max} are allowed"))
}

/// An error with its sources, in one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// An instant as 16 hexadecimal digits that sort as the instants do.
pub(crate) fn sortable(at: Timestamp) -> String {
    format!("{:016x}", at.0.cast_unsigned() ^ (1 << 63))
}

/// Reads [`sortable`] back.
pub(crate) fn unsortable(text: &str) -> Option<Timestamp> {
    let bits = u64::from_str_radix(text, 16).ok()?;
    let at = Timestamp((bits ^ (1 << 63)).cast_signed());
    (sortable(at) == text).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_called_garbage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let object = ObjectId::of(b"object");
            let _ = open_mark(&bytes, object, "here");
            let _ = open_message(&bytes, "here");
            if let Ok((due, rest)) = open_announcement(&bytes, "here") {
                prop_assert_eq!(announce(rest, due).unwrap(), bytes);
            }
        }

        #[test]
        fn instants_sort_as_their_texts(a in any::<i64>(), b in any::<i64>()) {
            let (a, b) = (Timestamp(a), Timestamp(b));
            prop_assert_eq!(a.cmp(&b), sortable(a).cmp(&sortable(b)));
            prop_assert_eq!(unsortable(&sortable(a)), Some(a));
        }
    }

    #[test]
    fn other_spellings_of_an_instant_are_refused() {
        for text in [
            "",
            "8000",
            "+00000000000001f",
            "8000000000000 00",
            "800000000000000F",
        ] {
            assert_eq!(unsortable(text), None, "{text}");
        }
    }
}
