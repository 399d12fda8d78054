//! The manifest of an object: which capsule, of which object, for which workload image.
//!
//! Decoding is strict in what we rely on (types, the empty config, one capsule, the labels) and passes over members
//! and annotations that others may add, as image-spec asks. The bytes are the identity, so that whoever keeps a
//! manifest keeps its bytes ([`super::Artifact`] does). What holds for every manifest is [`suijuris_oci::Manifest`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use suijuris_core::time::Timestamp;
use suijuris_core::{ObjectId, RecordId};
use suijuris_oci::{ContentDigest, Descriptor, EMPTY, EMPTY_TYPE, MediaType, printable};

use super::{CAPSULE_TYPE, OBJECT_TYPE};

const TITLE: &str = "org.opencontainers.image.title";
const CREATED: &str = "org.opencontainers.image.created";
const OBJECT: &str = "dev.suijuris.object";
const HEAD: &str = "dev.suijuris.head";
const SEQ: &str = "dev.suijuris.seq";

/// Length of a title at most, bytes.
const MAX_TITLE_BYTES: usize = 128;

/// A plain file name: tools that pull an artifact write its layer under this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title(String);

/// A text that may not be a title.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a plain file name; give 1 to {MAX_TITLE_BYTES} bytes without slashes and control characters, \
     and no dot or dash first"
)]
pub struct NotATitle(String);

impl FromStr for Title {
    type Err = NotATitle;

    fn from_str(text: &str) -> Result<Self, NotATitle> {
        let plain = |letter: char| !letter.is_control() && !['/', '\\'].contains(&letter);
        let good = !text.is_empty()
            && text.len() <= MAX_TITLE_BYTES
            && !text.starts_with(['.', '-'])
            && text.chars().all(plain);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotATitle(printable(text)))
        }
    }
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the annotations tell about the object. Claims only: the capsule proves them, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// File name of the capsule.
    pub title: Title,
    /// When the capsule was made, as its maker says.
    pub created: Timestamp,
    /// Which object.
    pub object: ObjectId,
    /// Last record of its lineage.
    pub head: RecordId,
    /// Number of that record, from 0.
    pub seq: u64,
}

impl Labels {
    /// The labels as annotations.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        [
            (TITLE, self.title.to_string()),
            (CREATED, self.created.to_string()),
            (OBJECT, self.object.to_string()),
            (HEAD, self.head.to_string()),
            (SEQ, self.seq.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Reads the labels among annotations.
    ///
    /// # Errors
    /// One is missing or cannot be read.
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Self, ManifestError> {
        fn read<T: FromStr>(
            annotations: &BTreeMap<String, String>,
            key: &'static str,
        ) -> Result<T, ManifestError> {
            let text = annotations.get(key).ok_or(ManifestError::NoLabel(key))?;
            text.parse()
                .map_err(|_| ManifestError::Label(key, printable(text)))
        }
        Ok(Self {
            title: read(annotations, TITLE)?,
            created: read(annotations, CREATED)?,
            object: read(annotations, OBJECT)?,
            head: read(annotations, HEAD)?,
            seq: read(annotations, SEQ)?,
        })
    }
}

/// The manifest of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the annotations tell.
    pub labels: Labels,
    /// The capsule: digest and size; its type is [`CAPSULE_TYPE`].
    pub capsule: Descriptor,
    /// The workload image that the object refers to.
    pub subject: Option<Descriptor>,
}

