//! Wrapping by reference: the bundle as an artifact that refers to an image which stays as it is.

use std::collections::BTreeMap;

use anyhow::bail;
use suijuris_oci::build::Scratch;
use suijuris_oci::layout::{self, Content};
use suijuris_oci::{
    Blob, ContentDigest, Descriptor, EMPTY, EMPTY_TYPE, MANIFEST_TYPE, MAX_BLOB_BYTES, Manifest, Package,
};

use super::{Args, Done, definition};
use crate::oci::reference;
use crate::{Usage, images};

/// `artifactType` of a bundle.
const BUNDLE_TYPE: &str = "application/vnd.suijuris.bundle.v1";
/// Annotation with the bundle's id.
const BUNDLE: &str = "dev.suijuris.bundle";

/// What goes over the wire or into a layout.
struct Artifact {
    manifest: Vec<u8>,
    entry: Descriptor,
    image: ContentDigest,
    blob: Blob,
}

pub(super) async fn build(args: &Args) -> anyhow::Result<Done> {
    images::pin(&args.dir, images::Lookup::All).await?;
    let built = definition(&args.dir)?;
    let (Some(digest), Some(name)) = (
        built.manifest.workload.image,
        suijuris_bundle::pins::named_image(&args.dir),
    ) else {
        let why = "--by-reference refers to the workload's image, and the definition names none: write workload.image in object.toml";
        return Err(Usage(why.to_owned()).into());
    };
    let (_, image) = images::resolve(&name, &args.dir, Some(ContentDigest::from_bytes(digest.0))).await?;
    let temp = Scratch::new()?;
    let file = temp.path().join("bundle");
    let files = crate::up::creation::files(&built);
    std::fs::write(&file, files.encode()?)?;
    let artifact = artifact(
        &Blob::measure(&file, MAX_BLOB_BYTES)?,
        &built.id.to_string(),
        image.descriptor(),
    )?;
    if let Some(output) = &args.output {
        let content = Content {
            entry: artifact.entry.clone(),
            manifest: &artifact.manifest,
            small: &[EMPTY],
            blob: &artifact.blob,
        };
        layout::write(&content, output)?;
    }
    let reference = match &args.push {
        Some(to) => Some(push(args, to, &artifact).await?),
        None => None,
    };
    Ok(Done {
        digest: artifact.entry.digest.to_string(),
        layout: args.output.as_ref().map(|output| output.display().to_string()),
        reference,
        bundle: built.id.to_string(),
        base: Some(image.digest().to_string()),
        layers: 1,
        bytes: artifact.blob.size(),
    })
}

fn artifact(blob: &Blob, bundle: &str, subject: &Descriptor) -> anyhow::Result<Artifact> {
    let annotations: BTreeMap<String, String> = [(BUNDLE.to_owned(), bundle.to_owned())].into();
    let manifest = Manifest {
        artifact_type: Some(BUNDLE_TYPE.parse()?),
        config: Descriptor::new(EMPTY_TYPE.parse()?, ContentDigest::of(EMPTY), EMPTY.len() as u64),
        layers: vec![Descriptor::new(BUNDLE_TYPE.parse()?, blob.digest(), blob.size())],
        subject: Some(subject.clone()),
        annotations: annotations.clone(),
    };
    let manifest = manifest.encode()?;
    let size = manifest.len() as u64;
    let entry = Descriptor {
        artifact_type: Some(BUNDLE_TYPE.parse()?),
        annotations,
        ..Descriptor::new(MANIFEST_TYPE.parse()?, ContentDigest::of(&manifest), size)
    };
    Ok(Artifact {
        manifest,
        entry,
        image: subject.digest,
        blob: blob.clone(),
    })
}

/// Pushes it beside the image, which must be in the same repository: that is where referrers are looked for.
async fn push(args: &Args, to: &str, artifact: &Artifact) -> anyhow::Result<String> {
    let to = reference(to)?;
    let registry = args.reach.registry(&to)?;
    if registry.resolve(&to.with_digest(artifact.image)).await.is_err() {
        bail!(
            "the image {} is not in {}/{}: copy it there first, as with `skopeo copy`, for a referrer lies beside its image",
            artifact.image,
            to.host(),
            to.repository()
        );
    }
    let package = Package {
        manifest: &artifact.manifest,
        entry: artifact.entry.clone(),
        subject: Some(artifact.image),
        small: &[EMPTY],
        blob: &artifact.blob,
    };
    registry.push(&to, &package, &mut |_, _| {}).await?;
    Ok(to.to_string())
}
