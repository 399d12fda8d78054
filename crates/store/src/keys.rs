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
use crate::home::{Home, OpenError};

fn load(home: &Home, path: &Path) -> Result<Option<SecretKey>, OpenError> {
    let read = || -> io::Result<Option<SecretKey>> {
        let file = home.disk.open(path, How::Read)?;
        let mut seed = Zeroizing::new([0; 32]);
        let whole = file.size()? == 32 && file.read_at(&mut *seed, 0)? == 32;
        Ok(whole.then(|| SecretKey::from_seed(&seed)))
    };
    let found = disk::optional(read()).map_err(OpenError::disk("read", path))?;
    Ok(found.flatten())
}

/// Writes the seed of a key durably under `next.key.new`.
pub(crate) fn prepare(home: &Home, key: &SecretKey) -> io::Result<()> {
    disk::replace(&*home.disk, &home.new_key(), &*key.seed())
}

/// Lets the prepared key take its place; the record that commits to it is durable.
pub(crate) fn adopt(home: &Home) -> io::Result<()> {
    home.disk.rename(&home.new_key(), &home.next_key())?;
    home.disk.sync_dir(home.path())
}

/// The waiting key that `commitment` stands for, and whether it is still in the prepared file.
///
/// # Errors
/// [`OpenError::NoKey`] and [`OpenError::Key`].
pub(crate) fn waiting(home: &Home, commitment: &Digest) -> Result<(SecretKey, bool), OpenError> {
    let is_it = |key: &SecretKey| key.public().commitment() == *commitment;
    let next = load(home, &home.next_key())?;
    if let Some(key) = next.clone().filter(is_it) {
        return Ok((key, false));
    }
    let new = load(home, &home.new_key())?;
    match (new.clone().filter(is_it), next.or(new)) {
        (Some(key), _) => Ok((key, true)),
        (None, Some(_)) => Err(OpenError::Key),
        (None, None) => Err(OpenError::NoKey),
    }
}
