//! Records outside an object's directory: as stored, one behind the other, and the fold of what is read back.
//!
//! A depot keeps such segments. Not the segment files of the store, which carry more (`spec/segments.md`).

use super::checks::ChainError;
use super::record::{MAX_BYTES, Stored};
use super::state::{Bundles, State};
use crate::codec;

/// Bytes before each record: its size, big-endian.
pub const SIZE_BYTES: usize = 4;

/// What is wrong with a segment, or with the history that it continues.
#[derive(Debug, thiserror::Error)]
#[error("the segment is damaged at record {seq} (byte {offset})")]
pub struct SegmentError {
    /// Byte of the segment at which the record begins, its size included.
    pub offset: usize,
    /// Position of the record that stands or would stand there; counted from the segment's first one while its records
    /// are not folded.
    pub seq: u64,
    /// What.
    #[source]
    pub why: Why,
}

/// How a segment is not sound.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Fewer bytes than its size says.
    #[error("it ends in the middle of a record")]
    Cut,
    /// Larger than a record may be.
    #[error("a record of {0} bytes is larger than the {MAX_BYTES} allowed")]
    TooLong(usize),
    /// Not a record.
    #[error("it is not a record")]
    Encoding(#[from] codec::Error),
    /// A record that does not continue the chain.
    #[error("it does not fit the history before it")]
    Chain(#[from] ChainError),
    /// No records at all.
    #[error("there are no records")]
    Empty,
}

/// The bytes of `records`: for each its size as a big-endian `u32`, then the record as stored.
#[must_use]
pub fn encode<'a>(records: impl IntoIterator<Item = &'a Stored>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for stored in records {
        push(stored, &mut bytes);
    }
    bytes
}

/// Appends one record to a segment; it grows by [`SIZE_BYTES`] and the record's size.
pub fn push(stored: &Stored, segment: &mut Vec<u8>) {
    let size = u32::try_from(stored.bytes.len()).unwrap_or(u32::MAX);
    segment.extend(size.to_be_bytes());
    segment.extend_from_slice(&stored.bytes);
}

/// The records of a segment in order, each read when it is asked for; the first fault ends them. That they continue a
/// chain, [`Fold`] says.
pub fn decode(segment: &[u8]) -> impl Iterator<Item = Result<Stored, SegmentError>> + '_ {
    let (mut offset, mut seq, mut over) = (0, 0, false);
    std::iter::from_fn(move || {
        let rest = segment.get(offset..).filter(|rest| !rest.is_empty() && !over)?;
        let (at, number) = (offset, seq);
        let read = first(rest).map_err(|why| SegmentError {
            offset: at,
            seq: number,
            why,
        });
        match &read {
            Ok(stored) => offset += SIZE_BYTES + stored.bytes.len(),
            Err(_) => over = true,
        }
        seq += 1;
        Some(read)
    })
}

fn first(bytes: &[u8]) -> Result<Stored, Why> {
    let (size, rest) = bytes.split_first_chunk::<SIZE_BYTES>().ok_or(Why::Cut)?;
    let size = u32::from_be_bytes(*size) as usize;
    if size > MAX_BYTES {
        return Err(Why::TooLong(size));
    }
    let record = rest.get(..size).ok_or(Why::Cut)?;
    Ok(Stored::decode(record.to_vec())?)
}

/// The fold of records that come from elsewhere, every check and signature included.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    state: Option<State>,
}

impl Fold {
    /// Continues behind a state that is trusted, such as an announcement's whose mark was seen.
    #[must_use]
    pub const fn behind(state: State) -> Self {
        Self { state: Some(state) }
    }

    /// The state so far; nothing before the inception.
    #[must_use]
    pub const fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`ChainError`] with the first check that fails. The fold is then of no further use: drop it.
    pub fn record(&mut self, stored: &Stored, bundles: &impl Bundles) -> Result<(), ChainError> {
        match &mut self.state {
            Some(state) => state.apply(stored, bundles),
            None => State::begin(stored, bundles).map(|state| self.state = Some(state)),
        }
    }

    /// Takes the records of a whole segment.
    ///
    /// # Errors
    /// [`SegmentError`] names the first bad record. The fold is then of no further use: drop it.
    pub fn segment(&mut self, segment: &[u8], bundles: &impl Bundles) -> Result<(), SegmentError> {
        let mut offset = 0;
        for read in decode(segment) {
            let seq = self.state.as_ref().map_or(0, |state| state.head().seq + 1);
            let stored = read.map_err(|unsound| SegmentError { seq, ..unsound })?;
            self.record(&stored, bundles).map_err(|broken| SegmentError {
                offset,
                seq,
                why: broken.into(),
            })?;
            offset += SIZE_BYTES + stored.bytes.len();
        }
        Ok(())
    }
}

/// Verifies a history that lies in `segments`, in order: its state.
///
/// # Errors
/// [`SegmentError`] names the first bad record; its byte is counted in its own segment.
pub fn fold<S: AsRef<[u8]>>(
    segments: impl IntoIterator<Item = S>,
    bundles: &impl Bundles,
) -> Result<State, SegmentError> {
    let mut fold = Fold::default();
    for segment in segments {
        fold.segment(segment.as_ref(), bundles)?;
    }
    fold.state.ok_or(SegmentError {
        offset: 0,
        seq: 0,
        why: Why::Empty,
    })
}
