//! A file whose digest and size were taken, which can be stored or sent under them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::descriptor::ContentDigest;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// A file with the digest and size that it had when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    path: PathBuf,
    digest: ContentDigest,
    size: u64,
}

/// Why a file cannot be a blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The operating system says so.
    #[error("`{path}` cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// A directory, device, pipe or symbolic link.
    #[error("`{0}` is not a plain file; give a plain file")]
    NotPlain(PathBuf),
    /// No bytes in it.
    #[error("`{0}` is empty; give a file with something in it")]
    Empty(PathBuf),
    /// Longer than the limit.
    #[error("`{path}` has more than {max} bytes; raise the limit if it is yours")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        max: u64,
    },
}

impl Blob {
    /// Reads a plain file of at most `max_bytes` through and takes its digest; memory stays bounded.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub fn measure(path: &Path, max_bytes: u64) -> Result<Self, BlobError> {
        let failed = |source| BlobError::Read {
            path: path.to_owned(),
            source,
        };
        // Asked before it is opened: opening a pipe would wait for a writer.
        if !std::fs::symlink_metadata(path).map_err(failed)?.is_file() {
            return Err(BlobError::NotPlain(path.to_owned()));
        }
        let file = File::open(path).map_err(failed)?;
        let mut meter = Meter::default();
        meter
            .read(&mut file.take(max_bytes.saturating_add(1)), |_| Ok(()))
            .map_err(failed)?;
        let (digest, size) = meter.end();
        match size {
            0 => Err(BlobError::Empty(path.to_owned())),
            size if size > max_bytes => Err(BlobError::TooLarge {
                path: path.to_owned(),
                max: max_bytes,
            }),
            size => Ok(Self {
                path: path.to_owned(),
                digest,
                size,
            }),
        }
    }

    /// A file whose bytes the caller has just measured.
    #[cfg(feature = "registry")]
    pub(super) const fn measured(path: PathBuf, digest: ContentDigest, size: u64) -> Self {
        Self { path, digest, size }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Digest of its bytes.
    #[must_use]
    pub const fn digest(&self) -> ContentDigest {
        self.digest
    }

    /// Its size, bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// Digest and length of what passes through.
#[derive(Default)]
pub(super) struct Meter {
    hasher: Sha256,
    size: u64,
}

impl Meter {
    /// Takes in the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size = self.size.saturating_add(bytes.len() as u64);
    }

    /// Takes in all that `from` gives, and hands each piece on.
    pub(super) fn read(
        &mut self,
        from: &mut impl io::Read,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let piece = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => buffer.get(..length).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.update(piece);
            each(piece)?;
        }
    }

    /// Bytes so far.
    #[cfg(any(feature = "images", feature = "registry"))]
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Digest and length.
    pub(super) fn end(self) -> (ContentDigest, u64) {
        (
            ContentDigest::from_bytes(self.hasher.finalize().into()),
            self.size,
        )
    }
}