/// Why bytes are not the manifest of an object.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No manifest at all.
    #[error(transparent)]
    Manifest(#[from] suijuris_oci::ManifestError),
    /// An artifact of another kind, or a plain image.
    #[error("this is {0} and not a `{OBJECT_TYPE}`; name the tag or digest of an object")]
    ArtifactType(String),
    /// Its config is not empty.
    #[error("the config is not the empty one of type `{EMPTY_TYPE}`; push the object again")]
    Config,
    /// Not one layer.
    #[error("the manifest has {0} layers instead of one capsule; push the object again")]
    Layers(usize),
    /// A layer of another type.
    #[error("the layer is a `{0}` and not a `{CAPSULE_TYPE}`; pull it with the program that made it")]
    LayerType(String),
    /// The capsule is empty.
    #[error("the capsule has no bytes; export the object again")]
    Empty,
    /// An annotation is missing.
    #[error("the annotation `{0}` is missing; push the object again")]
    NoLabel(&'static str),
    /// An annotation cannot be read.
    #[error("the annotation `{0}` cannot be `{1}`; push the object again")]
    Label(&'static str, String),
}

impl Manifest {
    /// The bytes of this manifest: JSON without spaces, always the same for equal manifests.
    ///
    /// # Errors
    /// A manifest that could not be read back, such as one with a time outside the calendar.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let mut layer = self.capsule.clone();
        layer
            .annotations
            .insert(TITLE.to_owned(), self.labels.title.to_string());
        let general = suijuris_oci::Manifest {
            artifact_type: Some(media_type(OBJECT_TYPE)?),
            config: Descriptor::new(
                media_type(EMPTY_TYPE)?,
                ContentDigest::of(EMPTY),
                EMPTY.len() as u64,
            ),
            layers: vec![layer],
            subject: self.subject.clone(),
            annotations: self.labels.annotations(),
        };
        let bytes = general.encode()?;
        Self::decode(&bytes)?;
        Ok(bytes)
    }

    /// Reads a manifest of at most [`suijuris_oci::MAX_MANIFEST_BYTES`].
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        suijuris_oci::Manifest::decode(bytes)?.try_into()
    }
}

impl TryFrom<suijuris_oci::Manifest> for Manifest {
    type Error = ManifestError;

    fn try_from(general: suijuris_oci::Manifest) -> Result<Self, ManifestError> {
        match general.artifact_type.as_ref().map(MediaType::as_str) {
            Some(OBJECT_TYPE) => {}
            Some(other) => return Err(ManifestError::ArtifactType(format!("a `{other}`"))),
            None => return Err(ManifestError::ArtifactType("a plain image".to_owned())),
        }
        let empty = general.config.media_type.as_str() == EMPTY_TYPE
            && general.config.digest == ContentDigest::of(EMPTY)
            && general.config.size == EMPTY.len() as u64;
        if !empty {
            return Err(ManifestError::Config);
        }
        let count = general.layers.len();
        let Ok([capsule]) = <[Descriptor; 1]>::try_from(general.layers) else {
            return Err(ManifestError::Layers(count));
        };
        if capsule.media_type.as_str() != CAPSULE_TYPE {
            return Err(ManifestError::LayerType(capsule.media_type.to_string()));
        }
        if capsule.size == 0 {
            return Err(ManifestError::Empty);
        }
        Ok(Self {
            labels: Labels::of(&general.annotations)?,
            capsule,
            subject: general.subject,
        })
    }
}

