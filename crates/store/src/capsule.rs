//! Capsules: an object's whole history in one file, with everything needed to verify it and to go on with it elsewhere.
//!
//! [`export`] writes one, [`verify`] checks one without any directory, [`import`] makes an object's directory of one. All
//! three stream: what they hold in memory does not grow with the history. Bytes: `spec/capsule.md`. Not here: encrypting
//! what is secret (the caller hands over the sealed bytes, and decrypts them), registries (bundle).

mod import;
mod pack;
mod secrets;
mod unpack;

use std::io;

use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::lineage::{
    self, AnnouncementError, ChainError, MAX_ANNOUNCEMENT, MAX_PARENT_PROOF, ParentProofError,
};

use crate::bundle_store::{MAX_BUNDLE_BYTES, NotFiles};

pub use import::{ImportError, Imported, import, rebuild};
pub use pack::{ExportError, Exported, announcement_of, export};
pub use secrets::{Decrypted, SecretsError};
pub use unpack::{Verified, verify, verify_with};

/// First bytes of every capsule.
pub const MAGIC: [u8; 8] = *b"suijcap\0";
/// Format version.
pub const VERSION: u32 = 1;
/// Size of a capsule's header, bytes.
pub const HEADER_BYTES: usize = 16;
/// Size of the frame before each section, bytes.
pub const FRAME_BYTES: usize = 12;
/// Size of the sealed section at most, bytes.
pub const MAX_SEALED_BYTES: usize = 1 << 20;
/// Size of all bundles of a capsule together at most, bytes. A reader keeps their schemas.
pub const MAX_ALL_BUNDLES_BYTES: usize = 256 << 20;
/// Size of the last section, bytes.
const END_BYTES: usize = 40;

/// How far an export, a verification or an import has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Records so far.
    pub records: u64,
    /// Bytes of the capsule so far.
    pub bytes: u64,
}

/// A place in a capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Byte at which the section stands or would stand.
    pub offset: u64,
    /// Position of the record that stands or would stand there, or behind there.
    pub seq: u64,
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offset, seq } = self;
        write!(f, "record {seq} (byte {offset})")
    }
}

/// Why a capsule is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CapsuleError {
    /// It cannot be read.
    #[error("the capsule cannot be read")]
    Read(#[source] io::Error),
    /// What was read is not sound.
    #[error("the capsule is damaged at {spot}; get another copy of it")]
    Bad {
        /// Where.
        spot: Spot,
        /// What.
        #[source]
        fault: Fault,
    },
}

