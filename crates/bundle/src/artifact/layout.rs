//! An object in an OCI image layout on disk. Files, digests and links are the affair of [`suijuris_oci::layout`].

use std::path::Path;

use suijuris_oci::layout::{Content, Layout, LayoutError};
use suijuris_oci::{ContentDigest, EMPTY};

use super::{Artifact, Manifest, ManifestError, OBJECT_TYPE, SMALL};

/// Why a layout with an object cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectLayoutError {
    /// The layout itself.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The manifest is none of an object.
    #[error("the manifest in the layout cannot be used")]
    Manifest(#[from] ManifestError),
}

/// Writes `artifact` as a layout to `dir`, which is new or empty. All or nothing: the directory appears complete and
/// synced.
///
/// # Errors
/// See [`ObjectLayoutError`].
pub fn write(artifact: &Artifact, dir: &Path) -> Result<(), ObjectLayoutError> {
    let content = Content {
        entry: artifact.descriptor()?,
        manifest: artifact.manifest_bytes(),
        small: SMALL,
        blob: artifact.capsule(),
    };
    Ok(suijuris_oci::layout::write(&content, dir)?)
}

/// Reads the one object of a layout; its capsule stays where it lies, in the layout. Other artifacts beside it are
/// passed over, if the index says what they are. `max_bytes` bounds the capsule ([`suijuris_oci::MAX_BLOB_BYTES`] is a
/// good one).
///
/// # Errors
/// See [`ObjectLayoutError`].
pub fn read(dir: &Path, max_bytes: u64) -> Result<Artifact, ObjectLayoutError> {
    let layout = Layout::open(dir, OBJECT_TYPE)?;
    let bytes = layout.manifest()?;
    let manifest = Manifest::decode(&bytes)?;
    // Its type is checked in the manifest.
    layout.bytes("config", ContentDigest::of(EMPTY), EMPTY.len() as u64)?;
    let capsule = layout.blob("capsule", &manifest.capsule, max_bytes)?;
    Ok(Artifact::decode(bytes, capsule)?)
}
