//! OCI 1.1: names, descriptors, credentials, layouts on disk, and a registry to push to and pull from.
//!
//! What an artifact means is its owner's affair: this crate carries bytes, and holds each to the digest and size that
//! name it. `suijuris_bundle::artifact` makes objects into artifacts; the host takes images from here. No type of ours
//! beyond this crate is known here.

mod blob;
#[cfg(all(feature = "images", feature = "registry"))]
pub mod build;
mod credentials;
mod descriptor;
pub mod file;
#[cfg(feature = "images")]
pub mod image;
pub mod layout;
mod manifest;
mod reference;
#[cfg(feature = "registry")]
mod registry;
#[cfg(feature = "images")]
pub mod source;
#[cfg(feature = "images")]
pub mod store;
#[cfg(feature = "images")]
pub mod unpack;

pub use blob::{Blob, BlobError};
pub use credentials::{
    Credentials, CredentialsError, DockerConfig, HelperError, MAX_CONFIG_BYTES, Secret, docker_config_path,
};
pub use descriptor::{
    ContentDigest, Descriptor, MediaType, NotAContentDigest, NotADescriptor, NotAMediaType,
};
pub use manifest::{Manifest, ManifestError};
pub use reference::{Host, Reference, ReferenceError, Repository, Tag};
#[cfg(feature = "registry")]
pub use registry::{
    Options, Package, Progress, Pull, Registry, RegistryError, Transport, tls_config, tls_trusting_nobody,
};

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

/// Size of a blob in a file at most unless the caller says otherwise, bytes.
pub const MAX_BLOB_BYTES: u64 = 1 << 30;

/// Letters of a foreign text that an error shows at most.
const SHOWN: usize = 200;

/// A foreign text that may go to a terminal: control characters escaped, cut after 200 letters.
#[must_use]
pub fn printable(text: &str) -> String {
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
