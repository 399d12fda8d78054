//! Reading the lineage's files frame by frame, and telling a torn end from damage.
//!
//! A [`Walk`] yields the records of all segments in order; each is intact (its digest fits its frame), whether it
//! continues the chain is the fold's to say. Where the last segment's bytes are not those of a frame, two things can
//! have happened: the writer died in the middle of a group nobody was told about (torn), or bytes that had been durable
//! were changed (damage). The group counts in the frames behind tell: see [`Walk::assess`].

use std::io;

use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::lineage::{self, Stored};

use crate::disk::{File, How};
use crate::frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header};
use crate::object_dir::{Damage, ObjectDir, OpenError, Position};

/// Bytes read at once at most.
const WINDOW_BYTES: usize = 1 << 20;
/// Bytes looked through for something else than zeros at once.
const PIECE_BYTES: usize = 32 << 10;
/// Bytes hashed at most in the search for frames behind a bad one; a file crafted to need more is taken as damaged.
const SEARCH_BYTES: usize = 256 << 20;
/// How every record's bytes begin: a map of eleven entries, the first of them the version.
const RECORD_PREFIX: [u8; 4] = [0xab, 0x61, b'v', 0x01];

/// One file, read through a window.
#[derive(Debug)]
struct Window {
    file: Box<dyn File>,
    bytes: Vec<u8>,
    at: u64,
    next_read: usize,
}

impl Window {
    fn new(file: Box<dyn File>) -> Self {
        Self {
            file,
            bytes: Vec::new(),
            at: 0,
            next_read: 8 << 10,
        }
    }

