//! Writing a capsule.

use std::collections::BTreeSet;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};
use suijuris_core::id::{BundleId, Digest, ObjectId, RecordId};
use suijuris_core::lineage::{Announcement, ParentProof, ParentProofError, State, Stored};

use super::{FRAME_BYTES, Frame, Kind, MAX_ALL_BUNDLES_BYTES, MAX_SEALED_BYTES, Progress, end, header};
use crate::bundle_store::{self, NotFiles};
use crate::disk;
use crate::fork;
use crate::keys;
use crate::object_dir::{ObjectDir, OpenError};
use crate::opening::Depth;
use crate::reader::Reader;

/// Bytes written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// The object.
    pub object: ObjectId,
    /// The last record in the capsule.
    pub head: RecordId,
    /// Its position.
    pub seq: u64,
    /// Size of the capsule, bytes.
    pub bytes: u64,
}

/// Why there is no capsule. What was written so far has no end and is refused by every reader.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The object's directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The records do not follow one another.
    #[error("record {0} does not continue the history before it; see what `suijuris verify` says")]
    Unsound(u64),
    /// A bundle.
    #[error("bundle {id} cannot be used; put the bundle's own files back")]
    Bundle {
        /// The bundle.
        id: BundleId,
        /// Why.
        #[source]
        source: bundle_store::Error,
    },
    /// A bundle that is too large for a capsule.
    #[error("bundle {id} does not fit into a capsule")]
    Files {
        /// The bundle.
        id: BundleId,
        /// Why.
        #[source]
        source: NotFiles,
    },
    /// All bundles together.
    #[error(
        "the object's bundles have more than {MAX_ALL_BUNDLES_BYTES} bytes together, more than a capsule may hold"
    )]
    ManyBundles,
    /// A child without proof of its parent.
    #[error("the object is not the fork it claims to be")]
    Parent(#[from] ParentProofError),
    /// The sealed bytes.
    #[error("the sealed section has {0} bytes; at most {MAX_SEALED_BYTES} are allowed; unset large secrets")]
    Sealed(usize),
    /// The file that it is written to.
    #[error("the capsule cannot be written")]
    Write(#[source] io::Error),
}

/// What is written, buffered, counted and hashed.
struct Packing<W> {
    out: W,
    buffer: Vec<u8>,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Packing<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.hash.update(bytes);
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        self.out.write_all(&self.buffer).map_err(ExportError::Write)?;
        self.buffer.clear();
        Ok(())
    }

    fn section(&mut self, kind: Kind, content: &[u8], digest: &Digest) -> Result<(), ExportError> {
        self.put(&Frame::of(kind, content.len(), digest).encode())?;
        self.put(content)
    }

    fn hashed(&mut self, kind: Kind, content: &[u8]) -> Result<(), ExportError> {
        self.section(kind, content, &Digest::of(content))
    }

    /// The last section, and everything out.
    fn end(&mut self, records: u64) -> Result<(), ExportError> {
        let digest = Digest(self.hash.clone().finalize().into());
        self.hashed(Kind::End, &end(records, &digest))?;
        self.flush()?;
        self.out.flush().map_err(ExportError::Write)
    }
}

/// Writes everything up to the state of `reader` as a capsule, whether or not a writer is at work. What it writes is
/// durable in the object's own directory, so that no crash there makes it another history.
///
/// `sealed` are bytes that only their recipient can read; of the waiting key and the secrets nothing else is written.
/// See [`super::Decrypted`] for what to seal. `progress` hears of each record.
///
/// The same history gives the same bytes, wherever it lies.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    reader: &Reader,
    out: impl Write,
    sealed: Option<&[u8]>,
    mut progress: impl FnMut(Progress),
) -> Result<Exported, ExportError> {
    if let Some(len) = sealed.map(<[u8]>::len).filter(|len| *len > MAX_SEALED_BYTES) {
        return Err(ExportError::Sealed(len));
    }
    let object_dir = reader.object_dir();
    sync_written(object_dir)?;
    let mut packing = Packing {
        out,
        buffer: Vec::with_capacity(BUFFER_BYTES + FRAME_BYTES),
        hash: Sha256::new(),
        bytes: 0,
    };
    packing.put(&header())?;
    let (first, last) = pack_records(reader, &mut packing, &mut progress)?;
    let proof = fork::proof(object_dir)?;
    ParentProof::verify(proof.as_deref(), &first)?;
    if let Some(proof) = &proof {
        packing.hashed(Kind::Parent, proof)?;
    }
    if let Some(announcement) = announcement(object_dir, reader, &last)? {
        packing.hashed(Kind::Announcement, &announcement)?;
    }
    if let Some(sealed) = sealed {
        packing.hashed(Kind::Sealed, sealed)?;
    }
    let head = reader.state().head();
    packing.end(head.seq.saturating_add(1))?;
    Ok(Exported {
        object: head.object,
        head: head.record,
        seq: head.seq,
        bytes: packing.bytes,
    })
}

