//! The one writer of an object: stage, commit in groups, publish.
//!
//! Commit order, the same for a group of one and of many:
//! 1. *stage*: the record is made on the staged state, which runs every check of the chain; its frame is queued.
//! 2. *write*: all that is queued goes to the segment with one write, into space that is already allocated and zeroed.
//! 3. *sync*: one `fdatasync`.
//! 4. *publish*: the published state takes over what the group changed in the staged one, as it was when step 2 began;
//!    watchers are told; a checkpoint is written if due.
//! 5. *acknowledge*: tickets resolve.
//!
//! A wake is durable before step 1 in one thing: the fresh waiting key lies in `next.key.new`, or in `spare.key` where
//! whoever started the machine made it (`keys`). After step 3 it takes the place of `next.key`: at once, or beside what
//! comes next ([`Writer::adopt`]), but before the next record that ends or begins an activation. Recovery (`opening`) folds
//! what step 2 left behind by the same checks as step 1.
//!
//! A write or sync that fails poisons the writer: what the disk holds is unknown, so nothing is acknowledged any more.
//! A full disk is found before anything is staged, because space is allocated ahead; the last 64 KiB allocated are kept
//! for the records with which an object goes to sleep. A new segment gets its name once its first group is durable.

mod waking;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use suijuris_core::codec;
use suijuris_core::id::BundleId;
use suijuris_core::key::{Domain, Signature};
use suijuris_core::lineage::{self, Advance, Body, ChainError, Checkpoint, Phase, State, Stored};
use suijuris_core::time::Timestamp;

use crate::bundle_store::BundleStore;
use crate::disk;
use crate::keys;
use crate::object_dir::{ObjectDir, OpenError, WriterLock};
use crate::opening::{self, Depth};
use crate::queue::{Keys, Queue, Staged, Tail, is_lifecycle, size_bound};
use crate::ticket::{Progress, Ticket};

pub use waking::Fresh;

/// Sizes of a store; the defaults are for production, tests make them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// A segment gets no further record beyond this size, bytes. 64 MiB: a few hundred thousand records, a size that
    /// copies and verifies in a second.
    pub segment_bytes: u64,
    /// Space allocated ahead at once, bytes. 1 MiB: some thousand records for one allocation of a millisecond.
    pub extent_bytes: u64,
    /// A checkpoint at least every so many records. 4,096: read again in some ten milliseconds after a crash.
    pub checkpoint_records: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            extent_bytes: 1 << 20,
            checkpoint_records: 4_096,
        }
    }
}

/// Staged bytes at most; who stages beyond commits first.
const MAX_QUEUED_BYTES: usize = 4 << 20;

/// How a record is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// By the key that the chain wants now: the epoch's while the object is active, else the waiting one.
    Now,
    /// Not at all: the next signed record covers it.
    Later,
}

/// A record to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// What it says.
    pub body: Body,
    /// When; a time before the head's is raised to it.
    pub at: Timestamp,
    /// The new rules, for an amendment; they must be in the bundle store.
    pub bundle: Option<BundleId>,
    /// Signature.
    pub sign: Sign,
}

/// Why a record is not staged; the staged state is as before.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The record does not continue the chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The body is larger than a record may be.
    #[error("the record would be up to {0} bytes, more than the {max} allowed; write less at once", max = lineage::MAX_BYTES)]
    TooLarge(usize),
    /// The body cannot be encoded.
    #[error("the record cannot be encoded")]
    Encoding(#[from] codec::Error),
    /// The disk is full.
    #[error("the disk is full; free some space, all acknowledged writes are kept")]
    DiskFull,
    /// The epoch's key died with the process that held it.
    #[error("the key of epoch {0} is gone with the process that held it; record `unsealed` first")]
    NoEpochKey(u64),
    /// A record that rotates keys.
    #[error("`woke` and `resumed` change the keys; record them by a wake")]
    ByWakeOnly,
    /// A commit failed, now or earlier.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why nothing is committed any more; the writer must be opened anew.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the store failed to {what}; nothing is acknowledged any more, open it again to see what the disk holds"
)]
pub struct CommitError {
    pub(crate) what: &'static str,
    #[source]
    pub(crate) source: Arc<io::Error>,
}

impl CommitError {
    pub(crate) fn new(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self {
            what,
            source: Arc::new(source),
        }
    }

    /// Whether the disk was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

/// What opening found and mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Records read.
    pub read: u64,
    /// A group that was cut short before anybody was told of it was removed.
    pub torn: bool,
    /// A wake was durable, and its waiting key now took its place.
    pub adopted_key: bool,
}

/// What the committer alone touches.
struct Commits {
    since_checkpoint: u64,
    end: u64,
    last_frame_bytes: u64,
    /// The queue's buffers, to be used again.
    spare: Queue,
}

type Watcher = Box<dyn Fn(&[Stored]) + Send + Sync>;

