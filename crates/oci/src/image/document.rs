//! The document behind an image's name: one manifest, or an index of several. Of OCI and of Docker, whose documents differ
//! in their media types only.

use serde::Deserialize;

use super::config::MAX_LAYERS;
use super::platform::Platform;
use crate::descriptor::{Descriptor, MediaType};
use crate::{INDEX_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, printable};

/// Docker's manifest of one image.
pub(crate) const DOCKER_MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Docker's index.
pub(crate) const DOCKER_LIST_TYPE: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Manifests in an index at most.
const MAX_MANIFESTS: usize = 1000;

/// Platforms that an error names at most.
const NAMED_PLATFORMS: usize = 20;

/// Marks manifests that only say something about others of the same index.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// One manifest or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image.
    Image {
        /// Its config.
        config: Descriptor,
        /// Its layers, lowest first.
        layers: Vec<Descriptor>,
    },
    /// Several.
    Index(Vec<Listed>),
}

/// A manifest in an index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
}

/// Why a document is no image.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than any registry has to take.
    #[error("the manifest is longer than {MAX_MANIFEST_BYTES} bytes; check the reference")]
    TooLong,
    /// Not JSON, or a member of another type than it should be.
    #[error("the manifest cannot be read; push the image again")]
    Json(#[source] serde_json::Error),
    /// Another version of the schema.
    #[error("the manifest has schema version {0} instead of 2; push the image again with a newer tool")]
    SchemaVersion(u64),
    /// A manifest of something else.
    #[error("the manifest is a `{0}` and no image; check the reference")]
    MediaType(String),
    /// It can be read as a manifest and as an index, and two readers would see two images.
    #[error("the manifest says two things at once: {0}; do not use this image")]
    Ambiguous(&'static str),
    /// More than we look at.
    #[error("the manifest names {found} {what}, at most {max} are taken; check the reference")]
    TooMany {
        /// How many.
        found: usize,
        /// Of what.
        what: &'static str,
        /// How many are taken.
        max: usize,
    },
    /// No variant for this machine.
    #[error("the image has no variant for {wanted}, only {offered}; use another image")]
    Platform {
        /// What was looked for.
        wanted: Platform,
        /// What is there.
        offered: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Listed>>,
}

impl Document {
    /// Reads a document of at most [`MAX_MANIFEST_BYTES`] that came as a `named` type, if it came with one.
    pub(crate) fn decode(bytes: &[u8], named: Option<&MediaType>) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(DocumentError::TooLong);
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        if wire.schema_version != 2 {
            return Err(DocumentError::SchemaVersion(wire.schema_version));
        }
        let is_index = match (&wire.config, &wire.layers, &wire.manifests) {
            (Some(_), Some(_), None) => false,
            (None, None, Some(_)) => true,
            (None, None, None) => return Err(DocumentError::MediaType(named_or_not(wire.media_type))),
            _ => {
                return Err(DocumentError::Ambiguous(
                    "it has members of a manifest and of an index",
                ));
            }
        };
        let named = named.map(|named| named.as_str().to_owned());
        for media_type in [wire.media_type, named].into_iter().flatten() {
            match media_type.as_str() {
                MANIFEST_TYPE | DOCKER_MANIFEST_TYPE if !is_index => {}
                INDEX_TYPE | DOCKER_LIST_TYPE if is_index => {}
                MANIFEST_TYPE | DOCKER_MANIFEST_TYPE | INDEX_TYPE | DOCKER_LIST_TYPE => {
                    return Err(DocumentError::Ambiguous("its media type is not what it is"));
                }
                other => return Err(DocumentError::MediaType(printable(other))),
            }
        }
        let bounded = |found: usize, what, max| {
            if found > max {
                Err(DocumentError::TooMany { found, what, max })
            } else {
                Ok(())
            }
        };
        match (wire.config, wire.layers, wire.manifests) {
            (Some(config), Some(layers), _) => {
                bounded(layers.len(), "layers", MAX_LAYERS)?;
                Ok(Self::Image { config, layers })
            }
            (_, _, manifests) => {
                let manifests = manifests.unwrap_or_default();
                bounded(manifests.len(), "manifests", MAX_MANIFESTS)?;
                Ok(Self::Index(manifests))
            }
        }
    }
}

fn named_or_not(media_type: Option<String>) -> String {
    media_type.map_or_else(
        || "document without config and layers".to_owned(),
        |found| printable(&found),
    )
}

/// Whether a layer may be compressed as we know it; foreign layers are blobs like others.
pub(crate) fn is_layer_type(media_type: &MediaType) -> bool {
    let text = media_type.as_str();
    let oci = text
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| text.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"));
    let docker = text
        .strip_prefix("application/vnd.docker.image.rootfs.diff.tar")
        .or_else(|| text.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"));
    oci.is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd"))
        || docker.is_some_and(|rest| matches!(rest, "" | ".gzip" | ".zstd"))
}

/// The manifest in an index that runs best on `platform`. One alone that does not say what it is for is taken as it is: its
/// config tells.
pub(crate) fn choose(manifests: &[Listed], platform: &Platform) -> Result<Descriptor, DocumentError> {
    let is_image = |listed: &&Listed| !listed.descriptor.annotations.contains_key(ATTESTATION);
    let images: Vec<&Listed> = manifests.iter().filter(is_image).collect();
    let best = images
        .iter()
        .filter_map(|listed| {
            let fits = platform.fits(listed.platform.as_ref()?)?;
            Some((fits, *listed))
        })
        .min_by_key(|(fits, _)| *fits);
    match (best, images.as_slice()) {
        (Some((_, listed)), _) => Ok(listed.descriptor.clone()),
        (None, [listed]) if listed.platform.is_none() => Ok(listed.descriptor.clone()),
        _ => Err(DocumentError::Platform {
            wanted: platform.clone(),
            offered: offered(&images),
        }),
    }
}

fn offered(images: &[&Listed]) -> String {
    let known = images.iter().filter_map(|listed| listed.platform.as_ref());
    let names: Vec<String> = known
        .take(NAMED_PLATFORMS)
        .map(|platform| printable(&platform.to_string()))
        .collect();
    if names.is_empty() {
        "some that do not say what they are for".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::ContentDigest;

    fn descriptor(kind: &str, content: &[u8]) -> Value {
        json!({"mediaType": kind, "digest": ContentDigest::of(content), "size": content.len()})
    }

    fn image() -> Value {
        let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", b"layer");
        let config = descriptor("application/vnd.docker.container.image.v1+json", b"config");
        json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST_TYPE, "config": config, "layers": [layer]})
    }

    fn decode(value: &Value, named: Option<&str>) -> Result<Document, DocumentError> {
        let named = named.map(|named| named.parse().unwrap());
        Document::decode(&serde_json::to_vec(value).unwrap(), named.as_ref())
    }

    #[test]
    fn documents_of_docker_and_oci_are_the_same() {
        let found = decode(&image(), Some(DOCKER_MANIFEST_TYPE)).unwrap();
        let mut oci = image();
        oci["mediaType"] = json!(MANIFEST_TYPE);
        assert_eq!(decode(&oci, None).unwrap(), found);
        oci.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(decode(&oci, Some(MANIFEST_TYPE)).unwrap(), found);
    }

    #[track_caller]
    fn check(value: &Value, named: Option<&str>, expect: &str) {
        let error = decode(value, named).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn what_two_readers_would_read_differently_is_refused() {
        let mut both = image();
        both["manifests"] = json!([]);
        check(&both, None, "two things at once");
        check(&image(), Some(INDEX_TYPE), "two things at once");
        check(
            &json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "manifests": []}),
            None,
            "two things at once",
        );
        check(&json!({"schemaVersion": 1}), None, "schema version 1");
        check(&json!({"schemaVersion": 2, "mediaType": "a/b"}), None, "a/b");
        let mut other = image();
        other["mediaType"] = json!("application/vnd.cncf.helm");
        check(&other, None, "helm");
        let many: Vec<Value> = (0..=MAX_LAYERS).map(|_| descriptor("a/b", b"x")).collect();
        let mut deep = image();
        deep["layers"] = json!(many);
        check(&deep, None, "501 layers");
    }

    fn listed(platform: Option<Value>, content: &[u8]) -> Value {
        let mut value = descriptor(MANIFEST_TYPE, content);
        if let Some(platform) = platform {
            value["platform"] = platform;
        }
        value
    }

    fn chosen(manifests: &[Value]) -> Result<ContentDigest, DocumentError> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
        let Document::Index(manifests) = decode(&index, None).unwrap() else {
            panic!()
        };
        choose(&manifests, &Platform::linux("amd64")).map(|found| found.digest)
    }

    #[test]
    fn the_variant_for_this_machine_is_found() {
        let on = |os: &str, arch: &str| Some(json!({"os": os, "architecture": arch, "os.version": "1"}));
        let mut attestation = listed(on("unknown", "unknown"), b"about");
        attestation["annotations"] = json!({ATTESTATION: "attestation-manifest"});
        let all = [
            listed(on("windows", "amd64"), b"w"),
            attestation.clone(),
            listed(on("linux", "arm64"), b"arm"),
            listed(on("linux", "amd64"), b"this"),
        ];
        assert_eq!(chosen(&all).unwrap(), ContentDigest::of(b"this"));
        let error = chosen(&all[..3]).unwrap_err().to_string();
        assert!(
            error.contains("no variant for linux/amd64, only windows/amd64, linux/arm64"),
            "{error}"
        );
        assert_eq!(
            chosen(&[listed(None, b"only"), attestation]).unwrap(),
            ContentDigest::of(b"only")
        );
        assert!(chosen(&[listed(None, b"a"), listed(None, b"b")]).is_err());
        assert!(chosen(&[]).is_err());
    }

    #[test]
    fn layers_of_known_types_only() {
        let known = |text: &str| is_layer_type(&text.parse().unwrap());
        for text in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(known(text), "{text}");
        }
        for text in [
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.wasm",
            "text/plain",
        ] {
            assert!(!known(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Document::decode(&bytes, None);
        }
    }
}
