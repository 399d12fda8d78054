//! A capsule on disk, measured, and the artifact that it is part of.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use suijuris_core::id::Digest;

use super::descriptor::{ContentDigest, Descriptor};
use super::manifest::{Labels, Manifest, ManifestError, media_type};
use super::{CAPSULE_TYPE, MANIFEST_TYPE, OBJECT_TYPE};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The file of a capsule with the digest and size that it had when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capsule {
    path: PathBuf,
    digest: ContentDigest,
    size: u64,
}

/// Why a file cannot be a capsule.
#[derive(Debug, thiserror::Error)]
pub enum CapsuleError {
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
    #[error("`{0}` is not a plain file; give the file that was exported")]
    NotPlain(PathBuf),
    /// No bytes in it.
    #[error("`{0}` is empty; export the object again")]
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

impl Capsule {
    /// Reads a plain file of at most `max_bytes` through and takes its digest; memory stays bounded.
    ///
    /// # Errors
    /// See [`CapsuleError`].
    pub fn measure(path: &Path, max_bytes: u64) -> Result<Self, CapsuleError> {
        let failed = |source| CapsuleError::Read {
            path: path.to_owned(),
            source,
        };
        // Asked before it is opened: opening a pipe would wait for a writer.
        if !std::fs::symlink_metadata(path).map_err(failed)?.is_file() {
            return Err(CapsuleError::NotPlain(path.to_owned()));
        }
        let file = File::open(path).map_err(failed)?;
        let mut meter = Meter::default();
        meter
            .read(&mut file.take(max_bytes.saturating_add(1)), |_| Ok(()))
            .map_err(failed)?;
        let (digest, size) = meter.end();
        match size {
            0 => Err(CapsuleError::Empty(path.to_owned())),
            size if size > max_bytes => Err(CapsuleError::TooLarge {
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
    #[cfg(feature = "registry")]
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Digest and length.
    pub(super) fn end(self) -> (ContentDigest, u64) {
        (ContentDigest(Digest(self.hasher.finalize().into())), self.size)
    }
}

/// A manifest, as bytes and as read, with the capsule that it names.
#[derive(Debug, Clone)]
pub struct Artifact {
    manifest: Manifest,
    bytes: Vec<u8>,
    capsule: Capsule,
}

impl Artifact {
    /// The artifact of a capsule; `subject` is the descriptor of the workload's image if the bundle names one.
    ///
    /// # Errors
    /// The manifest could not be read back, such as one with a time outside the calendar.
    pub fn new(capsule: Capsule, labels: Labels, subject: Option<Descriptor>) -> Result<Self, ManifestError> {
        let manifest = Manifest {
            labels,
            capsule: Descriptor::new(media_type(CAPSULE_TYPE)?, capsule.digest, capsule.size),
            subject,
        };
        Self::decode(manifest.encode()?, capsule)
    }

    /// The artifact of a manifest's bytes. The caller has held the capsule to [`Manifest::capsule`].
    pub(super) fn decode(bytes: Vec<u8>, capsule: Capsule) -> Result<Self, ManifestError> {
        Ok(Self {
            manifest: Manifest::decode(&bytes)?,
            bytes,
            capsule,
        })
    }

    /// The manifest as read.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's bytes, which its digest is of.
    #[must_use]
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The capsule.
    #[must_use]
    pub const fn capsule(&self) -> &Capsule {
        &self.capsule
    }

    /// Digest of the manifest: the name of this artifact.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        ContentDigest::of(&self.bytes)
    }

    /// What an index says of this artifact.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn descriptor(&self) -> Result<Descriptor, ManifestError> {
        Ok(Descriptor {
            artifact_type: Some(media_type(OBJECT_TYPE)?),
            ..Descriptor::new(media_type(MANIFEST_TYPE)?, self.digest(), self.bytes.len() as u64)
        })
    }
}
