//! An image manifest, of an image or of an artifact: read strictly, written the same for the same content.
//!
//! Reading goes through `oci-spec`'s types and then through ours, which take only what is safe to use: sizes that are
//! no negative numbers, SHA-256 digests, media types that are some. Members that others may add are passed over, as
//! image-spec asks. Writing is ours alone: `oci-spec` keeps annotations in no order, and the bytes are the identity.

use std::collections::BTreeMap;

use oci_spec::image;
use serde::{Deserialize, Serialize};

use crate::descriptor::{Descriptor, MediaType, NotADescriptor};
use crate::{INDEX_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, printable};

/// A manifest as read or to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What kind of artifact it is; none for an image.
    pub artifact_type: Option<MediaType>,
    /// Its config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest that it refers to.
    pub subject: Option<Descriptor>,
    /// Remarks.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are no image manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than any registry has to take.
    #[error("the manifest is longer than {MAX_MANIFEST_BYTES} bytes; check the reference")]
    TooLong,
    /// Not JSON, or a member of another type than it should be.
    #[error("the manifest cannot be read; push it again")]
    Json(#[source] serde_json::Error),
    /// Another version of the schema.
    #[error("the manifest has schema version {0} instead of 2; push it again")]
    SchemaVersion(u64),
    /// An index.
    #[error("this is an index of several manifests; name one of them by its digest")]
    Index,
    /// Another kind of manifest.
    #[error("the manifest is a `{0}` and not a `{MANIFEST_TYPE}`; check the tag or digest")]
    MediaType(String),
    /// A descriptor that cannot be used.
    #[error("the manifest cannot be read: its {0} cannot be used; push it again")]
    Descriptor(&'static str, #[source] NotADescriptor),
}

/// What is looked at first, so that the error names what was found instead of the first member that differs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: u64,
    media_type: Option<String>,
}

/// As on the wire; members in the order in which they are written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    schema_version: u8,
    media_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: &'a Option<MediaType>,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: &'a Option<Descriptor>,
    annotations: &'a BTreeMap<String, String>,
}

impl Manifest {
    /// The bytes of this manifest: JSON without spaces, always the same for equal manifests.
    ///
    /// # Errors
    /// None in practice.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let wire = Wire {
            schema_version: 2,
            media_type: MANIFEST_TYPE,
            artifact_type: &self.artifact_type,
            config: &self.config,
            layers: &self.layers,
            subject: &self.subject,
            annotations: &self.annotations,
        };
        serde_json::to_vec(&wire).map_err(ManifestError::Json)
    }

    /// Reads a manifest of at most [`MAX_MANIFEST_BYTES`].
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong);
        }
        check_kind(&serde_json::from_slice(bytes).map_err(ManifestError::Json)?)?;
        let spec: image::ImageManifest = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let read = |what, descriptor: &image::Descriptor| {
            Descriptor::try_from(descriptor).map_err(|error| ManifestError::Descriptor(what, error))
        };
        let artifact_type = spec.artifact_type().as_ref().map(MediaType::try_from).transpose();
        Ok(Self {
            artifact_type: artifact_type
                .map_err(|error| ManifestError::Descriptor("artifact type", error.into()))?,
            config: read("config", spec.config())?,
            layers: spec
                .layers()
                .iter()
                .map(|layer| read("layer", layer))
                .collect::<Result<_, _>>()?,
            subject: spec
                .subject()
                .as_ref()
                .map(|subject| read("subject", subject))
                .transpose()?,
            annotations: spec.annotations().iter().flatten().map(owned).collect(),
        })
    }
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn check_kind(kind: &Kind) -> Result<(), ManifestError> {
    if kind.schema_version != 2 {
        return Err(ManifestError::SchemaVersion(kind.schema_version));
    }
    match kind.media_type.as_deref() {
        None | Some(MANIFEST_TYPE) => Ok(()),
        Some(INDEX_TYPE) => Err(ManifestError::Index),
        Some(other) => Err(ManifestError::MediaType(printable(other))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ContentDigest, EMPTY, EMPTY_TYPE};

    fn manifest() -> Manifest {
        let descriptor = |kind: &str, content: &[u8]| {
            let size = content.len() as u64;
            Descriptor::new(kind.parse().unwrap(), ContentDigest::of(content), size)
        };
        let notes = ["b", "a", "d", "c"].map(|note| (note.to_owned(), note.to_owned()));
        Manifest {
            artifact_type: Some("application/vnd.example".parse().unwrap()),
            config: descriptor(EMPTY_TYPE, EMPTY),
            layers: vec![Descriptor {
                annotations: notes.clone().into(),
                ..descriptor("application/vnd.example.layer", b"one")
            }],
            subject: Some(descriptor(MANIFEST_TYPE, b"image")),
            annotations: notes.into(),
        }
    }

    #[test]
    fn a_manifest_reads_back_and_is_written_the_same() {
        let bytes = manifest().encode().unwrap();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest());
        for _ in 0..20 {
            assert_eq!(Manifest::decode(&bytes).unwrap().encode().unwrap(), bytes);
        }
        let image = Manifest {
            artifact_type: None,
            subject: None,
            ..manifest()
        };
        assert_eq!(Manifest::decode(&image.encode().unwrap()).unwrap(), image);
    }

    /// `at` is a JSON pointer; the member becomes `value`.
    fn check(at: &str, value: serde_json::Value, expect: &str) {
        let mut json: serde_json::Value = serde_json::from_slice(&manifest().encode().unwrap()).unwrap();
        *json.pointer_mut(at).unwrap() = value;
        let error = Manifest::decode(&serde_json::to_vec(&json).unwrap()).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", cause.unwrap_or_default());
        assert!(text.contains(expect), "{at}: {text}");
    }

    #[test]
    fn each_fault_has_its_own_words() {
        use serde_json::json;
        check("/schemaVersion", json!(1), "schema version 1");
        check("/mediaType", json!(INDEX_TYPE), "index of several manifests");
        check("/mediaType", json!("application/vnd.docker.x"), "vnd.docker.x");
        check("/artifactType", json!("x; y"), "not a media type");
        check(
            "/config/digest",
            json!(format!("sha512:{}", "0".repeat(128))),
            "config",
        );
        check("/layers/0/size", json!(-1), "cannot be read");
        check(
            "/layers/0/digest",
            json!("sha256:../../etc/passwd"),
            "cannot be read",
        );
        check("/subject/mediaType", json!("\u{1b}[2J"), "\\u{1b}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Manifest::decode(&bytes);
        }
    }
}
