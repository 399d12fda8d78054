//! Putting a history that comes from elsewhere into a directory: all of it, or nothing.
//!
//! In a directory without object the segments are made in `lineage.tmp/`, and its renaming to `lineage/` is the moment
//! of birth. In one that holds an older part of the same history, the rest becomes one more segment, and its naming is
//! the moment. Everything else (bundles, secrets, the waiting key) is durable before, and means nothing without it.
//!
//! Not here: whether the records are a sound chain; who fills a [`Staging`] folds them (`capsule`, `rebuild`, `fork`).

mod fault;
mod filling;
mod known;

use std::io;
use std::path::{Path, PathBuf};

use suijuris_core::id::BundleId;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Checkpoint, State, Stored};

use crate::bundle_store::{BundleFiles, BundleStore};
use crate::disk::{self, How};
use crate::frame::{FRAME_BYTES, HEADER_BYTES, Header};
use crate::keys;
use crate::object_dir::{ObjectDir, OpenError, WriterLock};
use crate::opening::{self, Depth};
use crate::queue::Tail;
use crate::secrets::{self, Secret};
use crate::writer::Sizes;

pub use fault::StagingError;
use fault::failed;
use filling::Filling;
pub(crate) use known::Known;

/// What a directory without object may hold: what its user's program puts there before, and what a creation or an
/// import that was cut short left.
const KNOWN: [&str; 19] = [
    "lock",
    "run",
    "volume",
    "lineage",
    "lineage.tmp",
    "bundles",
    "checkpoint.tmp",
    "secrets",
    "next.key",
    "next.key.new",
    "spare.key",
    "kept.key",
    "spare.tmp",
    "next.tmp",
    "next.key.tmp",
    "parent.proof",
    "parent.tmp",
    "announcement",
    "announcement.tmp",
];

/// What stood in the directory before.
#[derive(Debug)]
enum Ground {
    /// No object; whether the directory itself was made for this.
    Bare { made_dir: bool },
    /// An older part of the history, up to this record.
    Older { seq: u64 },
}

/// A history on its way into a directory. Dropping it without [`Staging::commit`] undoes what it did, as far as the disk
/// lets it.
#[derive(Debug)]
pub(crate) struct Staging {
    object_dir: ObjectDir,
    bundles: BundleStore,
    sizes: Sizes,
    ground: Ground,
    filling: Option<Filling>,
    put: Vec<BundleId>,
    kept: Vec<PathBuf>,
    added: u64,
    over: bool,
    _lock: WriterLock,
}

impl Staging {
    /// Looks at the directory, which is made where its parent directory exists, and takes its lock.
    ///
    /// # Errors
    /// [`StagingError`]; nothing was changed.
    pub(crate) fn begin(object_dir: &ObjectDir, sizes: Sizes) -> Result<Self, StagingError> {
        let disk = &*object_dir.disk;
        let listed = disk::optional(disk.list(object_dir.path()))
            .map_err(OpenError::disk("list", object_dir.path()))?;
        let made_dir = listed.is_none();
        let parent = object_dir
            .path()
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        disk.create_dir(object_dir.path())
            .map_err(failed(object_dir.path()))?;
        disk.sync_dir(parent.unwrap_or_else(|| Path::new(".")))
            .map_err(failed(object_dir.path()))?;
        let bare = !object_dir.holds_object()?;
        let foreign = |name: &&String| !KNOWN.contains(&name.as_str());
        if let (true, Some(name)) = (bare, listed.unwrap_or_default().iter().find(foreign)) {
            return Err(StagingError::NotEmpty {
                dir: object_dir.path().to_owned(),
                name: name.clone(),
            });
        }
        object_dir.refuse_links()?;
        let lock = object_dir.locked()?;
        let bundles = BundleStore::of(object_dir);
        object_dir.clear_staged()?;
        let ground = if bare && !object_dir.holds_object()? {
            disk.create_dir(&object_dir.staged_lineage())
                .map_err(failed(&object_dir.staged_lineage()))?;
            Ground::Bare { made_dir }
        } else {
            Ground::Older {
                seq: repaired_end(object_dir, &bundles)?,
            }
        };
        Ok(Self {
            object_dir: object_dir.clone(),
            bundles,
            sizes,
            ground,
            filling: None,
            put: Vec::new(),
            kept: Vec::new(),
            added: 0,
            over: false,
            _lock: lock,
        })
    }

    /// Puts a bundle into the bundle store.
    ///
    /// # Errors
    /// [`StagingError::Bundle`].
    pub(crate) fn bundle(&mut self, id: BundleId, files: &BundleFiles) -> Result<(), StagingError> {
        if self.bundles.bundle(&id).is_ok() {
            return Ok(());
        }
        self.put.push(id);
        let put = self.bundles.put(files);
        put.map(drop)
            .map_err(|source| StagingError::Bundle { id, source })
    }

