//! Layouts on disk: written, read back, and held to every digest and size in them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests: what is not as expected ends them"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use suijuris_bundle::artifact::{Artifact, CAPSULE_TYPE, Labels, OBJECT_TYPE, layout};
use suijuris_core::time::Timestamp;
use suijuris_core::{ObjectId, RecordId};
use suijuris_oci::{Blob, ContentDigest, Descriptor, EMPTY, INDEX_TYPE, MANIFEST_TYPE, MAX_BLOB_BYTES};

fn artifact(dir: &Path) -> Artifact {
    let path = dir.join("visits.sui");
    fs::write(&path, "a small capsule").unwrap();
    let labels = Labels {
        title: "visits.sui".parse().unwrap(),
        created: Timestamp(1_795_000_000_000),
        object: ObjectId::of(b"object"),
        head: RecordId::of(b"head"),
        seq: 41,
    };
    let subject = Descriptor::new(MANIFEST_TYPE.parse().unwrap(), ContentDigest::of(b"image"), 5);
    let capsule = Blob::measure(&path, MAX_BLOB_BYTES).unwrap();
    Artifact::new(capsule, labels, Some(subject)).unwrap()
}

/// A directory, the artifact, and the layout of it.
fn written() -> (tempfile::TempDir, Artifact, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact(dir.path());
    let layout = dir.path().join("layout");
    layout::write(&artifact, &layout).unwrap();
    (dir, artifact, layout)
}

fn read(layout: &Path) -> Result<Artifact, String> {
    layout::read(layout, MAX_BLOB_BYTES).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    })
}

fn refused(layout: &Path, expect: &str) {
    let error = read(layout).expect_err(expect);
    assert!(error.contains(expect), "{error}");
}

fn files(layout: &Path) -> Vec<PathBuf> {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let mut files: Vec<PathBuf> = blobs.map(|entry| entry.unwrap().path()).collect();
    files.extend([layout.join("oci-layout"), layout.join("index.json")]);
    files
}

fn blob(layout: &Path, digest: ContentDigest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

#[test]
fn what_is_written_reads_back_and_has_the_files_of_the_format() {
    let (dir, artifact, layout) = written();
    let found = read(&layout).unwrap();
    assert_eq!(found.manifest(), artifact.manifest());
    assert_eq!(found.digest(), artifact.digest());
    assert_eq!(fs::read(found.capsule().path()).unwrap(), b"a small capsule");

    let names: BTreeSet<PathBuf> = files(&layout).into_iter().collect();
    let wanted = [
        blob(&layout, artifact.digest()),
        blob(&layout, artifact.capsule().digest()),
        blob(&layout, ContentDigest::of(EMPTY)),
        layout.join("oci-layout"),
        layout.join("index.json"),
    ];
    assert_eq!(names, wanted.into());
    assert_eq!(
        fs::read_to_string(layout.join("oci-layout")).unwrap(),
        r#"{"imageLayoutVersion":"1.0.0"}"#
    );
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], artifact.digest().to_string());
    assert_eq!(index["manifests"][0]["artifactType"], OBJECT_TYPE);
    // Nothing else is left beside it.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);

    // What was read can be written again, and is the same artifact.
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    layout::write(&found, &again).unwrap();
    assert_eq!(read(&again).unwrap().digest(), artifact.digest());
}

#[test]
fn a_changed_byte_anywhere_is_refused_or_changes_nothing() {
    let (_dir, artifact, layout) = written();
    let mut refused = 0_u32;
    for path in files(&layout) {
        let original = fs::read(&path).unwrap();
        for at in 0..original.len() {
            let mut bytes = original.clone();
            bytes[at] ^= 0x01;
            fs::write(&path, &bytes).unwrap();
            match read(&layout) {
                Err(_) => refused += 1,
                Ok(found) => {
                    assert!(!path.starts_with(layout.join("blobs")), "{path:?} byte {at}");
                    assert_eq!(found.manifest_bytes(), artifact.manifest_bytes());
                    assert_eq!(fs::read(found.capsule().path()).unwrap(), b"a small capsule");
                }
            }
        }
        fs::write(&path, &original).unwrap();
    }
    assert!(refused > 1000, "{refused}");
    read(&layout).unwrap();
}

#[test]
fn a_file_that_is_cut_grown_or_gone_is_refused() {
    let (_dir, _, layout) = written();
    for path in files(&layout) {
        let original = fs::read(&path).unwrap();
        for length in 0..original.len() {
            fs::write(&path, &original[..length]).unwrap();
            assert!(read(&layout).is_err(), "{path:?} cut to {length}");
        }
        let mut longer = original.clone();
        longer.push(b'x');
        fs::write(&path, &longer).unwrap();
        assert!(read(&layout).is_err(), "{path:?} grown");
        fs::remove_file(&path).unwrap();
        assert!(read(&layout).is_err(), "{path:?} gone");
        fs::create_dir(&path).unwrap();
        assert!(read(&layout).is_err(), "{path:?} a directory");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, &original).unwrap();
    }
    read(&layout).unwrap();
}

