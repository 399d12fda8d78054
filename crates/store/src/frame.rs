//! Bytes of a segment file: the header, and the frame around each record. Pure; `spec/segments.md` says the same in
//! words. Not here: which frames follow which (`chain`), files (`disk`).

use suijuris_core::id::{Digest, ObjectId, RecordId};
use suijuris_core::lineage::{self, Stored};

/// First bytes of every segment.
pub const MAGIC: [u8; 8] = *b"suijseg\0";
/// Format version.
pub const VERSION: u32 = 1;
/// Size of a segment header, bytes.
pub const HEADER_BYTES: usize = 96;
/// Size of the frame header before each record, bytes.
pub const FRAME_BYTES: usize = 12;

/// Header of a segment: whose it is, and where it continues the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The object.
    pub object: ObjectId,
    /// Position of the segment's first record.
    pub first: u64,
    /// The record before it; zeros in the first segment.
    pub prev: RecordId,
}

/// Why bytes are no segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Too short, another magic, or non-zero where zeros must be.
    #[error("it does not begin with a segment header")]
    NotASegment,
    /// Of a later format.
    #[error("the segment has version {0}, this program reads version {VERSION}; use a newer suijuris")]
    Version(u32),
    /// The checksum does not fit.
    #[error("its header is damaged")]
    Damaged,
}

fn check_of(digest: &Digest, group: u32) -> u32 {
    let [a, b, c, d, ..] = digest.0;
    u32::from_le_bytes([a, b, c, d]) ^ group
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Header {
    /// The id that stands in `prev` where no record is before.
    #[must_use]
    pub const fn no_record() -> RecordId {
        RecordId::from_digest(Digest([0; 32]))
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.first.to_le_bytes());
        bytes.extend(self.object.digest().0);
        bytes.extend(self.prev.digest().0);
        bytes.extend([0; 8]);
        bytes.extend(check_of(&Digest::of(&bytes), 0).to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`HeaderFault`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        Self::parse(bytes).unwrap_or(Err(HeaderFault::NotASegment))
    }

    fn parse(bytes: &[u8]) -> Option<Result<Self, HeaderFault>> {
        if array::<8>(bytes, 0)? != MAGIC {
            return None;
        }
        let version = u32::from_le_bytes(array(bytes, 8)?);
        if version != VERSION {
            return Some(Err(HeaderFault::Version(version)));
        }
        let header = Self {
            first: u64::from_le_bytes(array(bytes, 12)?),
            object: ObjectId::from_digest(Digest(array(bytes, 20)?)),
            prev: RecordId::from_digest(Digest(array(bytes, 52)?)),
        };
        let sound = bytes.get(..HEADER_BYTES)? == header.encode();
        Some(if sound {
            Ok(header)
        } else {
            Err(HeaderFault::Damaged)
        })
    }
}

/// What stands before a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Size of the record, bytes.
    pub len: u32,
    /// Records before this one in the group that was written at once. All records before the group were durable when
    /// it was written.
    pub group: u32,
    /// First four bytes of the record's digest, exclusive-or `group`.
    pub check: u32,
}

impl Frame {
    /// The frame of `record` as the `group`-th of its group.
    #[must_use]
    pub fn of(record: &Stored, group: u32) -> Self {
        Self {
            len: u32::try_from(record.bytes.len()).unwrap_or(u32::MAX),
            group,
            check: check_of(record.id.digest(), group),
        }
    }

    /// Appends frame and record to `out`.
    pub fn push(record: &Stored, group: u32, out: &mut Vec<u8>) {
        let frame = Self::of(record, group);
        out.extend(frame.len.to_le_bytes());
        out.extend(frame.group.to_le_bytes());
        out.extend(frame.check.to_le_bytes());
        out.extend_from_slice(&record.bytes);
    }

    /// Reads a frame header: nothing where the bytes cannot be one. All zeros are the end of a segment's records.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let frame = Self {
            len: u32::from_le_bytes(array(bytes, 0)?),
            group: u32::from_le_bytes(array(bytes, 4)?),
            check: u32::from_le_bytes(array(bytes, 8)?),
        };
        (frame.record_bytes() <= lineage::MAX_BYTES).then_some(frame)
    }

    /// Whether no record follows.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        self.len == 0 && self.group == 0 && self.check == 0
    }

    /// Size of the record, bytes.
    #[must_use]
    pub const fn record_bytes(&self) -> usize {
        self.len as usize
    }

    /// Whether this frame belongs to the record of that digest.
    #[must_use]
    pub fn fits(&self, digest: &Digest) -> bool {
        self.check == check_of(digest, self.group)
    }
}