/// A media type of our own; cannot fail, but the compiler does not know.
pub(super) fn media_type(text: &str) -> Result<MediaType, ManifestError> {
    text.parse()
        .map_err(|_| ManifestError::ArtifactType(printable(text)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use suijuris_oci::{INDEX_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES};

    use super::*;

    fn manifest(subject: bool) -> Manifest {
        Manifest {
            labels: Labels {
                title: "visits.sui".parse().unwrap(),
                created: Timestamp(1_795_000_000_000),
                object: ObjectId::of(b"object"),
                head: RecordId::of(b"head"),
                seq: 41,
            },
            capsule: Descriptor {
                annotations: BTreeMap::from([(TITLE.to_owned(), "visits.sui".to_owned())]),
                ..Descriptor::new(CAPSULE_TYPE.parse().unwrap(), ContentDigest::of(b"capsule"), 7)
            },
            subject: subject
                .then(|| Descriptor::new(MANIFEST_TYPE.parse().unwrap(), ContentDigest::of(b"image"), 5)),
        }
    }

    #[test]
    fn the_bytes_are_these() {
        insta::assert_snapshot!(String::from_utf8(manifest(true).encode().unwrap()).unwrap());
    }

    #[test]
    fn a_manifest_reads_back() {
        for subject in [true, false] {
            let manifest = manifest(subject);
            let bytes = manifest.encode().unwrap();
            assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        }
    }

    #[test]
    fn members_and_annotations_of_others_are_passed_over() {
        let mut json: serde_json::Value = serde_json::from_slice(&manifest(true).encode().unwrap()).unwrap();
        json["later"] = true.into();
        json["annotations"]["org.example.mirror"] = "yes".into();
        json.as_object_mut().unwrap().remove("mediaType");
        let read = Manifest::decode(&serde_json::to_vec(&json).unwrap()).unwrap();
        assert_eq!(read, manifest(true));
    }

    /// `at` is a JSON pointer; the member becomes `value`, or goes for `null`.
    fn check(at: &str, value: serde_json::Value, expect: &str) {
        let mut json: serde_json::Value = serde_json::from_slice(&manifest(true).encode().unwrap()).unwrap();
        if value.is_null() {
            let (parent, key) = at.rsplit_once('/').unwrap();
            json.pointer_mut(parent)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .remove(key)
                .unwrap();
        } else {
            *json.pointer_mut(at).unwrap() = value;
        }
        let error = Manifest::decode(&serde_json::to_vec(&json).unwrap()).unwrap_err();
        assert!(error.to_string().contains(expect), "{at}: {error}");
    }

    #[test]
    fn each_fault_has_its_own_words() {
        use serde_json::json;
        check("/schemaVersion", json!(1), "schema version 1");
        check("/mediaType", json!(INDEX_TYPE), "index of several manifests");
        check("/mediaType", json!("application/vnd.docker.x"), "vnd.docker.x");
        check("/artifactType", json!("application/vnd.example"), "vnd.example");
        check("/artifactType", json!(null), "a plain image");
        check("/config/mediaType", json!("application/json"), "config");
        check("/config/size", json!(3), "config");
        check("/layers", json!([]), "0 layers");
        check("/layers/0/mediaType", json!("application/x"), "application/x");
        check("/layers/0/size", json!(0), "no bytes");
        check(
            "/layers/0/digest",
            json!("sha256:../../etc/passwd"),
            "cannot be read",
        );
        check("/annotations/dev.suijuris.seq", json!("-1"), "dev.suijuris.seq");
        check("/annotations/dev.suijuris.head", json!(null), "is missing");
        check(
            "/annotations/org.opencontainers.image.title",
            json!("../x"),
            "../x",
        );
        check(
            "/annotations/org.opencontainers.image.created",
            json!("today"),
            "today",
        );
        check("/annotations/dev.suijuris.object", json!("\u{1b}[2J"), "\\u{1b}");
    }

    #[test]
    fn a_time_outside_the_calendar_is_not_written() {
        let mut manifest = manifest(false);
        manifest.labels.created = Timestamp(i64::MAX);
        assert!(matches!(manifest.encode(), Err(ManifestError::Label(CREATED, _))));
    }

    #[test]
    fn too_long_is_refused_before_it_is_parsed() {
        let long = vec![b' '; MAX_MANIFEST_BYTES + 1];
        assert!(matches!(
            Manifest::decode(&long),
            Err(ManifestError::Manifest(suijuris_oci::ManifestError::TooLong))
        ));
        let deep = "[".repeat(100_000);
        assert!(matches!(
            Manifest::decode(deep.as_bytes()),
            Err(ManifestError::Manifest(suijuris_oci::ManifestError::Json(_)))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Manifest::decode(&bytes);
        }

        #[test]
        fn one_changed_byte_is_refused_or_another_manifest(at: prop::sample::Index, byte: u8) {
            let original = manifest(true).encode().unwrap();
            let mut bytes = original.clone();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = Manifest::decode(&bytes) {
                // What cannot be told apart from ours reads as ours or differs in a field; the digest always differs.
                prop_assert!(bytes == original || ContentDigest::of(&bytes) != ContentDigest::of(&original));
                prop_assert!(read.encode().is_ok());
            }
        }
    }
}
