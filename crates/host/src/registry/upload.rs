//! Blobs on their way in: each upload is a file that grows, and becomes a blob once it has the digest that its sender says. It
//! outlives the daemon, so that a sender can go on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use suijuris_oci::ContentDigest;

use super::{Repo, Shelf, ShelfError};
use crate::ids;

/// Bytes of a blob at most.
const MAX_BYTES: u64 = 8 << 30;
/// Uploads of a repository at one time.
const MAX_UPLOADS: usize = 64;
/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// Which uploads somebody writes to now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uploads(Arc<Mutex<BTreeSet<PathBuf>>>);

/// An upload, for the one who writes to it.
#[derive(Debug)]
pub(crate) struct Upload {
    path: PathBuf,
    repo: Repo,
    pub(crate) id: String,
    file: File,
    size: u64,
    uploads: Uploads,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut busy = self.uploads.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.path);
    }
}

impl Shelf {
    fn begin(&self, repo: &Repo) -> String {
        format!("{},{},", repo.org, repo.file_name())
    }

    fn upload_path(&self, repo: &Repo, id: &str) -> PathBuf {
        self.directory
            .join("uploads")
            .join(format!("{}{id}", self.begin(repo)))
    }

    /// A new upload, empty.
    pub(crate) fn start(&self, repo: &Repo, uploads: &Uploads) -> Result<Upload, ShelfError> {
        let begin = self.begin(repo);
        let going = super::names(&self.directory.join("uploads"));
        if going.iter().filter(|name| name.starts_with(&begin)).count() >= MAX_UPLOADS {
            return Err(ShelfError::TooMuch(format!(
                "{MAX_UPLOADS} uploads to this repository have begun and not ended; end or cancel one"
            )));
        }
        let id = ids::hex(&ids::random::<16>().map_err(io::Error::other)?);
        File::create_new(self.upload_path(repo, &id))?;
        self.resume(repo, &id, uploads)
    }

    /// An upload that has begun, unless another writes to it now.
    pub(crate) fn resume(&self, repo: &Repo, id: &str, uploads: &Uploads) -> Result<Upload, ShelfError> {
        let unknown = || ShelfError::Unknown(format!("upload {}", suijuris_oci::printable(id)));
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let path = self.upload_path(repo, id);
        let file = File::options().append(true).open(&path).map_err(|_| unknown())?;
        if !uploads
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.clone())
        {
            return Err(ShelfError::TooMuch(
                "another request writes to this upload; wait for it".to_owned(),
            ));
        }
        // From here on it is given back when dropped.
        let mut upload = Upload {
            path,
            repo: repo.clone(),
            id: id.to_owned(),
            file,
            size: 0,
            uploads: uploads.clone(),
        };
        upload.size = upload.file.metadata()?.len();
        Ok(upload)
    }

    /// The upload becomes a blob of its repository, if it has this digest.
    pub(crate) fn finish(&self, upload: &Upload, wanted: ContentDigest) -> Result<(), ShelfError> {
        let mut file = File::open(&upload.path)?;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            hasher.update(chunk.get(..length).unwrap_or_default());
        }
        let found = ContentDigest::from_bytes(hasher.finalize().into());
        if found != wanted {
            fs::remove_file(&upload.path)?;
            return Err(ShelfError::Digest { found, wanted });
        }
        upload.file.sync_all()?;
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        fs::rename(&upload.path, self.content(wanted))?;
        self.keep_blob(&upload.repo, wanted)
    }

    /// What was sent is thrown away.
    pub(crate) fn cancel(&self, upload: &Upload) -> Result<(), ShelfError> {
        Ok(fs::remove_file(&upload.path)?)
    }
}

impl Upload {
    /// Bytes that are here.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Takes some more.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), ShelfError> {
        let size = self.size.saturating_add(bytes.len() as u64);
        if size > MAX_BYTES {
            return Err(ShelfError::TooMuch(format!(
                "a blob has at most {MAX_BYTES} bytes"
            )));
        }
        self.file.write_all(bytes)?;
        self.size = size;
        Ok(())
    }
}
