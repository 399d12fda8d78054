//! An image: its manifest, config and layers, as read from any [`crate::source::Source`] and held to their digests.

mod config;
mod document;
mod platform;

pub use config::{ConfigError, DEFAULT_PATH, ImageConfig, MAX_LAYERS, Port, Protocol, StopSignal};
pub use document::DocumentError;
pub use platform::Platform;

pub(crate) use document::{Document, Listed, choose};

use crate::descriptor::{ContentDigest, Descriptor, MediaType};
use crate::printable;

/// Media type of an image's config.
pub const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// Docker's media type of the same.
const DOCKER_CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";

/// Media type of a layer that is not compressed; `+gzip` and `+zstd` follow where it is.
pub const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image for one platform. Its documents are what their digests say, and fit together; its layers are named, not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    descriptor: Descriptor,
    manifest: Vec<u8>,
    config_descriptor: Descriptor,
    config_bytes: Vec<u8>,
    config: ImageConfig,
    layers: Vec<Layer>,
}

/// A layer by both of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob, mostly compressed.
    pub descriptor: Descriptor,
    /// Digest of the archive in it.
    pub diff_id: ContentDigest,
}

/// Why documents make no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The manifest.
    #[error("the image's manifest cannot be used")]
    Document(#[from] DocumentError),
    /// The config.
    #[error("the image's config cannot be used")]
    Config(#[from] ConfigError),
    /// An index where one manifest should be.
    #[error("this is an index of several images; resolve it first")]
    Index,
    /// Another content than the one that is named.
    #[error(
        "the {part} is not the one that is named: {found} of {found_size} bytes instead of {wanted} of {wanted_size}; do not use this image"
    )]
    Digest {
        /// Which part.
        part: &'static str,
        /// What it is.
        found: ContentDigest,
        /// Its size, bytes.
        found_size: u64,
        /// What it should be.
        wanted: ContentDigest,
        /// Its size, bytes.
        wanted_size: u64,
    },
    /// An artifact, not an image.
    #[error("the manifest's config is a `{0}` and not that of an image; check the reference")]
    NotAnImage(String),
    /// A layer of a kind that we cannot unpack.
    #[error(
        "the image has a layer of type `{0}`, which cannot be unpacked; use an image with tar, gzip or zstd layers"
    )]
    LayerType(String),
    /// Manifest and config do not fit.
    #[error("the image's manifest has {layers} layers and its config {diff_ids}; build the image again")]
    Count {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// For another machine.
    #[error("the image is for {found}, this machine is {wanted}; use another image")]
    Platform {
        /// What it is for.
        found: String,
        /// What was looked for.
        wanted: Platform,
    },
}

/// Holds bytes to the descriptor that names them.
pub(crate) fn hold(part: &'static str, bytes: &[u8], wanted: &Descriptor) -> Result<(), ImageError> {
    let (found, found_size) = (ContentDigest::of(bytes), bytes.len() as u64);
    if (found, found_size) == (wanted.digest, wanted.size) {
        return Ok(());
    }
    Err(ImageError::Digest {
        part,
        found,
        found_size,
        wanted: wanted.digest,
        wanted_size: wanted.size,
    })
}

/// The config of a manifest's bytes, so that it can be read.
pub(crate) fn config_of(manifest: &[u8], media_type: &MediaType) -> Result<Descriptor, ImageError> {
    match Document::decode(manifest, Some(media_type))? {
        Document::Image { config, .. } => Ok(config),
        Document::Index(_) => Err(ImageError::Index),
    }
}

impl Image {
    /// Reads an image from the bytes of its manifest, which is a `media_type`, and of its config.
    ///
    /// # Errors
    /// See [`ImageError`]: the config must be the one that the manifest names, and both must have as many layers.
    pub fn read(manifest: Vec<u8>, media_type: MediaType, config_bytes: Vec<u8>) -> Result<Self, ImageError> {
        let Document::Image {
            config: config_descriptor,
            layers,
        } = Document::decode(&manifest, Some(&media_type))?
        else {
            return Err(ImageError::Index);
        };
        if ![CONFIG_TYPE, DOCKER_CONFIG_TYPE].contains(&config_descriptor.media_type.as_str()) {
            return Err(ImageError::NotAnImage(printable(
                config_descriptor.media_type.as_str(),
            )));
        }
        if let Some(layer) = layers
            .iter()
            .find(|layer| !document::is_layer_type(&layer.media_type))
        {
            return Err(ImageError::LayerType(printable(layer.media_type.as_str())));
        }
        hold("config", &config_bytes, &config_descriptor)?;
        let config = ImageConfig::decode(&config_bytes)?;
        if layers.len() != config.diff_ids.len() {
            return Err(ImageError::Count {
                layers: layers.len(),
                diff_ids: config.diff_ids.len(),
            });
        }
        let pairs = layers.into_iter().zip(&config.diff_ids);
        let layers = pairs
            .map(|(descriptor, diff_id)| Layer {
                descriptor,
                diff_id: *diff_id,
            })
            .collect();
        let descriptor = Descriptor::new(media_type, ContentDigest::of(&manifest), manifest.len() as u64);
        Ok(Self {
            descriptor,
            manifest,
            config_descriptor,
            config_bytes,
            config,
            layers,
        })
    }

    /// Digest of the manifest: the image's name for ever.
    #[must_use]
    pub const fn digest(&self) -> ContentDigest {
        self.descriptor.digest
    }

    /// Media type, digest and size of the manifest.
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The bytes of the manifest.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// What the manifest says of the config.
    #[must_use]
    pub const fn config_descriptor(&self) -> &Descriptor {
        &self.config_descriptor
    }

    /// The bytes of the config.
    #[must_use]
    pub fn config_bytes(&self) -> &[u8] {
        &self.config_bytes
    }

    /// What to run and how.
    #[must_use]
    pub const fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Its layers, lowest first. The same layer may stand twice.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Refuses an image for another platform. One that does not say what it is for is taken.
    pub(crate) fn expect(self, platform: &Platform) -> Result<Self, ImageError> {
        let found = &self.config.platform;
        let silent = found.os.is_empty() && found.architecture.is_empty();
        // A variant is a matter of indexes; configs leave it out or get it wrong.
        if silent || (&found.os, &found.architecture) == (&platform.os, &platform.architecture) {
            return Ok(self);
        }
        Err(ImageError::Platform {
            found: printable(&found.to_string()),
            wanted: platform.clone(),
        })
    }
}
