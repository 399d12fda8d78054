//! The waiting key on disk: the seed of the next epoch's key, which the head commits to.
//!
//! A wake commits to a fresh key. The fresh seed is durable as `next.key.new` before the record that commits to it is
//! written, and takes the place of `next.key` after that record is durable. So at every instant one of the two files
//! holds the key that the durable head commits to, and opening adopts that one.
//!
//! Whoever starts a machine may have made the fresh key beside its start: then it lies in `spare.key`, which takes the
//! place of `next.key` in the same way. It is made for one start, by whoever had the writer until then, and removed where
//! nothing committed to it: a copy that is stolen while the object sleeps holds the key of one epoch, not of two. No
//! export, fork or import carries it.
//!
//! While an object is suspended in a machine that others may begin as copies of, its key lies in `kept.key` outside that machine, and
//! neither in its memory nor on its disk.

use std::io;
use std::path::{Path, PathBuf};

use suijuris_core::id::Digest;
use suijuris_core::key::SecretKey;
use zeroize::Zeroizing;

use crate::disk::{self, How};
use crate::object_dir::{ObjectDir, OpenError};

fn load(object_dir: &ObjectDir, path: &Path) -> Result<Option<SecretKey>, OpenError> {
    let read = || -> io::Result<Option<SecretKey>> {
        let file = object_dir.disk.open(path, How::Read)?;
        let mut seed = Zeroizing::new([0; 32]);
        let whole = file.size()? == 32 && file.read_at(&mut *seed, 0)? == 32;
        Ok(whole.then(|| SecretKey::from_seed(&seed)))
    };
    let found = disk::optional(read()).map_err(OpenError::disk("read", path))?;
    Ok(found.flatten())
}

/// Writes the seed of a key durably under `next.key.new`.
pub(crate) fn prepare(object_dir: &ObjectDir, key: &SecretKey) -> io::Result<PathBuf> {
    let path = object_dir.new_key();
    disk::replace(&*object_dir.disk, &path, &*key.seed())?;
    Ok(path)
}

/// Lets the key in `prepared` take its place; the record that commits to it is durable.
pub(crate) fn adopt(object_dir: &ObjectDir, prepared: &Path) -> io::Result<()> {
    object_dir.disk.rename(prepared, &object_dir.next_key())?;
    object_dir.disk.sync_dir(object_dir.path())
}

/// The waiting key that `commitment` stands for, and the file that it still lies in where it has not taken its place.
///
/// # Errors
/// [`OpenError::NoKey`] and [`OpenError::Key`].
pub(crate) fn waiting(
    object_dir: &ObjectDir,
    commitment: &Digest,
) -> Result<(SecretKey, Option<PathBuf>), OpenError> {
    let is_it = |key: &SecretKey| key.public().commitment() == *commitment;
    let mut found = false;
    let files = [
        object_dir.next_key(),
        object_dir.new_key(),
        object_dir.spare_key(),
        object_dir.kept_key(),
    ];
    for (number, path) in files.into_iter().enumerate() {
        match load(object_dir, &path)? {
            Some(key) if is_it(&key) => return Ok((key, (number > 0).then_some(path))),
            // A spare alone says nothing of where the object's key went.
            Some(_) => found |= number < 2,
            None => {}
        }
    }
    Err(if found { OpenError::Key } else { OpenError::NoKey })
}

/// The spare key that `commitment` stands for, where it lies there.
pub(crate) fn spare(object_dir: &ObjectDir, commitment: &Digest) -> Option<SecretKey> {
    let spare = load(object_dir, &object_dir.spare_key()).ok()?;
    spare.filter(|key| key.public().commitment() == *commitment)
}

/// Overwrites the waiting key where it lies, durably, and removes it.
pub(crate) fn wipe(object_dir: &ObjectDir) -> io::Result<()> {
    for path in [
        object_dir.next_key(),
        object_dir.new_key(),
        object_dir.spare_key(),
    ] {
        let wiped = || {
            let file = object_dir.disk.open(&path, How::Write)?;
            file.write_at(&[0; 32], 0)?;
            file.sync()?;
            object_dir.disk.remove(&path)
        };
        disk::optional(wiped())?;
    }
    object_dir.disk.sync_dir(object_dir.path())
}

impl ObjectDir {
    /// Keeps the waiting key of an object whose machine is about to be suspended and must not have it, durably.
    ///
    /// # Errors
    /// The disk's: nobody keeps it.
    pub fn keep_key(&self, seed: &[u8; 32]) -> io::Result<()> {
        disk::replace(&*self.disk, &self.kept_key(), seed)
    }

    /// The seed of a waiting key that is kept for its machine. Whether it is the right one that machine finds out.
    #[must_use]
    pub fn key_that_is_kept(&self) -> Option<Zeroizing<[u8; 32]>> {
        load(self, &self.kept_key()).ok().flatten().map(|key| key.seed())
    }

    /// Whoever the key was kept for is past it.
    pub fn forget_kept_key(&self) {
        let _ = disk::optional(self.disk.remove(&self.kept_key()));
    }

    /// Makes the key of the epoch after the one that is about to begin, durable in `spare.key`, and gives its commitment: for
    /// [`crate::Fresh`]. For whoever had the writer, and starts the machine that has it next: the two do not look at
    /// the same file before the one has heard of it from the other. `seed` is 32 fresh random bytes.
    ///
    /// # Errors
    /// The disk's: there is none.
    pub fn prepare_spare(&self, seed: &[u8; 32]) -> io::Result<Digest> {
        let key = SecretKey::from_seed(seed);
        disk::replace(&*self.disk, &self.spare_key(), &*key.seed())?;
        Ok(key.public().commitment())
    }

    /// Removes a spare key that nothing committed to, and what was begun of one. What fails leaves it.
    pub(crate) fn discard_spare(&self) {
        for path in [self.spare_key(), self.spare_key().with_extension("tmp")] {
            let _ = disk::optional(self.disk.remove(&path));
        }
    }
}