#[test]
fn a_symbolic_link_is_refused_wherever_it_is() {
    let (dir, _, layout) = written();
    let mut parts = files(&layout);
    parts.extend([layout.join("blobs/sha256"), layout.join("blobs")]);
    for path in parts {
        let aside = dir.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        refused(&layout, "symbolic link");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    read(&layout).unwrap();
}

/// Replaces the descriptors of `index.json`.
fn index(layout: &Path, manifests: &serde_json::Value) {
    let text = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
    fs::write(layout.join("index.json"), text.to_string()).unwrap();
}

#[test]
fn hostile_indexes_are_refused_with_the_reason() {
    use serde_json::json;
    let (_dir, artifact, layout) = written();
    let entry = |digest: &str, size: serde_json::Value| json!({"mediaType": MANIFEST_TYPE, "artifactType": OBJECT_TYPE, "digest": digest, "size": size});
    let good = entry(
        &artifact.digest().to_string(),
        json!(artifact.manifest_bytes().len()),
    );
    let other = json!({"mediaType": MANIFEST_TYPE, "digest": "sha512:what", "size": "ever"});
    index(&layout, &json!([other, good, 7]));
    read(&layout).unwrap();

    // As a tool of before OCI 1.1 copies it: without the artifact's type.
    let mut untyped = good.clone();
    untyped.as_object_mut().unwrap().remove("artifactType");
    index(&layout, &json!([untyped]));
    read(&layout).unwrap();
    index(&layout, &json!([untyped, untyped]));
    refused(&layout, "names 0 artifacts of type");

    index(&layout, &json!([]));
    refused(&layout, "names 0 artifacts of type");
    index(&layout, &json!([good, good]));
    refused(&layout, "names 2 artifacts of type");
    index(
        &layout,
        &json!([entry("sha256:../../../../etc/passwd", json!(1))]),
    );
    refused(&layout, "is not a digest");
    index(
        &layout,
        &json!([entry(&artifact.digest().to_string(), json!(-1))]),
    );
    refused(&layout, "cannot be read");
    index(&layout, &json!([entry(&artifact.digest().to_string(), json!(1))]));
    refused(&layout, "the manifest is not the one that is named");
    index(
        &layout,
        &json!([entry(&artifact.capsule().digest().to_string(), json!(15))]),
    );
    refused(&layout, "the manifest cannot be read");
    fs::write(layout.join("index.json"), vec![b'['; 5 << 20]).unwrap();
    refused(&layout, "longer than");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    refused(&layout, "its version is `2.0.0`");
}

#[test]
fn a_capsule_over_the_limit_is_refused() {
    let (dir, artifact, layout) = written();
    let size = artifact.capsule().size();
    layout::read(&layout, size).unwrap();
    let error = layout::read(&layout, size - 1).unwrap_err().to_string();
    assert!(
        error.contains("has 15 bytes, the limit is 14; raise the limit"),
        "{error}"
    );
    let error = Blob::measure(&dir.path().join("visits.sui"), 14).unwrap_err();
    assert!(error.to_string().contains("more than 14 bytes"), "{error}");
}

#[test]
fn what_cannot_be_a_capsule_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let measure = |name: &str| {
        Blob::measure(&dir.path().join(name), 100)
            .unwrap_err()
            .to_string()
    };
    assert!(measure("absent").contains("cannot be read"));
    fs::write(dir.path().join("empty"), "").unwrap();
    assert!(measure("empty").contains("is empty"));
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
    assert!(measure("link").contains("not a plain file"));
    assert!(measure(".").contains("not a plain file"));
}

#[test]
fn nothing_is_written_over_and_nothing_half_is_left() {
    let (dir, artifact, layout) = written();
    let error = layout::write(&artifact, &layout).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");

    fs::write(artifact.capsule().path(), "a small capsulf").unwrap();
    let fresh = dir.path().join("fresh");
    let error = layout::write(&artifact, &fresh).unwrap_err().to_string();
    assert!(error.contains("changed while it was read"), "{error}");
    assert!(!fresh.exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    assert!(layout::write(&artifact, &dir.path().join("no/parent")).is_err());
}

#[test]
fn the_layer_has_the_name_that_other_tools_write_it_under() {
    let (_dir, artifact, _) = written();
    let json: serde_json::Value = serde_json::from_slice(artifact.manifest_bytes()).unwrap();
    assert_eq!(json["layers"][0]["mediaType"], CAPSULE_TYPE);
    assert_eq!(
        json["layers"][0]["annotations"]["org.opencontainers.image.title"],
        "visits.sui"
    );
}
