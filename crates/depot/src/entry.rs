//! An entry of a name table as it is stored; `spec/depot.md` gives it byte for byte. Called by the backends.
//!
//! Behind a random stamp, as a mark, so that a version never comes again. A tombstone is longer than any other, so that a
//! list, which tells sizes, tells how many are none.

use suijuris_core::class::founding::{self, Entry, Stage};

use crate::Error;
use crate::frame::{garbage, random, told};

const STAMP: usize = 16;

/// Stamp and length of the entry.
const HEADER: usize = STAMP + 2;

/// Size of a stored tombstone, bytes.
const TOMBSTONE: usize = 1_024;

/// Size of a stored entry that is no tombstone at most, bytes.
const MAX_LIVE: usize = HEADER + founding::MAX_BYTES;

/// Size of a stored entry at most, bytes.
pub(crate) const MAX_STORED: usize = TOMBSTONE;

const _: () = assert!(MAX_LIVE < TOMBSTONE);

/// An entry as stored, with a fresh stamp.
pub(crate) fn stamp(entry: &Entry) -> Result<Vec<u8>, Error> {
    let refuse = |error: String| Error::NotAllowed(format!("the entry of the name table: {error}"));
    let bytes = entry.encode().map_err(|error| refuse(error.to_string()))?;
    Entry::decode(&bytes).map_err(|error| refuse(told(&error)))?;
    let length = u16::try_from(bytes.len()).map_err(|error| refuse(error.to_string()))?;
    let mut stored = random::<STAMP>()?.to_vec();
    stored.extend_from_slice(&length.to_be_bytes());
    stored.extend_from_slice(&bytes);
    if entry.state == Stage::Tombstone {
        stored.resize(TOMBSTONE, 0);
    }
    Ok(stored)
}

/// Reads an entry as stored at `place`.
pub(crate) fn open(stored: &[u8], place: &str) -> Result<Entry, Error> {
    let garbage = |why: &str| garbage(place, why);
    let (header, rest) = stored
        .split_first_chunk::<HEADER>()
        .ok_or_else(|| garbage("shorter than the stamp and length of an entry"))?;
    let [.., high, low] = *header;
    let (bytes, zeros) = rest
        .split_at_checked(usize::from(u16::from_be_bytes([high, low])))
        .ok_or_else(|| garbage("shorter than it says"))?;
    let entry = Entry::decode(bytes).map_err(|error| garbage(&told(&error)))?;
    let right = match entry.state {
        Stage::Tombstone => stored.len() == TOMBSTONE && zeros.iter().all(|byte| *byte == 0),
        Stage::Founding | Stage::Founded => zeros.is_empty(),
    };
    if right {
        Ok(entry)
    } else {
        Err(garbage(
            "what follows the entry is not what follows one of its kind",
        ))
    }
}

/// Whether something of so many bytes counts as an instance: whatever is neither a tombstone nor freed.
pub(crate) fn counts(size: u64) -> bool {
    size != TOMBSTONE as u64 && size != HEADER as u64
}

/// What stands in place of an entry that was removed, where nothing can be removed on a condition: a stamp and no entry.
#[cfg(feature = "object")]
pub(crate) fn freed() -> Result<Vec<u8>, Error> {
    let mut stored = random::<STAMP>()?.to_vec();
    stored.extend_from_slice(&[0; HEADER - STAMP]);
    Ok(stored)
}

/// Reads what stands in place of an entry; `None` where it was removed.
#[cfg(feature = "object")]
pub(crate) fn open_or_freed(stored: &[u8], place: &str) -> Result<Option<Entry>, Error> {
    if stored.len() == HEADER && stored.ends_with(&[0; HEADER - STAMP]) {
        return Ok(None);
    }
    open(stored, place).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use suijuris_core::ObjectId;
    use suijuris_core::witness::HolderId;

    use super::*;

    fn entry(who: usize, state: Stage) -> Entry {
        Entry::founding(ObjectId::of(b"object"), HolderId([7; 16]), "w".repeat(who)).at(state)
    }

    #[test]
    fn entries_read_back_and_their_sizes_tell_what_they_are() {
        for who in [0, 1, founding::MAX_WHO] {
            for state in [Stage::Founding, Stage::Founded, Stage::Tombstone] {
                let entry = entry(who, state);
                let stored = stamp(&entry).unwrap();
                assert_eq!(open(&stored, "here").unwrap(), entry);
                assert!(stored.len() <= MAX_STORED);
                assert_eq!(counts(stored.len() as u64), state != Stage::Tombstone);
                assert_ne!(stamp(&entry).unwrap(), stored, "the stamp is drawn anew");
            }
        }
        let long = stamp(&entry(founding::MAX_WHO + 1, Stage::Founding)).unwrap_err();
        assert!(matches!(long, Error::NotAllowed(_)), "{long}");
    }

    #[test]
    fn what_does_not_stand_as_its_kind_is_garbage() {
        let mut short = stamp(&entry(3, Stage::Tombstone)).unwrap();
        short.pop();
        let mut marked = stamp(&entry(3, Stage::Tombstone)).unwrap();
        marked[TOMBSTONE - 1] = 1;
        let mut padded = stamp(&entry(3, Stage::Founded)).unwrap();
        padded.resize(TOMBSTONE, 0);
        let empty = vec![0; HEADER];
        for stored in [short, marked, padded, empty, vec![], vec![0xff; 40]] {
            let error = open(&stored, "here").unwrap_err();
            assert!(matches!(error, Error::Garbage { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_garbage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = open(&bytes, "here");
        }

        #[test]
        fn a_damaged_entry_is_garbage_or_another(at in STAMP..400_usize, bit in 0_u8..8) {
            let entry = entry(20, Stage::Founded);
            let mut stored = stamp(&entry).unwrap();
            let at = STAMP + at % (stored.len() - STAMP);
            stored[at] ^= 1 << bit;
            if let Ok(read) = open(&stored, "here") {
                prop_assert_ne!(read, entry);
            }
        }
    }
}