    /// The bundles put so far, for the fold.
    pub(crate) const fn bundles(&self) -> &BundleStore {
        &self.bundles
    }

    /// Records that were not there before.
    pub(crate) const fn added(&self) -> u64 {
        self.added
    }

    /// Position of the last record that was there before.
    const fn old(&self) -> Option<u64> {
        match self.ground {
            Ground::Bare { .. } => None,
            Ground::Older { seq } => Some(seq),
        }
    }

    /// The records that are there, to be compared with those that come; `object_dir` is the directory that was given.
    ///
    /// # Errors
    /// [`StagingError::Open`].
    pub(crate) fn known<'a>(&self, object_dir: &'a ObjectDir) -> Result<Known<'a>, StagingError> {
        Ok(Known::of(object_dir, self.old().is_some())?)
    }

    /// Takes the next record of the history, which the caller's fold has accepted.
    ///
    /// # Errors
    /// [`StagingError`].
    pub(crate) fn record(&mut self, stored: &Stored, known: &mut Known<'_>) -> Result<(), StagingError> {
        let seq = stored.record.seq;
        let object = stored.record.object.unwrap_or_else(|| stored.id.into());
        if self.old().is_some_and(|old| seq <= old) {
            return known.compare(stored);
        }
        let full = self.filling.as_ref().is_some_and(|filling| {
            let needed = (FRAME_BYTES + stored.bytes.len()) as u64;
            let more =
                filling.end() > HEADER_BYTES as u64 && filling.end() + needed > self.sizes.segment_bytes;
            // The rest of a history gets its name at once, so it is one segment, whatever its size.
            more && self.old().is_none()
        });
        if full && let Some(mut filling) = self.filling.take() {
            filling.sync()?;
        }
        let mut filling = match self.filling.take() {
            Some(filling) => filling,
            None => Filling::begin(
                &self.object_dir,
                self.path_of(seq),
                &Header {
                    object,
                    first: seq,
                    prev: stored.record.prev.unwrap_or_else(Header::no_record),
                },
            )?,
        };
        let pushed = filling.push(stored);
        self.filling = Some(filling);
        self.added += 1;
        pushed
    }

    fn path_of(&self, first: u64) -> PathBuf {
        match self.ground {
            Ground::Bare { .. } => self.object_dir.staged_segment(first),
            Ground::Older { .. } => self.object_dir.unnamed_segment(first),
        }
    }

    /// Makes durable what is there so far; it has no name yet.
    ///
    /// # Errors
    /// [`StagingError`].
    pub(crate) fn sync_staged(&mut self) -> Result<(), StagingError> {
        if let Some(filling) = &mut self.filling {
            filling.sync()?;
        }
        if let Ground::Bare { .. } = self.ground {
            let dir = self.object_dir.staged_lineage();
            self.object_dir.disk.sync_dir(&dir).map_err(failed(&dir))?;
        }
        Ok(())
    }

    /// Whether no object was there.
    pub(crate) const fn is_bare(&self) -> bool {
        matches!(self.ground, Ground::Bare { .. })
    }

    /// Leaves everything staged as it is, durable, for [`activate`] at another time.
    ///
    /// # Errors
    /// [`StagingError`].
    pub(crate) fn keep_staged(mut self) -> Result<(), StagingError> {
        self.sync_staged()?;
        self.over = true;
        Ok(())
    }

    /// Whether the history may have this place; `state` is its fold. Nothing that was there before has changed yet.
    ///
    /// # Errors
    /// [`StagingError::Newer`]; [`StagingError::NotEmpty`] for a key of another history.
    pub(crate) fn check(&self, state: &State) -> Result<(), StagingError> {
        let dir = || self.object_dir.path().to_owned();
        let theirs = state.head().seq;
        if let Some(ours) = self.old() {
            return match ours > theirs {
                true => Err(StagingError::Newer {
                    dir: dir(),
                    ours,
                    theirs,
                }),
                false => Ok(()),
            };
        }
        // A key whose history is not here may be the last copy of it: it is never written over.
        let path = self.object_dir.next_key();
        let there = disk::optional(self.object_dir.disk.open(&path, How::Read)).map_err(failed(&path))?;
        if there.is_some() && keys::waiting(&self.object_dir, &state.head().next).is_err() {
            return Err(StagingError::NotEmpty {
                dir: dir(),
                name: "next.key".to_owned(),
            });
        }
        Ok(())
    }

    /// Keeps a small file beside the history, durably.
    ///
    /// # Errors
    /// [`StagingError::Disk`].
    pub(crate) fn keep(&mut self, path: PathBuf, bytes: &[u8]) -> Result<(), StagingError> {
        disk::replace(&*self.object_dir.disk, &path, bytes).map_err(failed(&path))?;
        self.kept.push(path);
        Ok(())
    }

    /// Keeps the value of a secret field, durably.
    ///
    /// # Errors
    /// [`secrets::Error`].
    pub(crate) fn keep_secret(&mut self, secret: &Secret) -> Result<(), secrets::Error> {
        let commitment = self.object_dir.keep_secret(secret)?;
        self.kept.push(self.object_dir.secrets().join(commitment.hex()));
        Ok(())
    }

    /// Gives the history its place, after [`Staging::check`]; `waiting` is the key that it commits to, where it is at
    /// hand.
    ///
    /// # Errors
    /// [`StagingError`].
    pub(crate) fn commit(mut self, state: &State, waiting: Option<&SecretKey>) -> Result<(), StagingError> {
        self.sync_staged()?;
        let object_dir = self.object_dir.clone();
        let fits = keys::waiting(&object_dir, &state.head().next).is_ok();
        if let Some(key) = waiting.filter(|_| !fits) {
            keys::prepare(&object_dir, key).map_err(failed(&object_dir.new_key()))?;
        }
        self.over = true;
        match self.ground {
            Ground::Bare { .. } => activate(&object_dir)?,
            Ground::Older { .. } => self.name_rest()?,
        }
        let Ok((key, prepared)) = keys::waiting(&object_dir, &state.head().next) else {
            return Ok(());
        };
        if let Some(prepared) = prepared {
            keys::adopt(&object_dir, &prepared).map_err(failed(&object_dir.next_key()))?;
        }
        self.checkpoint(state, &key)
    }

    fn name_rest(&self) -> Result<(), StagingError> {
        let Some(filling) = &self.filling else {
            return Ok(());
        };
        let (disk, named) = (&*self.object_dir.disk, self.object_dir.segment(filling.first));
        disk.rename(&filling.path, &named)
            .and_then(|()| disk.sync_dir(&self.object_dir.lineage()))
            .map_err(failed(&named))
    }

    fn checkpoint(&self, state: &State, key: &SecretKey) -> Result<(), StagingError> {
        let Some(filling) = &self.filling else {
            return Ok(());
        };
        let position = opening::position(filling.end(), filling.last_frame_bytes);
        let path = self.object_dir.checkpoint();
        let bytes = Checkpoint::of(state, position, key).map_err(io::Error::other);
        bytes
            .and_then(|bytes| disk::replace(&*self.object_dir.disk, &path, &bytes))
            .map_err(failed(&path))
    }
}