/// What is wrong at a [`Spot`].
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It does not begin as one.
    #[error("it does not begin with a capsule's header")]
    NotACapsule,
    /// Of a later format.
    #[error("it has version {0}, this program reads version {VERSION}; use a newer suijuris")]
    Version(u32),
    /// It ends before its end.
    #[error("it ends here: the rest was cut off")]
    Cut,
    /// A section of a kind that there is not.
    #[error("there is no section of kind {0}")]
    Kind(u32),
    /// A section longer than its kind may be.
    #[error("the {kind} has {size} bytes; at most {max} are allowed")]
    TooLong {
        /// Its kind.
        kind: Kind,
        /// Size found, bytes.
        size: u32,
        /// Size allowed, bytes.
        max: usize,
    },
    /// The bytes are not those that were written.
    #[error("its bytes are damaged")]
    Altered,
    /// A section where it does not belong.
    #[error("the {0} does not belong here: sections are missing, repeated or swapped")]
    Order(Kind),
    /// An intact section whose content is no record.
    #[error("it is not a record")]
    Encoding(#[from] codec::Error),
    /// An intact record that does not continue the chain.
    #[error("it does not fit the history before it")]
    Chain(#[from] ChainError),
    /// A section that is not the files of a bundle.
    #[error("it is not a bundle")]
    Files(#[from] NotFiles),
    /// Files that are not a sound bundle.
    #[error("the bundle cannot be used")]
    Bundle(#[from] suijuris_core::bundle::Error),
    /// An instance that the rules of its class did not found so.
    #[error("it was not founded as it says")]
    Instance(#[from] suijuris_core::class::InstanceError),
    /// Another bundle than the one that the next record names.
    #[error("the bundle is not the one that the record behind it names")]
    OtherBundle,
    /// All bundles together.
    #[error("its bundles have more than {MAX_ALL_BUNDLES_BYTES} bytes together")]
    ManyBundles,
    /// The parent's proof.
    #[error("it is not the fork it claims to be")]
    Parent(#[from] ParentProofError),
    /// The announcement.
    #[error("its announcement is not trusted")]
    Announcement(#[from] AnnouncementError),
    /// An announcement of another state.
    #[error("its announcement is not of the state that its records yield")]
    OtherAnnouncement,
    /// The end counts other records, or other bytes.
    #[error("its end counts {counted} records, and there are {found}")]
    Count {
        /// Records that the end counts.
        counted: u64,
        /// Records found.
        found: u64,
    },
    /// The digest at the end.
    #[error("the digest at its end is not that of its bytes")]
    Digest,
    /// Something behind the end.
    #[error("there are bytes after its end")]
    Trailing,
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A bundle, before the first record that names it.
    Bundle = 1,
    /// A record, as stored.
    Record = 2,
    /// Proof that the parent forked the object.
    Parent = 3,
    /// The announcement of the state behind the last record.
    Announcement = 4,
    /// Bytes for a named recipient, which only it can read.
    Sealed = 5,
    /// The end: number of records, digest of all bytes before.
    End = 6,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bundle => "bundle",
            Self::Record => "record",
            Self::Parent => "proof of the parent",
            Self::Announcement => "announcement",
            Self::Sealed => "sealed section",
            Self::End => "end",
        })
    }
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Bundle,
        Self::Record,
        Self::Parent,
        Self::Announcement,
        Self::Sealed,
        Self::End,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// Size of a section of this kind at most, bytes.
    #[must_use]
    pub const fn max(self) -> usize {
        match self {
            Self::Bundle => MAX_BUNDLE_BYTES,
            Self::Record => lineage::MAX_BYTES,
            Self::Parent => MAX_PARENT_PROOF,
            Self::Announcement => MAX_ANNOUNCEMENT,
            Self::Sealed => MAX_SEALED_BYTES,
            Self::End => END_BYTES,
        }
    }
}

/// The header's bytes.
#[must_use]
pub fn header() -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let fields = MAGIC.into_iter().chain(VERSION.to_be_bytes());
    bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    bytes
}

/// Reads a header.
///
/// # Errors
/// [`Fault::NotACapsule`], [`Fault::Version`].
pub fn read_header(bytes: &[u8; HEADER_BYTES]) -> Result<(), Fault> {
    let version = bytes
        .strip_prefix(&MAGIC)
        .and_then(|rest| rest.first_chunk())
        .map(|version| u32::from_be_bytes(*version));
    match version {
        Some(VERSION) if *bytes == header() => Ok(()),
        Some(VERSION) | None => Err(Fault::NotACapsule),
        Some(other) => Err(Fault::Version(other)),
    }
}

/// What stands before a section: its kind, its size, and the first four bytes of the SHA-256 of its content,
/// exclusive-or its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Kind of the section.
    pub kind: Kind,
    /// Its size, bytes; at most [`Kind::max`].
    pub size: u32,
    check: u32,
}

impl Frame {
    /// The frame of a section of `size` bytes with this digest.
    #[must_use]
    pub fn of(kind: Kind, size: usize, digest: &Digest) -> Self {
        let [a, b, c, d, ..] = digest.0;
        Self {
            kind,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            check: u32::from_be_bytes([a, b, c, d]) ^ kind as u32,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        let fields = [self.kind as u32, self.size, self.check].map(u32::to_be_bytes);
        bytes.copy_from_slice(fields.as_flattened());
        bytes
    }

    /// Reads a frame and holds its size to the limit of its kind.
    ///
    /// # Errors
    /// [`Fault::Kind`], [`Fault::TooLong`].
    pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Result<Self, Fault> {
        let mut fields = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|field| u32::from_be_bytes(*field));
        let mut next = || fields.next().unwrap_or_default();
        let (number, size, check) = (next(), next(), next());
        let kind = Kind::of(number).ok_or(Fault::Kind(number))?;
        let max = kind.max();
        if size as usize > max {
            return Err(Fault::TooLong { kind, size, max });
        }
        Ok(Self { kind, size, check })
    }

    /// Whether this frame belongs to content of that digest.
    #[must_use]
    pub fn fits(&self, digest: &Digest) -> bool {
        *self == Self::of(self.kind, self.size as usize, digest)
    }
}

/// The content of the last section.
fn end(records: u64, digest: &Digest) -> [u8; END_BYTES] {
    let mut bytes = [0; END_BYTES];
    let fields = records.to_be_bytes().into_iter().chain(digest.0);
    bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    bytes
}

/// Fuzz body: verifies `bytes` as a capsule; whatever they are, the answer is one.
#[must_use]
pub fn sound(bytes: &[u8]) -> bool {
    verify(bytes, |_| {}).is_ok()
}