    /// `len` bytes at `offset`, fewer where the file ends.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let covered = |this: &Self| {
            let start = usize::try_from(offset.checked_sub(this.at)?).ok()?;
            (start + len <= this.bytes.len()).then_some(start)
        };
        let start = match covered(self) {
            Some(start) => start,
            None => {
                self.bytes.resize(len.max(self.next_read), 0);
                self.next_read = (self.next_read * 4).min(WINDOW_BYTES);
                let read = self.file.read_at(&mut self.bytes, offset)?;
                self.bytes.truncate(read);
                self.at = offset;
                0
            }
        };
        let end = (start + len).min(self.bytes.len());
        Ok(self.bytes.get(start..end).unwrap_or_default())
    }

    /// Whether only zeros stand from `offset` to the end of the file: a MiB that every opening looks through, so in
    /// pieces that stay in the cache, into one buffer, without the page faults of a large one.
    fn is_zero_from(&self, mut offset: u64) -> io::Result<bool> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = self.file.read_at(&mut piece, offset)?;
            if !piece.get(..read).is_some_and(is_zero) {
                return Ok(false);
            }
            if read < PIECE_BYTES {
                return Ok(true);
            }
            offset += read as u64;
        }
    }

    /// Everything from `offset` to the end of the file.
    fn rest(&self, offset: u64) -> io::Result<Vec<u8>> {
        let len = self.file.size()?.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let read = self.file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Whether all bytes are zero. Not by comparing with zeros: the C library of static programs compares byte by byte.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    let any = |words: &[[u8; 16]]| words.iter().fold(0, |any, word| any | u128::from_ne_bytes(*word));
    words.chunks(32).all(|block| any(block) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Step {
    /// An intact record.
    Record(Position, Box<Stored>),
    /// Nothing more.
    End(Position),
    /// Bytes that are no frame, in the last segment.
    Bad(Position),
}

/// A walk over the records.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    object_dir: &'a ObjectDir,
    segments: Vec<u64>,
    index: usize,
    window: Window,
    place: Position,
    /// The record before `place`, once one was read.
    last: RecordId,
    object: Option<ObjectId>,
}

/// One reading of a frame.
enum Bytes {
    Record(Box<Stored>),
    Undecodable(suijuris_core::codec::Error),
    End,
    Bad,
}

fn read_frame(window: &mut Window, offset: u64) -> io::Result<Bytes> {
    let Some(frame) = Frame::decode(window.get(offset, FRAME_BYTES)?) else {
        // Fewer bytes than a frame header hold no record; they must be zeros like all unused ones.
        let short = window.get(offset, FRAME_BYTES)?;
        let end = short.len() < FRAME_BYTES && short.iter().all(|byte| *byte == 0);
        return Ok(if end { Bytes::End } else { Bytes::Bad });
    };
    if frame.is_end() {
        return Ok(Bytes::End);
    }
    let record = window.get(offset + FRAME_BYTES as u64, frame.record_bytes())?;
    if record.len() < frame.record_bytes() {
        return Ok(Bytes::Bad);
    }
    Ok(match Stored::decode_if(record, |id| frame.fits(id.digest())) {
        Ok(Some(stored)) => Bytes::Record(Box::new(stored)),
        Ok(None) => Bytes::Bad,
        Err(error) => Bytes::Undecodable(error),
    })
}

/// Fuzz body: reads `bytes` as a segment file the way opening does; returns the number of intact records.
#[must_use]
pub fn frames_of(bytes: &[u8]) -> usize {
    let mut at = if Header::decode(bytes).is_ok() {
        HEADER_BYTES
    } else {
        0
    };
    let mut records = 0;
    while let Some(frame) = bytes.get(at..).and_then(Frame::decode) {
        let record = bytes
            .get(at + FRAME_BYTES..)
            .and_then(|rest| rest.get(..frame.record_bytes()));
        match record {
            Some(record) if !frame.is_end() && frame.fits(RecordId::of(record).digest()) => {
                records += usize::from(Stored::decode(record.to_vec()).is_ok());
                at += FRAME_BYTES + record.len();
            }
            _ => break,
        }
    }
    // The search for acknowledged frames behind a bad one sees every other offset.
    let _ = proves_durable(bytes, 0);
    records
}

impl<'a> Walk<'a> {
    /// A walk from the first record.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn from_start(object_dir: &'a ObjectDir) -> Result<Self, OpenError> {
        let segments = object_dir.segments()?;
        let start = Position {
            segment: 0,
            offset: HEADER_BYTES as u64,
            seq: 0,
        };
        Self::at(object_dir, segments, 0, start, None)
    }

    /// A walk of `object` from record `seq`, which stands at `offset` of its segment.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn from_record(
        object_dir: &'a ObjectDir,
        object: ObjectId,
        seq: u64,
        offset: u64,
    ) -> Result<Self, OpenError> {
        let segments = object_dir.segments()?;
        let index = segments.partition_point(|first| *first <= seq).saturating_sub(1);
        let segment = segments.get(index).copied().unwrap_or_default();
        let place = Position { segment, offset, seq };
        Self::at(object_dir, segments, index, place, Some(object))
    }

    /// A walk of `object` from the beginning of the segment that holds record `seq`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn from_segment_of(
        object_dir: &'a ObjectDir,
        object: ObjectId,
        seq: u64,
    ) -> Result<Self, OpenError> {
        let first = object_dir
            .segments()?
            .into_iter()
            .take_while(|first| *first <= seq)
            .last();
        Self::from_record(object_dir, object, first.unwrap_or_default(), HEADER_BYTES as u64)
    }

    fn at(
        object_dir: &'a ObjectDir,
        segments: Vec<u64>,
        index: usize,
        place: Position,
        object: Option<ObjectId>,
    ) -> Result<Self, OpenError> {
        if segments.is_empty() {
            return Err(OpenError::NotAnObject(object_dir.path().to_owned()));
        }
        let (window, header) = open_segment(object_dir, place.segment, place.seq)?;
        let walk = Self {
            object_dir,
            segments,
            index,
            window,
            place,
            last: Header::no_record(),
            object: object.or(Some(header.object)),
        };
        walk.check_owner(&header)?;
        Ok(walk)
    }

    fn check_owner(&self, header: &Header) -> Result<(), OpenError> {
        match self.object {
            Some(object) if object != header.object => Err(self.damaged(Damage::OtherObject(header.object))),
            _ if header.first != self.place.segment => Err(self.damaged(Damage::OtherPlace)),
            _ => Ok(()),
        }
    }

    pub(crate) const fn damaged(&self, damage: Damage) -> OpenError {
        OpenError::Damaged {
            place: self.place,
            damage,
        }
    }

    fn disk(&self) -> impl Fn(io::Error) -> OpenError {
        let path = self.object_dir.segment(self.place.segment);
        move |source| OpenError::disk("read", &path)(source)
    }

    /// What stands next.
    ///
    /// # Errors
    /// [`OpenError`] with the first damage.
    pub(crate) fn step(&mut self) -> Result<Step, OpenError> {
        let place = self.place;
        let is_last = self.index + 1 >= self.segments.len();
        match read_frame(&mut self.window, place.offset).map_err(self.disk())? {
            Bytes::Record(stored) => {
                self.place.offset += (FRAME_BYTES + stored.bytes.len()) as u64;
                self.place.seq += 1;
                self.last = stored.id;
                Ok(Step::Record(place, stored))
            }
            Bytes::Undecodable(error) => Err(self.damaged(Damage::Encoding(error))),
            Bytes::End if is_last => Ok(Step::End(place)),
            Bytes::Bad if is_last => Ok(Step::Bad(place)),
            Bytes::Bad => Err(self.damaged(Damage::Altered)),
            Bytes::End => {
                self.enter_next()?;
                self.step()
            }
        }
    }

    fn enter_next(&mut self) -> Result<(), OpenError> {
        if !self.is_zero_behind()? {
            return Err(self.damaged(Damage::Trailing));
        }
        self.index += 1;
        let segment = self.segments.get(self.index).copied().unwrap_or_default();
        let (window, header) = open_segment(self.object_dir, segment, self.place.seq)?;
        self.window = window;
        self.place.segment = segment;
        self.place.offset = HEADER_BYTES as u64;
        self.check_owner(&header)?;
        if header.first != self.place.seq || header.prev != self.last {
            return Err(self.damaged(Damage::OtherPlace));
        }
        Ok(())
    }

    fn is_zero_behind(&self) -> Result<bool, OpenError> {
        self.window.is_zero_from(self.place.offset).map_err(self.disk())
    }

    fn rest(&self) -> Result<Vec<u8>, OpenError> {
        self.window.rest(self.place.offset).map_err(self.disk())
    }

    /// Judges what stands behind the last intact record: `true` where the end is torn, `false` where it is clean.
    ///
    /// A frame behind proves, by its count in its group, up to which record everything was durable when it was
    /// written. If that covers the record that should stand here, then it was durable once, and was altered since.
    ///
    /// # Errors
    /// [`Damage::Altered`] as described.
    pub(crate) fn assess(&self) -> Result<bool, OpenError> {
        if self.is_zero_behind()? {
            return Ok(false);
        }
        let rest = self.rest()?;
        if proves_durable(&rest, self.place.seq) {
            return Err(self.damaged(Damage::Altered));
        }
        Ok(true)
    }
}