/// What writer and tickets share. Locks are taken in the order of the fields.
pub(crate) struct Shared {
    commits: Mutex<Commits>,
    /// Where the waiting key lies, if it has not taken its place; locked while it does.
    adopting: Mutex<Option<PathBuf>>,
    staged: Mutex<Staged>,
    published: RwLock<State>,
    watchers: Mutex<Vec<Watcher>>,
    pub(crate) progress: Progress,
    object_dir: ObjectDir,
    bundles: BundleStore,
    sizes: Sizes,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("object_dir", &self.object_dir)
            .finish_non_exhaustive()
    }
}

/// The one writer of an object. Dropping it commits what is staged and writes a checkpoint, as far as the disk lets it;
/// [`Writer::close`] says whether it did.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    _lock: WriterLock,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Takes the lock, reads as deep as asked, removes a torn end, adopts the waiting key.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Locked`] names the process that writes.
    pub fn open(object_dir: &ObjectDir, depth: Depth, sizes: Sizes) -> Result<(Self, Recovery), OpenError> {
        if !object_dir.holds_object()? {
            return Err(OpenError::NotAnObject(object_dir.path().to_owned()));
        }
        let held = object_dir.locked()?;
        let bundles = BundleStore::of(object_dir);
        let opened = opening::open(object_dir, &bundles, depth, &|| false, &mut |_| {})?;
        let (waiting, prepared) = keys::waiting(object_dir, &opened.state.head().next)?;
        let tail = Tail::repair(object_dir, &opened)?;
        object_dir.remove_unnamed()?;
        match &prepared {
            Some(prepared) => keys::adopt(object_dir, prepared),
            // Whoever was cut off may have left a renaming that is not durable yet.
            None if opened.state.head().phase == Phase::Active => object_dir.disk.sync_dir(object_dir.path()),
            None => Ok(()),
        }
        .map_err(OpenError::disk("adopt", &object_dir.next_key()))?;
        let recovery = Recovery {
            read: opened.read,
            torn: opened.torn,
            adopted_key: prepared.is_some(),
        };
        let head = opened.state.head();
        let commits = Commits {
            since_checkpoint: opened
                .checkpointed
                .map_or(sizes.checkpoint_records, |at| head.seq - at),
            end: opened.end.offset,
            last_frame_bytes: opened.last_frame_bytes,
            spare: Queue::default(),
        };
        let shared = Shared {
            commits: Mutex::new(commits),
            adopting: Mutex::default(),
            progress: Progress::starting(opened.end.seq),
            staged: Mutex::new(Staged::new(opened.state.clone(), Keys::waiting(waiting), tail)),
            published: RwLock::new(opened.state),
            watchers: Mutex::default(),
            object_dir: object_dir.clone(),
            bundles,
            sizes,
        };
        let writer = Self {
            shared: Arc::new(shared),
            _lock: held,
        };
        Ok((writer, recovery))
    }

    /// The state of everything durable. Commits wait while the guard is held: look, copy what is needed, drop it.
    pub fn published(&self) -> RwLockReadGuard<'_, State> {
        self.shared
            .published
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the staged state: everything durable, and what is on its way.
    pub fn staged<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.shared.staged).state)
    }

    /// Staged records that no signature covers yet.
    #[must_use]
    pub fn uncovered(&self) -> u64 {
        self.staged(|state| state.head().uncovered())
    }

    /// The bundles.
    #[must_use]
    pub fn bundles(&self) -> &BundleStore {
        &self.shared.bundles
    }

    /// The directory.
    #[must_use]
    pub fn object_dir(&self) -> &ObjectDir {
        &self.shared.object_dir
    }

    /// Calls `watcher` with each group of records once it is published. It runs where the commit runs, so it must be
    /// quick: send a note, do not work.
    pub fn watch(&self, watcher: impl Fn(&[Stored]) + Send + Sync + 'static) {
        lock(&self.shared.watchers).push(Box::new(watcher));
    }

    /// Makes a record and puts it on its way. `woke` and `resumed` go by [`Writer::wake`].
    ///
    /// # Errors
    /// [`StageError`]; nothing was staged.
    pub fn stage(&self, draft: Draft) -> Result<Ticket, StageError> {
        self.stage_with(|_| Ok(draft))
    }

    /// As [`Writer::stage`], with the draft made from the very state that it will extend.
    ///
    /// # Errors
    /// What `make` says, or [`StageError`]; nothing was staged.
    pub fn stage_with<E: From<StageError>>(
        &self,
        make: impl FnOnce(&State) -> Result<Draft, E>,
    ) -> Result<Ticket, E> {
        let shared = &self.shared;
        shared.progress.check().map_err(StageError::from)?;
        let mut staged = shared.relieved().map_err(StageError::from)?;
        let draft = make(&staged.state)?;
        if is_lifecycle(&draft.body) {
            // Only after it may another fresh key be made, over this one.
            shared.adopt().map_err(StageError::from)?;
        }
        if matches!(draft.body, Body::Woke(_) | Body::Resumed(_)) {
            return Err(StageError::ByWakeOnly.into());
        }
        shared.make_room(&mut staged, &draft.body)?;
        staged.extend(draft, &shared.bundles)?;
        let head = staged.state.head();
        Ok(Ticket {
            shared: Arc::clone(shared),
            id: head.record,
            seq: head.seq,
        })
    }

    /// Signs bytes that are no record by the running epoch's key; `None` while no epoch runs.
    #[must_use]
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Option<Signature> {
        lock(&self.shared.staged)
            .keys
            .epoch
            .as_ref()
            .map(|key| key.sign(domain, bytes))
    }

    /// Commits everything staged.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn flush(&self) -> Result<(), CommitError> {
        self.shared.commit_all(&mut lock(&self.shared.commits))
    }

    /// Commits everything staged, writes a checkpoint and gives up the lock.
    ///
    /// # Errors
    /// [`CommitError`]: of the commit, or of the checkpoint alone, without which nothing is lost.
    pub fn close(self) -> Result<(), CommitError> {
        self.shared.finish()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`; what was acknowledged is durable either way.
        let _ = self.shared.finish();
        self.shared.progress.close();
    }
}

impl Shared {
    /// The staged state, with room in its queue.
    fn relieved(&self) -> Result<MutexGuard<'_, Staged>, CommitError> {
        loop {
            let staged = lock(&self.staged);
            if staged.queue.len_bytes() < MAX_QUEUED_BYTES {
                return Ok(staged);
            }
            drop(staged);
            self.commit_all(&mut lock(&self.commits))?;
        }
    }

    fn make_room(&self, staged: &mut Staged, body: &Body) -> Result<(), StageError> {
        let bound = size_bound(body)?;
        if bound > lineage::MAX_BYTES {
            return Err(StageError::TooLarge(bound));
        }
        match staged.make_room(&self.object_dir, &self.sizes, bound, body) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StageError::DiskFull),
            Err(error) => Err(self.poison(CommitError::new("allocate space")(error)).into()),
        }
    }

    fn poison(&self, error: CommitError) -> CommitError {
        self.progress.poison(error.clone());
        error
    }

    /// Commits what is queued, for all who wait; they learn the outcome from the progress. Says whether it moved.
    pub(crate) fn commit(&self) -> bool {
        self.commit_group(&mut lock(&self.commits)).unwrap_or(false)
    }

    fn commit_all(&self, commits: &mut Commits) -> Result<(), CommitError> {
        self.commit_group(commits).map(drop)
    }

    fn commit_group(&self, commits: &mut Commits) -> Result<bool, CommitError> {
        self.progress.check()?;
        let Some((mut queue, advance)) = self.cut(commits) else {
            return Ok(false);
        };
        let below = advance.seq().saturating_add(1);
        queue
            .write(&self.object_dir)
            .map_err(|error| self.poison(error))?;
        commits.end = queue.end();
        commits.last_frame_bytes = queue.last_frame_bytes();
        commits.since_checkpoint += queue.records.len() as u64;
        self.publish(&queue.records, advance);
        let sleeps = queue
            .records
            .iter()
            .any(|stored| matches!(stored.record.body, Body::Dormant(_)));
        if sleeps || commits.since_checkpoint >= self.sizes.checkpoint_records {
            // Only a short cut: the next group, the closing, or the next opening makes up for a failed one.
            let _ = self.write_checkpoint(commits);
        }
        self.progress.advance(below);
        queue.clear();
        commits.spare = queue;
        Ok(true)
    }

    /// Takes what is staged: the records, and what they changed. Staging goes on meanwhile.
    fn cut(&self, commits: &mut Commits) -> Option<(Queue, Advance)> {
        let mut staged = lock(&self.staged);
        if staged.queue.records.is_empty() {
            return None;
        }
        let queue = std::mem::replace(&mut staged.queue, std::mem::take(&mut commits.spare));
        Some((queue, staged.state.advance()))
    }

    fn publish(&self, records: &[Stored], advance: Advance) {
        self.published
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .follow(advance);
        for watcher in lock(&self.watchers).iter() {
            watcher(records);
        }
    }

    fn write_checkpoint(&self, commits: &mut Commits) -> io::Result<()> {
        let waiting = lock(&self.staged).keys.waiting.clone();
        let position = opening::position(commits.end, commits.last_frame_bytes);
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        if waiting.public().commitment() != published.head().next {
            return Ok(());
        }
        let bytes = Checkpoint::of(&published, position, &waiting).map_err(io::Error::other)?;
        drop(published);
        disk::replace(&*self.object_dir.disk, &self.object_dir.checkpoint(), &bytes)?;
        commits.since_checkpoint = 0;
        Ok(())
    }

    fn finish(&self) -> Result<(), CommitError> {
        let mut commits = lock(&self.commits);
        self.commit_all(&mut commits)?;
        self.adopt()?;
        if commits.since_checkpoint == 0 {
            return Ok(());
        }
        self.write_checkpoint(&mut commits)
            .map_err(CommitError::new("write the checkpoint"))
    }

    /// Lets a thread commit for those who poll; started by the first of them after a while.
    pub(crate) fn serve(this: &Arc<Self>) -> Result<(), CommitError> {
        if !this.progress.begins_to_serve() {
            return Ok(());
        }
        let shared = Arc::clone(this);
        let run = move || shared.progress.serve(&shared);
        let started = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(run);
        started.map(drop).map_err(|error| {
            this.progress.does_not_serve();
            CommitError::new("start its committing thread")(error)
        })
    }
}
