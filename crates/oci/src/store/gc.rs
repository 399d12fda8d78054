//! Taking away what no image refers to and nobody holds.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{ImageStore, StoreError, disk, files};
use crate::descriptor::ContentDigest;

/// What a collection took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Layers.
    pub layers: u64,
    /// Manifests and configs.
    pub blobs: u64,
    /// Partial files of pulls that broke off, beyond the bytes that are kept of them.
    pub partials: u64,
    /// Layers that were being unpacked when their process ended.
    pub stages: u64,
}

/// What is needed, by the names of its files.
#[derive(Default)]
struct Needed {
    layers: BTreeSet<String>,
    blobs: BTreeSet<String>,
}

impl ImageStore {
    /// Removes layers and documents that no image refers to and nobody holds, what crashes left behind, and partial files
    /// beyond [`super::StoreOptions::partial_bytes`]. Others may use the store meanwhile; they wait only while names are
    /// looked at, not while files are removed.
    ///
    /// # Errors
    /// [`StoreError`]. Where an image is damaged nothing is removed, since its layers are not known: remove it first.
    pub fn gc(&self) -> Result<Collected, StoreError> {
        let mut collected = Collected {
            partials: self.trim_partials(self.0.options.partial_bytes)?,
            ..Collected::default()
        };
        {
            let _alone = self.lock_alone()?;
            let needed = self.needed()?;
            for path in files::list(&self.at("layers"))? {
                if !is_in(&path, &needed.layers) {
                    self.discard(&path)?;
                    collected.layers = collected.layers.saturating_add(1);
                }
            }
            for path in files::list(&self.at("blobs"))? {
                if !is_in(&path, &needed.blobs) {
                    files::remove(&path)?;
                    collected.blobs = collected.blobs.saturating_add(1);
                }
            }
            collected.stages = self.discard_stages()?;
            self.remove_leavings()?;
        }
        self.empty_trash()?;
        Ok(collected)
    }

    fn needed(&self) -> Result<Needed, StoreError> {
        let mut needed = Needed::default();
        let named = self.list()?.into_iter().map(|listed| listed.manifest);
        for manifest in named.chain(self.held()?) {
            if !needed.blobs.insert(manifest.digest.hex()) {
                continue;
            }
            let image = self.read_image(&manifest)?;
            needed.blobs.insert(image.config_descriptor().digest.hex());
            needed
                .layers
                .extend(image.layers().iter().map(|layer| layer.diff_id.hex()));
        }
        Ok(needed)
    }

    /// Layers whose unpacking nobody goes on with: the lock beside them is free.
    fn discard_stages(&self) -> Result<u64, StoreError> {
        let mut discarded = 0_u64;
        for path in files::list(&self.at("stage"))? {
            if path.extension().is_some_and(|extension| extension == "lock") {
                continue;
            }
            let lock = path.with_extension("lock");
            if files::is_abandoned(&lock)? {
                self.discard(&path)?;
                discarded = discarded.saturating_add(1);
            }
        }
        for lock in files::list(&self.at("stage"))? {
            let is_lock = lock.extension().is_some_and(|extension| extension == "lock");
            if is_lock && files::is_abandoned(&lock)? {
                files::remove(&lock)?;
            }
        }
        Ok(discarded)
    }

    /// Small files that were being written when their process ended. The store is locked alone, so nobody writes one now.
    fn remove_leavings(&self) -> Result<(), StoreError> {
        for path in files::list(&self.0.dir)? {
            let is_ours = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b".tmp-"));
            if is_ours {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Takes a directory out of sight, so that it can be removed at leisure.
    fn discard(&self, path: &Path) -> Result<(), StoreError> {
        let trash = self.at("trash");
        // One rename, so that whoever empties the trash meanwhile sees all of it or nothing.
        let gone = tempfile::Builder::new()
            .prefix("gone-")
            .make_in(&trash, |place| fs::rename(path, place));
        match gone {
            // Whoever unpacked there was done in this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            gone => {
                let kept = gone.map_err(disk(path))?.into_temp_path().keep();
                kept.map(drop).map_err(|error| disk(path)(error.error))
            }
        }
    }

    /// If another collection is at it already, it is left to that.
    fn empty_trash(&self) -> Result<(), StoreError> {
        let Some(_own) = files::try_own(&self.at("trash-lock"))? else {
            return Ok(());
        };
        for path in files::list(&self.at("trash"))? {
            fs::remove_dir_all(&path).map_err(disk(&path))?;
        }
        Ok(())
    }

    /// Removes the oldest partial files that nobody writes, until at most `keep` bytes are left of all. Gives their number.
    pub(super) fn trim_partials(&self, keep: u64) -> Result<u64, StoreError> {
        let mut all: Vec<(std::time::SystemTime, u64, PathBuf)> = Vec::new();
        for path in files::list(&self.at("partial"))? {
            // One that was completed meanwhile is none.
            if let Ok(about) = fs::symlink_metadata(&path) {
                let changed = about.modified().map_err(disk(&path))?;
                all.push((changed, about.len(), path));
            }
        }
        all.sort();
        let mut total = all
            .iter()
            .fold(0_u64, |total, (_, size, _)| total.saturating_add(*size));
        let mut removed = 0_u64;
        for (_, size, path) in all {
            if total <= keep {
                break;
            }
            // Removed with its lock in hand, so that whoever waits for it sees that it is gone.
            if let Some(_own) = files::try_own(&path)? {
                files::remove(&path)?;
                removed = removed.saturating_add(1);
                total = total.saturating_sub(size);
            }
        }
        Ok(removed)
    }
}

fn is_in(path: &Path, names: &BTreeSet<String>) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| names.contains(name))
}

impl ImageStore {
    /// Whether a layer is there, whole.
    pub(super) fn has_layer(&self, diff_id: ContentDigest) -> bool {
        self.layer_dir(diff_id).join("layer.json").is_file()
    }
}
