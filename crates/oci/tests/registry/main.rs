//! The registry client against a real registry (Debian's `docker-registry`) and against servers that lie.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking"
)]

mod honest;
mod liar;

mod against_liars;
mod against_referrers;
mod against_the_real_one;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use suijuris_oci::{
    Blob, ContentDigest, Descriptor, EMPTY, EMPTY_TYPE, MANIFEST_TYPE, MAX_BLOB_BYTES, Manifest, Options,
    Package, Progress, Reference, Registry, RegistryError,
};

/// The type of the artifacts here.
const KIND: &str = "application/vnd.example.thing.v1";

/// An artifact as it goes to a registry, with its one file.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    bytes: Vec<u8>,
    blob: Blob,
    subject: Option<Descriptor>,
}

/// Annotations of every artifact here.
fn annotations() -> BTreeMap<String, String> {
    BTreeMap::from([("org.example.note".to_owned(), "kept".to_owned())])
}

impl Artifact {
    fn digest(&self) -> ContentDigest {
        ContentDigest::of(&self.bytes)
    }

    fn manifest_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn blob(&self) -> &Blob {
        &self.blob
    }

    fn package(&self) -> Package<'_> {
        let size = self.bytes.len() as u64;
        Package {
            manifest: &self.bytes,
            entry: Descriptor {
                artifact_type: Some(KIND.parse().unwrap()),
                annotations: annotations(),
                ..Descriptor::new(MANIFEST_TYPE.parse().unwrap(), self.digest(), size)
            },
            subject: self.subject.as_ref().map(|subject| subject.digest),
            small: &[EMPTY],
            blob: &self.blob,
        }
    }
}

/// Whole artifacts, as the users of this library move them.
trait Move {
    async fn put(
        &self,
        to: &Reference,
        artifact: &Artifact,
        progress: &mut Progress<'_>,
    ) -> Result<ContentDigest, RegistryError>;
    async fn get(
        &self,
        from: &Reference,
        out: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<Artifact, RegistryError>;
}

impl Move for Registry {
    async fn put(
        &self,
        to: &Reference,
        artifact: &Artifact,
        progress: &mut Progress<'_>,
    ) -> Result<ContentDigest, RegistryError> {
        self.push(to, &artifact.package(), progress).await
    }

    async fn get(
        &self,
        from: &Reference,
        out: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<Artifact, RegistryError> {
        let mut pull = self.pull(from)?;
        let (bytes, manifest) = pull.manifest().await?;
        let blob = pull.blob(&manifest.layers[0], out, progress).await?;
        let subject = manifest.subject;
        Ok(Artifact { bytes, blob, subject })
    }
}

/// An artifact of these bytes.
fn artifact(dir: &Path, bytes: &[u8], subject: Option<Descriptor>) -> Artifact {
    let path = tempfile::NamedTempFile::new_in(dir)
        .unwrap()
        .into_temp_path()
        .keep()
        .unwrap();
    std::fs::write(&path, bytes).unwrap();
    let blob = Blob::measure(&path, MAX_BLOB_BYTES).unwrap();
    let descriptor = |kind: &str, digest, size| Descriptor::new(kind.parse().unwrap(), digest, size);
    let manifest = Manifest {
        artifact_type: Some(KIND.parse().unwrap()),
        config: descriptor(EMPTY_TYPE, ContentDigest::of(EMPTY), EMPTY.len() as u64),
        layers: vec![descriptor(
            "application/vnd.example.layer",
            blob.digest(),
            blob.size(),
        )],
        subject: subject.clone(),
        annotations: annotations(),
    };
    Artifact {
        bytes: manifest.encode().unwrap(),
        blob,
        subject,
    }
}

fn reference(address: &str, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}

fn client(address: &str, options: Options) -> Registry {
    Registry::new(&address.parse().unwrap(), options).unwrap()
}

/// Options that give up soon where an answer does not come to its end.
fn soon() -> Options {
    Options {
        answer_within: Duration::from_secs(2),
        ..Options::default()
    }
}

/// Options that give up soon between two pieces of a transfer, and nowhere else.
fn restless() -> Options {
    Options {
        idle: Duration::from_millis(500),
        ..Options::default()
    }
}

/// The error with all its causes.
fn text(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Asserts that it failed, with these words.
#[track_caller]
fn failed<T>(result: Result<T, RegistryError>, expect: &str) {
    match result {
        Ok(_) => panic!("succeeded instead of: {expect}"),
        Err(error) => assert!(text(&error).contains(expect), "{}", text(&error)),
    }
}