/// Makes durable what a live writer may have written and not yet synced.
fn sync_written(object_dir: &ObjectDir) -> Result<(), OpenError> {
    let Some(last) = object_dir.segments()?.pop() else {
        return Ok(());
    };
    let path = object_dir.segment(last);
    let synced = object_dir
        .disk
        .open(&path, disk::How::Read)
        .and_then(|file| file.sync())
        .and_then(|()| object_dir.disk.sync_dir(&object_dir.lineage()));
    synced.map_err(OpenError::disk("sync", &path))
}

/// Writes records, each bundle before the first that names it; returns the first record and the last.
fn pack_records<W: Write>(
    reader: &Reader,
    packing: &mut Packing<W>,
    progress: &mut impl FnMut(Progress),
) -> Result<(Stored, Stored), ExportError> {
    let mut carried = Carried::default();
    let mut ends: Option<(Stored, Stored)> = None;
    for stored in reader.records(0..u64::MAX)? {
        let stored = stored?;
        let (seq, prev) = match &ends {
            Some((_, last)) => (last.record.seq + 1, Some(last.id)),
            None => (0, None),
        };
        if stored.record.seq != seq || stored.record.prev != prev {
            return Err(ExportError::Unsound(seq));
        }
        if let Some(files) = carried.missing(reader, &stored.record.bundle)? {
            packing.hashed(Kind::Bundle, &files)?;
        }
        packing.section(Kind::Record, &stored.bytes, stored.id.digest())?;
        progress(Progress {
            records: seq + 1,
            bytes: packing.bytes,
        });
        ends = Some(match ends {
            Some((first, _)) => (first, stored),
            None => (stored.clone(), stored),
        });
    }
    let head = reader.state().head();
    let whole =
        |(first, last): &(Stored, Stored)| ObjectId::from(first.id) == head.object && last.id == head.record;
    ends.filter(whole).ok_or(ExportError::Unsound(head.seq))
}

/// Bundles written so far.
#[derive(Default)]
struct Carried {
    ids: BTreeSet<BundleId>,
    bytes: usize,
}

impl Carried {
    fn missing(&mut self, reader: &Reader, id: &BundleId) -> Result<Option<Vec<u8>>, ExportError> {
        if !self.ids.insert(*id) {
            return Ok(None);
        }
        let failed = |source| ExportError::Bundle { id: *id, source };
        // Opened and dropped: only files that are the bundle travel.
        reader.bundle(id).map_err(failed)?;
        let files = reader.bundles().files(id).map_err(failed)?;
        let files = files
            .encode()
            .map_err(|source| ExportError::Files { id: *id, source })?;
        self.bytes += files.len();
        if self.bytes > MAX_ALL_BUNDLES_BYTES {
            return Err(ExportError::ManyBundles);
        }
        Ok(Some(files))
    }
}

/// The announcement of the object in `object_dir` as it stands, and the position it stands at; `None` where the waiting
/// key is not at hand, or the announcement would be too large for a depot.
///
/// # Errors
/// [`OpenError`].
pub fn announcement_of(object_dir: &ObjectDir) -> Result<Option<(u64, Vec<u8>)>, OpenError> {
    let reader = Reader::open(object_dir, Depth::Tail)?;
    let seq = reader.state().head().seq;
    let Some(last) = reader.records(seq..seq.saturating_add(1))?.next().transpose()? else {
        return Ok(None);
    };
    Ok(announcement(object_dir, &reader, &last)?.map(|bytes| (seq, bytes)))
}

/// The announcement of the reader's state: made with the waiting key where that is at hand and still the one, else the
/// one that came with the capsule that the object was imported from.
fn announcement(
    object_dir: &ObjectDir,
    reader: &Reader,
    last: &Stored,
) -> Result<Option<Vec<u8>>, OpenError> {
    let state: &State = reader.state();
    if let Ok((key, _)) = keys::waiting(object_dir, &state.head().next) {
        // One that is too large is left out: it only spares a reader the fold.
        return Ok(Announcement::of(state, last, &key).ok());
    }
    let path = object_dir.announcement();
    let max = Kind::Announcement.max() as u64;
    let kept =
        disk::optional(disk::read(&*object_dir.disk, &path, max)).map_err(OpenError::disk("read", &path))?;
    let ours = |bytes: &Vec<u8>| {
        Announcement::open(bytes, reader.bundles())
            .is_ok_and(|(announced, _)| announced.head() == state.head())
    };
    Ok(kept.filter(ours))
}
