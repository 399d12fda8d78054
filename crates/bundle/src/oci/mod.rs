//! An object as an OCI 1.1 artifact: the manifest, a layout on disk, and a registry to push to and pull from.
//!
//! A *capsule* (the one file that holds an object) is opaque here: bytes of type [`CAPSULE_TYPE`]. Nothing in this
//! module opens it; whoever pulls one verifies its lineage afterwards. Called by the command line. What is pushed is
//! described for people in `docs/oci.md`.
//!
//! [`Artifact`] is a manifest together with the file of its capsule, both measured. It comes from [`Artifact::new`],
//! from [`layout::read`] or, with the feature `registry`, from `Registry::pull`, which all hold sizes and digests to
//! what the manifest says.

mod artifact;
mod credentials;
mod descriptor;
pub mod layout;
mod manifest;
mod reference;
#[cfg(feature = "registry")]
mod registry;

pub use artifact::{Artifact, Capsule, CapsuleError};
pub use credentials::{
    Credentials, CredentialsError, DockerConfig, MAX_CONFIG_BYTES, Secret, docker_config_path,
};
pub use descriptor::{ContentDigest, Descriptor, MediaType, NotAContentDigest, NotAMediaType};
pub use manifest::{Labels, Manifest, ManifestError, NotATitle, Title};
pub use reference::{Host, Reference, ReferenceError, Repository, Tag};
#[cfg(feature = "registry")]
pub use registry::{Options, Progress, Referrer, Registry, RegistryError, Transport};

/// `artifactType` of an object.
pub const OBJECT_TYPE: &str = "application/vnd.suijuris.object.v1";

/// Media type of the one layer.
pub const CAPSULE_TYPE: &str = "application/vnd.suijuris.capsule.v1";

/// Media type of the config, which is empty (image-spec 1.1, "Guidance for an Empty Descriptor").
pub const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// Media type of an image or artifact manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Media type of an image index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// The content of the empty config.
pub const EMPTY: &[u8] = b"{}";

/// Size of a manifest or index at most, bytes: what distribution-spec 1.1 asks every registry to take.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// Size of a capsule at most unless the caller says otherwise, bytes.
pub const MAX_CAPSULE_BYTES: u64 = 1 << 30;

/// Letters of a foreign text that an error shows at most.
const SHOWN: usize = 200;

/// A foreign text that may go to a terminal: control characters escaped, cut after [`SHOWN`] letters.
fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_shown_short_and_harmless() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), SHOWN + 1);
    }
}
