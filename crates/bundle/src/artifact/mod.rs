//! An object as an OCI 1.1 artifact: its manifest, and how it goes to a layout on disk or a registry and back.
//!
//! A *capsule* (the one file that holds an object) is opaque here: bytes of type [`CAPSULE_TYPE`]. Nothing in this
//! module opens it; the puller verifies its lineage afterwards. Called by the command line. What is pushed is
//! described for people in `docs/oci.md`; layouts, registries and credentials are [`suijuris_oci`].
//!
//! [`Artifact`] is a manifest together with the file of its capsule, both measured. It comes from [`Artifact::new`],
//! from [`layout::read`] or, with the feature `registry`, from [`pull`], which all hold sizes and digests to what the
//! manifest says.

pub mod layout;
mod manifest;
#[cfg(feature = "registry")]
mod registry;

use suijuris_oci::{Blob, ContentDigest, Descriptor, EMPTY, MANIFEST_TYPE};

use self::manifest::media_type;
pub use self::manifest::{Labels, Manifest, ManifestError, NotATitle, Title};
#[cfg(feature = "registry")]
pub use self::registry::{PullError, PushError, Referrer, pull, push, referrers};

/// `artifactType` of an object.
pub const OBJECT_TYPE: &str = "application/vnd.suijuris.object.v1";

/// Media type of the one layer.
pub const CAPSULE_TYPE: &str = "application/vnd.suijuris.capsule.v1";

/// What of an artifact lies in memory: the empty config.
const SMALL: &[&[u8]] = &[EMPTY];

/// A manifest, as bytes and as read, with the capsule that it names.
#[derive(Debug, Clone)]
pub struct Artifact {
    manifest: Manifest,
    bytes: Vec<u8>,
    capsule: Blob,
}

impl Artifact {
    /// The artifact of a capsule; `subject` is the descriptor of the workload's image if the bundle names one.
    ///
    /// # Errors
    /// The manifest could not be read back, such as one with a time outside the calendar.
    pub fn new(capsule: Blob, labels: Labels, subject: Option<Descriptor>) -> Result<Self, ManifestError> {
        let manifest = Manifest {
            labels,
            capsule: Descriptor::new(media_type(CAPSULE_TYPE)?, capsule.digest(), capsule.size()),
            subject,
        };
        Self::decode(manifest.encode()?, capsule)
    }

    /// The artifact of a manifest's bytes. The caller has held the capsule to [`Manifest::capsule`].
    pub(super) fn decode(bytes: Vec<u8>, capsule: Blob) -> Result<Self, ManifestError> {
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
    pub const fn capsule(&self) -> &Blob {
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
