//! Objects in a real registry: found by the image they run, and told from what is none.
#![expect(clippy::unwrap_used, reason = "tests: what is not as expected ends them")]

use std::fs;
use std::path::Path;

use suijuris_bundle::artifact::{self, Artifact, Labels};
use suijuris_core::time::Timestamp;
use suijuris_core::{ObjectId, RecordId};
use suijuris_oci::{
    Blob, ContentDigest, Descriptor, MANIFEST_TYPE, MAX_BLOB_BYTES, Manifest, Options, Package, Reference,
    Registry,
};
use suijuris_testkit::registry::Real;

/// An artifact of these bytes; its object is named after them.
fn object(dir: &Path, bytes: &[u8], subject: Option<Descriptor>) -> Artifact {
    let path = dir.join(ContentDigest::of(bytes).hex());
    fs::write(&path, bytes).unwrap();
    let labels = Labels {
        title: "visits.sui".parse().unwrap(),
        created: Timestamp(1_795_000_000_000),
        object: ObjectId::of(bytes),
        head: RecordId::of(bytes),
        seq: 41,
    };
    Artifact::new(Blob::measure(&path, MAX_BLOB_BYTES).unwrap(), labels, subject).unwrap()
}

fn reference(real: &Real, rest: &str) -> Reference {
    format!("{}/{rest}", real.address).parse().unwrap()
}

fn client(real: &Real) -> Registry {
    Registry::new(&real.address.parse().unwrap(), Options::default()).unwrap()
}

/// Pushes a plain image, and returns what names it.
async fn image(registry: &Registry, to: &Reference, dir: &Path) -> Descriptor {
    let path = dir.join("layer");
    fs::write(&path, "the image").unwrap();
    let blob = Blob::measure(&path, MAX_BLOB_BYTES).unwrap();
    let descriptor = |kind: &str, bytes: &[u8]| {
        Descriptor::new(
            kind.parse().unwrap(),
            ContentDigest::of(bytes),
            bytes.len() as u64,
        )
    };
    let manifest = Manifest {
        artifact_type: None,
        config: descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
        layers: vec![descriptor("application/vnd.oci.image.layer.v1.tar", b"the image")],
        subject: None,
        annotations: [].into(),
    };
    let bytes = manifest.encode().unwrap();
    let package = Package {
        manifest: &bytes,
        entry: descriptor(MANIFEST_TYPE, &bytes),
        subject: None,
        small: &[b"{}"],
        blob: &blob,
    };
    registry.push(to, &package, &mut |_, _| {}).await.unwrap();
    registry.resolve(to).await.unwrap()
}

#[tokio::test]
async fn an_object_goes_through_a_registry_and_is_found_by_the_image_it_runs() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real);
    let by_tag = reference(&real, "shop:image");
    let subject = image(&registry, &by_tag, dir.path()).await;
    let pushed = object(dir.path(), b"first", Some(subject.clone()));
    let to = reference(&real, "shop:first");
    let digest = artifact::push(&registry, &to, &pushed, &mut |_, _| {})
        .await
        .unwrap();
    assert_eq!(digest, pushed.digest());

    let out = dir.path().join("out.sui");
    let pulled = artifact::pull(&registry, &to, &out, &mut |_, _| {})
        .await
        .unwrap();
    assert_eq!(pulled.manifest(), pushed.manifest());
    assert_eq!(pulled.manifest().subject.as_ref(), Some(&subject));
    assert_eq!(fs::read(out).unwrap(), b"first");

    let found = artifact::referrers(&registry, &by_tag).await.unwrap();
    let [found] = found.as_slice() else {
        unreachable!("{found:?}")
    };
    assert_eq!(found.descriptor.digest, digest);
    assert_eq!(found.labels.as_ref(), Some(&pushed.manifest().labels));
}

#[tokio::test]
async fn what_is_no_object_is_said_before_anything_is_fetched() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real);
    let by_tag = reference(&real, "shop:image");
    let subject = image(&registry, &by_tag, dir.path()).await;
    let pushed = object(dir.path(), b"first", Some(subject.clone()));
    artifact::push(&registry, &reference(&real, "shop:v1"), &pushed, &mut |_, _| {})
        .await
        .unwrap();
    let out = dir.path().join("out.sui");
    // The list of referrers is an index, and stands under a tag like any other.
    let list = reference(&real, &format!("shop:sha256-{}", subject.digest.hex()));
    for (from, expect) in [(by_tag, "a plain image"), (list, "index of several manifests")] {
        let error = artifact::pull(&registry, &from, &out, &mut |_, _| {})
            .await
            .unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.to_string().contains(expect), "{error}: {source}");
        assert!(!out.exists());
    }
}
