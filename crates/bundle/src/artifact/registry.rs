//! Objects to and from registries. How a registry is spoken to is the affair of [`suijuris_oci::Registry`].

use std::path::Path;

use suijuris_oci::{ContentDigest, Descriptor, Package, Progress, Reference, Registry, RegistryError};

use super::{Artifact, Labels, Manifest, ManifestError, OBJECT_TYPE, SMALL};

/// Why an object cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The manifest cannot be written.
    #[error("the object cannot be described")]
    Manifest(#[from] ManifestError),
}

/// Why an object cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Not an object.
    #[error("what the registry has is not an object that can be used")]
    Manifest(#[from] ManifestError),
}

/// An object that refers to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What it says of itself, where the registry passes that on.
    pub labels: Option<Labels>,
}

/// Pushes `artifact` and returns its digest; see [`Registry::push`].
///
/// # Errors
/// See [`PushError`].
pub async fn push(
    registry: &Registry,
    reference: &Reference,
    artifact: &Artifact,
    progress: &mut Progress<'_>,
) -> Result<ContentDigest, PushError> {
    let package = Package {
        manifest: artifact.manifest_bytes(),
        entry: Descriptor {
            annotations: artifact.manifest().labels.annotations(),
            ..artifact.descriptor()?
        },
        subject: artifact.manifest().subject.as_ref().map(|subject| subject.digest),
        small: SMALL,
        blob: artifact.capsule(),
    };
    Ok(registry.push(reference, &package, progress).await?)
}

/// Pulls an object; its capsule becomes the new file `out` (mode 0600), complete and synced or not at all. Manifest
/// and capsule have the digests and sizes that name them when this returns.
///
/// # Errors
/// See [`PullError`]; what is no object, or larger than the registry's options allow, is refused before any of its
/// capsule is asked for.
pub async fn pull(
    registry: &Registry,
    reference: &Reference,
    out: &Path,
    progress: &mut Progress<'_>,
) -> Result<Artifact, PullError> {
    let mut pull = registry.pull(reference)?;
    let (bytes, manifest) = pull.manifest().await?;
    let manifest = Manifest::try_from(manifest)?;
    let capsule = pull.blob(&manifest.capsule, out, progress).await?;
    Ok(Artifact::decode(bytes, capsule)?)
}

/// The objects that name `image` as their workload's image; see [`Registry::referrers`].
///
/// # Errors
/// See [`RegistryError`].
pub async fn referrers(registry: &Registry, image: &Reference) -> Result<Vec<Referrer>, RegistryError> {
    let found = registry.referrers(image, OBJECT_TYPE).await?;
    let object = |descriptor: Descriptor| Referrer {
        labels: Labels::of(&descriptor.annotations).ok(),
        descriptor,
    };
    Ok(found.into_iter().map(object).collect())
}