/// Lets a staged history be an object: it gets its name.
///
/// # Errors
/// [`StagingError::Disk`].
pub(crate) fn activate(object_dir: &ObjectDir) -> Result<(), StagingError> {
    let disk = &*object_dir.disk;
    object_dir.remove_unnamed()?;
    disk.rename(&object_dir.staged_lineage(), &object_dir.lineage())
        .and_then(|()| disk.sync_dir(object_dir.path()))
        .map_err(failed(&object_dir.lineage()))
}

/// Repairs the end of the object that is there, as a writer would, and says where it is.
fn repaired_end(object_dir: &ObjectDir, bundles: &BundleStore) -> Result<u64, StagingError> {
    let opened = opening::open(object_dir, bundles, Depth::Tail, &|| false, &mut |_| {})?;
    Tail::repair(object_dir, &opened)?;
    object_dir.remove_unnamed()?;
    if let Ok((_, Some(prepared))) = keys::waiting(object_dir, &opened.state.head().next) {
        keys::adopt(object_dir, &prepared).map_err(failed(&object_dir.next_key()))?;
    }
    Ok(opened.state.head().seq)
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // What is left behind has no name and is removed by the next staging.
        let disk = &*self.object_dir.disk;
        let Ground::Bare { made_dir } = self.ground else {
            let _ = self.object_dir.remove_unnamed();
            return;
        };
        let _ = self.object_dir.clear_staged();
        let _ = disk.remove_dir(&self.object_dir.staged_lineage());
        for id in &self.put {
            let _ = self.bundles.remove(id);
        }
        for path in &self.kept {
            let _ = disk.remove(path);
        }
        for dir in [self.object_dir.bundles(), self.object_dir.secrets()] {
            let _ = disk.remove_dir(&dir);
        }
        if made_dir {
            let _ = disk.remove(&self.object_dir.lock_path());
            let _ = disk.remove_dir(self.object_dir.path());
        }
    }
}