fn open_segment(object_dir: &ObjectDir, segment: u64, seq: u64) -> Result<(Window, Header), OpenError> {
    let path = object_dir.segment(segment);
    let file = object_dir
        .disk
        .open(&path, How::Read)
        .map_err(OpenError::disk("open", &path))?;
    let mut window = Window::new(file);
    let bytes = window
        .get(0, HEADER_BYTES)
        .map_err(OpenError::disk("read", &path))?;
    let header = Header::decode(bytes).map_err(|fault| OpenError::Damaged {
        place: Position {
            segment,
            offset: 0,
            seq,
        },
        damage: fault.into(),
    })?;
    Ok((window, header))
}

/// Whether `bytes` hold an intact frame that was written after record `seq` was durable.
fn proves_durable(bytes: &[u8], seq: u64) -> bool {
    let mut hashed = 0;
    let prefixes = bytes.windows(RECORD_PREFIX.len()).enumerate();
    for (at, _) in prefixes.filter(|(_, window)| *window == RECORD_PREFIX) {
        let Some(frame) = at
            .checked_sub(FRAME_BYTES)
            .and_then(|at| Frame::decode(bytes.get(at..)?))
        else {
            continue;
        };
        let Some(record) = bytes.get(at..).and_then(|rest| rest.get(..frame.record_bytes())) else {
            continue;
        };
        hashed += record.len();
        if hashed > SEARCH_BYTES {
            return true;
        }
        if !frame.fits(RecordId::of(record).digest()) {
            continue;
        }
        let durable_before = |stored: &Stored| stored.record.seq.checked_sub(u64::from(frame.group));
        let proven = Stored::decode(record.to_vec())
            .ok()
            .as_ref()
            .and_then(durable_before);
        if proven.is_some_and(|first_of_group| first_of_group > seq) {
            return true;
        }
    }
    false
}

/// Size of a record at most, with its frame, bytes.
pub(crate) const MAX_FRAME_BYTES: u64 = (FRAME_BYTES + lineage::MAX_BYTES) as u64;

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn a_byte_that_is_not_zero_is_seen_wherever_it_stands() {
        for len in [0, 1, 511, 512, 513, 1_100] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
