//! The staged side of the writer: the state that grows at once, and the bytes on their way to the segment.

use std::io;
use std::sync::Arc;

use suijuris_core::codec;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Phase, State, Stored};
use suijuris_core::memory::Write;
use suijuris_core::time::Timestamp;

use crate::bundle_store::BundleStore;
use crate::disk::{self, File, How};
use crate::frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header};
use crate::object_dir::{ObjectDir, OpenError};
use crate::opening::Opened;
use crate::writer::{CommitError, Draft, Sign, Sizes, StageError};

/// Allocated space that only the records of falling asleep and waking may use, bytes: on a full disk the object can
/// still end its activation in good order.
const RESERVE_BYTES: u64 = 64 << 10;
/// Space that a new object has from the beginning, the reserve included, bytes: its first records find it allocated. What is
/// allocated later grows with what there is, up to [`Sizes::extent_bytes`]: most objects of a class record little.
pub(crate) const FIRST_BYTES: usize = 96 << 10;
/// What a record holds beside its body, at most, bytes.
const ENVELOPE_BYTES: usize = 1_024;

/// Keys of the object; the epoch's is held in memory only.
pub(crate) struct Keys {
    pub(crate) epoch: Option<SecretKey>,
    pub(crate) waiting: SecretKey,
}

impl Keys {
    pub(crate) const fn waiting(waiting: SecretKey) -> Self {
        Self { epoch: None, waiting }
    }
}

/// The end of the last segment.
pub(crate) struct Tail {
    file: Arc<dyn File>,
    /// Where the next frame goes.
    end: u64,
    /// Up to where the file is allocated and zeroed.
    allocated: u64,
    /// Header of a segment that is not named yet: it goes in front of the first frame.
    begins: Option<u64>,
}

impl Tail {
    /// The end that opening found, with zeros behind it.
    pub(crate) fn repair(object_dir: &ObjectDir, opened: &Opened) -> Result<Self, OpenError> {
        let path = object_dir.segment(opened.end.segment);
        let file: Arc<dyn File> = Arc::from(
            object_dir
                .disk
                .open(&path, How::Write)
                .map_err(OpenError::disk("open", &path))?,
        );
        let allocated = file.size().map_err(OpenError::disk("read", &path))?;
        let end = opened.end.offset;
        if opened.torn {
            disk::reserve(&*file, end, allocated).map_err(OpenError::disk("repair", &path))?;
        }
        Ok(Self {
            file,
            end,
            allocated: allocated.max(end),
            begins: None,
        })
    }
}

/// Frames that go to one file with one write.
struct Part {
    file: Arc<dyn File>,
    at: u64,
    bytes: Vec<u8>,
    frames: u32,
    /// Position of the first record of a segment that gets its name once this part is durable.
    begins: Option<u64>,
}

/// Staged records on their way; nearly always one part.
#[derive(Default)]
pub(crate) struct Queue {
    parts: Vec<Part>,
    pub(crate) records: Vec<Stored>,
    buffer: Vec<u8>,
}

impl Queue {
    pub(crate) fn len_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Byte behind the last frame, in its file.
    pub(crate) fn end(&self) -> u64 {
        self.parts
            .last()
            .map_or(0, |part| part.at + part.bytes.len() as u64)
    }

    pub(crate) fn last_frame_bytes(&self) -> u64 {
        self.records
            .last()
            .map_or(0, |stored| (FRAME_BYTES + stored.bytes.len()) as u64)
    }

    /// Writes and syncs all parts in order.
    pub(crate) fn write(&self, object_dir: &ObjectDir) -> Result<(), CommitError> {
        for part in &self.parts {
            part.file
                .write_at(&part.bytes, part.at)
                .map_err(CommitError::new("write the lineage"))?;
            part.file.sync().map_err(CommitError::new("sync the lineage"))?;
            if let Some(first) = part.begins {
                object_dir
                    .disk
                    .rename(&object_dir.unnamed_segment(first), &object_dir.segment(first))
                    .and_then(|()| object_dir.disk.sync_dir(&object_dir.lineage()))
                    .map_err(CommitError::new("begin a segment"))?;
            }
        }
        Ok(())
    }

    /// Empties the queue and keeps its buffers.
    pub(crate) fn clear(&mut self) {
        self.buffer = self.parts.pop().map(|part| part.bytes).unwrap_or_default();
        self.buffer.clear();
        self.parts.clear();
        self.records.clear();
    }
}

/// The state that grows at once, and what follows it to the disk.
pub(crate) struct Staged {
    pub(crate) state: State,
    pub(crate) keys: Keys,
    tail: Tail,
    pub(crate) queue: Queue,
}

/// A record's size at most. Cheap for mutations: sixteen bytes of encoding for each of payload bound every type.
pub(crate) fn size_bound(body: &Body) -> Result<usize, codec::Error> {
    if let Body::Mutated(mutated) = body {
        let size = |write: &Write| match write {
            Write::Set(value) | Write::Append(value) => value.size(),
            Write::Unset => 0,
            Write::Add(_) => 8,
        };
        let fields = mutated
            .change
            .iter()
            .map(|(name, write)| name.as_str().len() + size(write) + 4);
        let bound = (fields.sum::<usize>() + mutated.by.len()) * 16 + ENVELOPE_BYTES;
        if bound <= 32 << 10 {
            return Ok(bound);
        }
    }
    Ok(codec::encode(body)?.len() + ENVELOPE_BYTES)
}

