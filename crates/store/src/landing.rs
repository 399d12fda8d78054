//! Putting a history that comes from elsewhere into a directory: all of it, or nothing.
//!
//! In a directory without object the segments are made in `lineage.tmp/`, and its renaming to `lineage/` is the moment
//! of birth. In one that holds an older part of the same history, the rest becomes one more segment, and its naming is
//! the moment. Everything else (bundles, secrets, the waiting key) is durable before, and means nothing without it.
//!
//! Not here: whether the records are a sound chain; who fills a [`Landing`] folds them (`capsule`, `rebuild`, `fork`).

mod fault;
mod filling;
mod known;

use std::io;
use std::path::{Path, PathBuf};

use suijuris_core::id::BundleId;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Checkpoint, State, Stored};

use crate::disk::{self, How};
use crate::frame::{FRAME_BYTES, HEADER_BYTES, Header};
use crate::home::{Held, Home, OpenError};
use crate::keys;
use crate::opening::{self, Depth};
use crate::queue::Tail;
use crate::secrets::{self, Secret};
use crate::shelf::{BundleFiles, Shelf};
use crate::writer::Sizes;

pub use fault::LandingError;
use fault::failed;
use filling::Filling;
pub(crate) use known::Known;

/// What a directory without object may hold: what its user's program puts there before, and what a founding or an
/// import that was cut short left.
const KNOWN: [&str; 15] = [
    "lock",
    "run",
    "volume",
    "lineage",
    "lineage.tmp",
    "bundles",
    "secrets",
    "next.key",
    "next.key.new",
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

/// A history on its way into a directory. Dropping it without [`Landing::land`] undoes what it did, as far as the disk
/// lets it.
#[derive(Debug)]
pub(crate) struct Landing {
    home: Home,
    shelf: Shelf,
    sizes: Sizes,
    ground: Ground,
    filling: Option<Filling>,
    put: Vec<BundleId>,
    kept: Vec<PathBuf>,
    added: u64,
    over: bool,
    _lock: Held,
}

impl Landing {
    /// Looks at the directory, which is made where its parent directory exists, and takes its lock.
    ///
    /// # Errors
    /// [`LandingError`]; nothing was changed.
    pub(crate) fn begin(home: &Home, sizes: Sizes) -> Result<Self, LandingError> {
        let disk = &*home.disk;
        let listed = disk::optional(disk.list(home.path())).map_err(OpenError::disk("list", home.path()))?;
        let made_dir = listed.is_none();
        let parent = home.path().parent().filter(|path| !path.as_os_str().is_empty());
        disk.create_dir(home.path()).map_err(failed(home.path()))?;
        disk.sync_dir(parent.unwrap_or_else(|| Path::new(".")))
            .map_err(failed(home.path()))?;
        let bare = !home.holds_object()?;
        let foreign = |name: &&String| !KNOWN.contains(&name.as_str());
        if let (true, Some(name)) = (bare, listed.unwrap_or_default().iter().find(foreign)) {
            return Err(LandingError::NotEmpty {
                dir: home.path().to_owned(),
                name: name.clone(),
            });
        }
        let lock = home.locked()?;
        let shelf = Shelf::of(home);
        home.clear_staged()?;
        let ground = if bare && !home.holds_object()? {
            disk.create_dir(&home.staged_lineage())
                .map_err(failed(&home.staged_lineage()))?;
            Ground::Bare { made_dir }
        } else {
            Ground::Older {
                seq: settled(home, &shelf)?,
            }
        };
        Ok(Self {
            home: home.clone(),
            shelf,
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

    /// Puts a bundle on the shelf.
    ///
    /// # Errors
    /// [`LandingError::Bundle`].
    pub(crate) fn bundle(&mut self, id: BundleId, files: &BundleFiles) -> Result<(), LandingError> {
        if self.shelf.bundle(&id).is_ok() {
            return Ok(());
        }
        self.put.push(id);
        let put = self.shelf.put(files);
        put.map(drop)
            .map_err(|source| LandingError::Bundle { id, source })
    }

    /// The bundles put so far, for the fold.
    pub(crate) const fn shelf(&self) -> &Shelf {
        &self.shelf
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

    /// The records that are there, to be compared with those that come; `home` is the directory that was given.
    ///
    /// # Errors
    /// [`LandingError::Home`].
    pub(crate) fn known<'a>(&self, home: &'a Home) -> Result<Known<'a>, LandingError> {
        Ok(Known::of(home, self.old().is_some())?)
    }

    /// Takes the next record of the history, which the caller's fold has accepted.
    ///
    /// # Errors
    /// [`LandingError`].
    pub(crate) fn record(&mut self, stored: &Stored, known: &mut Known<'_>) -> Result<(), LandingError> {
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
            filling.settle()?;
        }
        let mut filling = match self.filling.take() {
            Some(filling) => filling,
            None => Filling::begin(
                &self.home,
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
            Ground::Bare { .. } => self.home.staged_segment(first),
            Ground::Older { .. } => self.home.unnamed_segment(first),
        }
    }

    /// Makes durable what is there so far; it has no name yet.
    ///
    /// # Errors
    /// [`LandingError`].
    pub(crate) fn settle(&mut self) -> Result<(), LandingError> {
        if let Some(filling) = &mut self.filling {
            filling.settle()?;
        }
        if let Ground::Bare { .. } = self.ground {
            let dir = self.home.staged_lineage();
            self.home.disk.sync_dir(&dir).map_err(failed(&dir))?;
        }
        Ok(())
    }

    /// Whether no object was there.
    pub(crate) const fn is_bare(&self) -> bool {
        matches!(self.ground, Ground::Bare { .. })
    }

    /// Leaves everything staged as it is, durable, for [`birth`] at another time.
    ///
    /// # Errors
    /// [`LandingError`].
    pub(crate) fn leave(mut self) -> Result<(), LandingError> {
        self.settle()?;
        self.over = true;
        Ok(())
    }

    /// Whether the history may have this place; `state` is its fold. Nothing that was there before has changed yet.
    ///
    /// # Errors
    /// [`LandingError::Newer`]; [`LandingError::NotEmpty`] for a key of another history.
    pub(crate) fn check(&self, state: &State) -> Result<(), LandingError> {
        let dir = || self.home.path().to_owned();
        let theirs = state.head().seq;
        if let Some(ours) = self.old() {
            return match ours > theirs {
                true => Err(LandingError::Newer {
                    dir: dir(),
                    ours,
                    theirs,
                }),
                false => Ok(()),
            };
        }
        // A key whose history is not here may be the last copy of it: it is never written over.
        let path = self.home.next_key();
        let there = disk::optional(self.home.disk.open(&path, How::Read)).map_err(failed(&path))?;
        if there.is_some() && keys::waiting(&self.home, &state.head().next).is_err() {
            return Err(LandingError::NotEmpty {
                dir: dir(),
                name: "next.key".to_owned(),
            });
        }
        Ok(())
    }

    /// Keeps a small file beside the history, durably.
    ///
    /// # Errors
    /// [`LandingError::Disk`].
    pub(crate) fn keep(&mut self, path: PathBuf, bytes: &[u8]) -> Result<(), LandingError> {
        disk::replace(&*self.home.disk, &path, bytes).map_err(failed(&path))?;
        self.kept.push(path);
        Ok(())
    }

    /// Keeps the value of a secret field, durably.
    ///
    /// # Errors
    /// [`secrets::Error`].
    pub(crate) fn keep_secret(&mut self, secret: &Secret) -> Result<(), secrets::Error> {
        let commitment = self.home.keep_secret(secret)?;
        self.kept.push(self.home.secrets().join(commitment.hex()));
        Ok(())
    }

    /// Gives the history its place, after [`Landing::check`]; `waiting` is the key that it commits to, where it is at
    /// hand.
    ///
    /// # Errors
    /// [`LandingError`].
    pub(crate) fn land(mut self, state: &State, waiting: Option<&SecretKey>) -> Result<(), LandingError> {
        self.settle()?;
        let home = self.home.clone();
        let fits = keys::waiting(&home, &state.head().next).is_ok();
        if let Some(key) = waiting.filter(|_| !fits) {
            keys::prepare(&home, key).map_err(failed(&home.new_key()))?;
        }
        self.over = true;
        match self.ground {
            Ground::Bare { .. } => birth(&home)?,
            Ground::Older { .. } => self.name_rest()?,
        }
        let Ok((key, prepared)) = keys::waiting(&home, &state.head().next) else {
            return Ok(());
        };
        if prepared {
            keys::adopt(&home).map_err(failed(&home.next_key()))?;
        }
        self.checkpoint(state, &key)
    }

    fn name_rest(&self) -> Result<(), LandingError> {
        let Some(filling) = &self.filling else {
            return Ok(());
        };
        let (disk, named) = (&*self.home.disk, self.home.segment(filling.first));
        disk.rename(&filling.path, &named)
            .and_then(|()| disk.sync_dir(&self.home.lineage()))
            .map_err(failed(&named))
    }

    fn checkpoint(&self, state: &State, key: &SecretKey) -> Result<(), LandingError> {
        let Some(filling) = &self.filling else {
            return Ok(());
        };
        let position = opening::position(filling.end(), filling.last_frame_bytes);
        let path = self.home.checkpoint();
        let bytes = Checkpoint::of(state, position, key).map_err(io::Error::other);
        bytes
            .and_then(|bytes| disk::replace(&*self.home.disk, &path, &bytes))
            .map_err(failed(&path))
    }
}

/// Lets a staged history be an object: it gets its name.
///
/// # Errors
/// [`LandingError::Disk`].
pub(crate) fn birth(home: &Home) -> Result<(), LandingError> {
    let disk = &*home.disk;
    home.remove_unnamed()?;
    disk.rename(&home.staged_lineage(), &home.lineage())
        .and_then(|()| disk.sync_dir(home.path()))
        .map_err(failed(&home.lineage()))
}

/// Mends the end of the object that is there, as a writer would, and says where it is.
fn settled(home: &Home, shelf: &Shelf) -> Result<u64, LandingError> {
    let opened = opening::open(home, shelf, Depth::Tail, &|| false, &mut |_| {})?;
    Tail::mend(home, &opened)?;
    home.remove_unnamed()?;
    if let Ok((_, true)) = keys::waiting(home, &opened.state.head().next) {
        keys::adopt(home).map_err(failed(&home.next_key()))?;
    }
    Ok(opened.state.head().seq)
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // What is left behind has no name and is removed by the next landing.
        let disk = &*self.home.disk;
        let Ground::Bare { made_dir } = self.ground else {
            let _ = self.home.remove_unnamed();
            return;
        };
        let _ = self.home.clear_staged();
        let _ = disk.remove_dir(&self.home.staged_lineage());
        for id in &self.put {
            let _ = self.shelf.remove(id);
        }
        for path in &self.kept {
            let _ = disk.remove(path);
        }
        for dir in [self.home.bundles(), self.home.secrets()] {
            let _ = disk.remove_dir(&dir);
        }
        if made_dir {
            let _ = disk.remove(&self.home.lock_path());
            let _ = disk.remove_dir(self.home.path());
        }
    }
}
