//! Holding an image: as long as a hold lives, no layer of it is removed.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use super::{ImageStore, StoreError, disk, files};
use crate::descriptor::Descriptor;
use crate::file::{self, FileError};
use crate::image::Image;

/// Length of a hold's file at most, bytes: one descriptor.
const MAX_HOLD_BYTES: usize = 4096;

/// An image that is in use. Ends when dropped, or with the process.
///
/// The hold is the lock of a file: a child that inherits [`AsFd::as_fd`] keeps it up after its parent.
#[derive(Debug)]
pub struct Hold {
    image: Image,
    store: ImageStore,
    // Closed first, in the order of the fields, so that its file can be found abandoned.
    lock: File,
    _file: HoldFile,
}

#[derive(Debug)]
struct HoldFile(PathBuf);

impl Hold {
    /// The image.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// The store that it is in.
    #[must_use]
    pub const fn store(&self) -> &ImageStore {
        &self.store
    }
}

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Drop for HoldFile {
    fn drop(&mut self) {
        // A child may hold on; then the file is the next collection's.
        if files::is_abandoned(&self.0).unwrap_or(false) {
            let _ = files::remove(&self.0);
        }
    }
}

impl ImageStore {
    /// Holds an image whose layers are all there.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] where one is missing, [`StoreError::Disk`].
    pub fn hold(&self, image: Image) -> Result<Hold, StoreError> {
        let hold = self.register(image)?;
        // Looked at once it is held: from now on nothing goes.
        match hold
            .image
            .layers()
            .iter()
            .find(|layer| !self.has_layer(layer.diff_id))
        {
            Some(layer) => Err(StoreError::NoLayer(layer.diff_id)),
            None => Ok(hold),
        }
    }

    /// Holds an image, its documents and whatever layers of it are there or will be.
    pub(super) fn register(&self, image: Image) -> Result<Hold, StoreError> {
        let dir = self.at("holds");
        let bytes = files::json(&dir, image.descriptor())?;
        let _shared = self.lock_shared()?;
        let mut file = tempfile::Builder::new()
            .prefix("hold-")
            .tempfile_in(&dir)
            .map_err(disk(&dir))?;
        file.as_file().lock().map_err(disk(&dir))?;
        file.write_all(&bytes).map_err(disk(&dir))?;
        let (lock, path) = file.keep().map_err(|error| disk(&dir)(error.error))?;
        let hold = Hold {
            image,
            store: self.clone(),
            lock,
            _file: HoldFile(path),
        };
        for (digest, bytes) in [
            (hold.image.digest(), hold.image.manifest()),
            (hold.image.config_descriptor().digest, hold.image.config_bytes()),
        ] {
            let path = self.blob_path(digest);
            // What is there but damaged is written again.
            if !file::bytes(&path, bytes.len()).is_ok_and(|found| found == bytes) {
                files::write(self.dir(), &path, bytes)?;
            }
        }
        Ok(hold)
    }

    /// The manifests of all images in use; the files of ended holds are removed. The store is locked alone.
    pub(super) fn held(&self) -> Result<Vec<Descriptor>, StoreError> {
        let mut held = Vec::new();
        for path in files::list(&self.at("holds"))? {
            if files::is_abandoned(&path)? {
                files::remove(&path)?;
                continue;
            }
            let bytes = match file::bytes(&path, MAX_HOLD_BYTES) {
                // It ended in this moment.
                Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            let descriptor = serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
                path,
                why: error.to_string(),
            })?;
            held.push(descriptor);
        }
        Ok(held)
    }
}