/// Records that may use the reserve: those that end or begin an activation.
pub(crate) const fn is_lifecycle(body: &Body) -> bool {
    !matches!(
        body,
        Body::Mutated(_) | Body::Refused(_) | Body::Seal(_) | Body::Amended(_) | Body::Forked(_)
    )
}

fn unless_full(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(false),
        Err(error) => Err(error),
    }
}

impl Staged {
    pub(crate) fn new(state: State, keys: Keys, tail: Tail) -> Self {
        Self {
            state,
            keys,
            tail,
            queue: Queue::default(),
        }
    }

    /// Sees to allocated space for a record of `bound` bytes at most; `false` where the disk is full.
    pub(crate) fn make_room(
        &mut self,
        object_dir: &ObjectDir,
        sizes: &Sizes,
        bound: usize,
        body: &Body,
    ) -> io::Result<bool> {
        let needed = (bound + FRAME_BYTES) as u64;
        let full_segment = self.tail.begins.is_none()
            && self.tail.end > HEADER_BYTES as u64
            && self.tail.end + needed > sizes.segment_bytes;
        if full_segment && self.begin_segment(object_dir, sizes, needed)? {
            return Ok(true);
        }
        let wanted = self.tail.end + needed + RESERVE_BYTES;
        if wanted <= self.tail.allocated {
            return Ok(true);
        }
        let more = sizes
            .extent_bytes
            .min(self.tail.allocated.max(FIRST_BYTES as u64));
        let target = wanted.max(self.tail.allocated + more);
        if unless_full(disk::reserve(&*self.tail.file, self.tail.allocated, target))? {
            self.tail.allocated = target;
            return Ok(true);
        }
        Ok(is_lifecycle(body) && self.tail.end + needed <= self.tail.allocated)
    }

    /// Allocates the next segment; `false` where the disk is full.
    fn begin_segment(&mut self, object_dir: &ObjectDir, sizes: &Sizes, needed: u64) -> io::Result<bool> {
        let allocated = sizes
            .extent_bytes
            .max(HEADER_BYTES as u64 + needed + RESERVE_BYTES);
        let first = self.state.head().seq + 1;
        let mut file = None;
        let mut made = || {
            let made = object_dir
                .disk
                .open(&object_dir.unnamed_segment(first), How::Create)?;
            disk::reserve(&*made, 0, allocated)?;
            file = Some(made);
            Ok(())
        };
        if !unless_full(made())? {
            return Ok(false);
        }
        if let Some(file) = file {
            self.tail = Tail {
                file: Arc::from(file),
                end: HEADER_BYTES as u64,
                allocated,
                begins: Some(first),
            };
        }
        Ok(true)
    }

    /// Makes the record and queues it.
    pub(crate) fn extend(&mut self, draft: Draft, bundles: &BundleStore) -> Result<(), StageError> {
        let head = self.state.head();
        let by_epoch = head.phase == Phase::Active && !matches!(draft.body, Body::Unsealed(_));
        let signer = match (draft.sign, by_epoch) {
            (Sign::Later, _) => None,
            (Sign::Now, false) => Some(&self.keys.waiting),
            (Sign::Now, true) => Some(
                self.keys
                    .epoch
                    .as_ref()
                    .ok_or(StageError::NoEpochKey(head.epoch))?,
            ),
        };
        let before = head.record;
        let stored = self
            .state
            .extend(draft.body, draft.at, draft.bundle, signer, bundles)?;
        if self.state.head().phase != Phase::Active {
            self.keys.epoch = None;
        }
        self.push(stored, before);
        Ok(())
    }

    /// Makes the record of a wake, signed by the key that waited, and lets `fresh` wait.
    pub(crate) fn rotate(
        &mut self,
        body: Body,
        at: Timestamp,
        fresh: SecretKey,
        bundles: &BundleStore,
    ) -> Result<(), StageError> {
        let before = self.state.head().record;
        let stored = self
            .state
            .extend(body, at, None, Some(&self.keys.waiting), bundles)?;
        self.keys.epoch = Some(std::mem::replace(&mut self.keys.waiting, fresh));
        self.push(stored, before);
        Ok(())
    }

    fn push(&mut self, stored: Stored, before: suijuris_core::id::RecordId) {
        let begins = self.tail.begins.take();
        if begins.is_some() || self.queue.parts.is_empty() {
            let mut bytes = std::mem::take(&mut self.queue.buffer);
            if let Some(first) = begins {
                let header = Header {
                    object: self.state.head().object,
                    first,
                    prev: before,
                };
                bytes.extend(header.encode());
            }
            self.queue.parts.push(Part {
                file: Arc::clone(&self.tail.file),
                at: self.tail.end - bytes.len() as u64,
                bytes,
                frames: 0,
                begins,
            });
        }
        if let Some(part) = self.queue.parts.last_mut() {
            Frame::push(&stored, part.frames, &mut part.bytes);
            part.frames += 1;
        }
        self.tail.end += (FRAME_BYTES + stored.bytes.len()) as u64;
        self.queue.records.push(stored);
    }
}
