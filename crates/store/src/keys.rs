//! The waiting key on disk: the seed of the next epoch's key, which the head commits to.
//!
//! A wake commits to a fresh key. The fresh seed is durable as `next.key.new` before the record that commits to it is
//! written, and takes the place of `next.key` after that record is durable. So at every instant one of the two files
//! holds the key that the durable head commits to, and opening adopts that one.

use std::io;
use std::path::Path;

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
pub(crate) fn prepare(object_dir: &ObjectDir, key: &SecretKey) -> io::Result<()> {
    disk::replace(&*object_dir.disk, &object_dir.new_key(), &*key.seed())
}

/// Lets the prepared key take its place; the record that commits to it is durable.
pub(crate) fn adopt(object_dir: &ObjectDir) -> io::Result<()> {
    object_dir
        .disk
        .rename(&object_dir.new_key(), &object_dir.next_key())?;
    object_dir.disk.sync_dir(object_dir.path())
}

/// The waiting key that `commitment` stands for, and whether it is still in the prepared file.
///
/// # Errors
/// [`OpenError::NoKey`] and [`OpenError::Key`].
pub(crate) fn waiting(object_dir: &ObjectDir, commitment: &Digest) -> Result<(SecretKey, bool), OpenError> {
    let is_it = |key: &SecretKey| key.public().commitment() == *commitment;
    let next = load(object_dir, &object_dir.next_key())?;
    if let Some(key) = next.clone().filter(is_it) {
        return Ok((key, false));
    }
    let new = load(object_dir, &object_dir.new_key())?;
    match (new.clone().filter(is_it), next.or(new)) {
        (Some(key), _) => Ok((key, true)),
        (None, Some(_)) => Err(OpenError::Key),
        (None, None) => Err(OpenError::NoKey),
    }
}
