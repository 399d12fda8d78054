//! A new image from another one, or from nothing: layers on top, another entrypoint. The other one is left as it is, in its
//! source.
//!
//! Nothing here reads a clock: the same base and the same layers give the same image, byte for byte.

mod layer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

pub use layer::{LayerError, LayerWriter};

use crate::blob::{Blob, BlobError};
use crate::descriptor::{ContentDigest, Descriptor, MediaType, NotAMediaType};
use crate::image::{CONFIG_TYPE, Image, ImageError, LAYER_TYPE, Layer, Platform};
use crate::layout::{self, LayoutError};
use crate::manifest::{Manifest, ManifestError};
use crate::reference::Reference;
use crate::registry::{Registry, RegistryError};
use crate::source::{Source, SourceError, blocking};
use crate::{MANIFEST_TYPE, MAX_BLOB_BYTES};

/// What an image is built on, by the digest of its manifest (image-spec, "Annotations").
const BASE: &str = "org.opencontainers.image.base.digest";

/// What an index calls an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image that is being built on another one.
#[derive(Debug, Clone)]
pub struct Build {
    /// Where the base's layers are; nowhere where it has none.
    source: Option<Source>,
    base: Image,
    added: Vec<Blob>,
    entrypoint: Option<(Vec<String>, Option<Vec<String>>)>,
    settings: Vec<(&'static str, Value)>,
}

/// A directory for layers that are made here. Removed with this.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new one, where the system has its temporary files; only this user may enter it.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        tempfile::Builder::new()
            .prefix("suijuris-build-")
            .tempdir()
            .map(Self)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A layer to add.
    #[error("the layer to add cannot be taken")]
    Blob(#[from] BlobError),
    /// The base's config cannot be changed as it is.
    #[error("the config of the base image cannot be changed: {0}; use another base")]
    Config(&'static str),
    /// Cannot happen: documents are made of texts and numbers.
    #[error("the image's documents cannot be written")]
    Json(#[source] serde_json::Error),
    /// The manifest.
    #[error("the image's manifest cannot be written")]
    Manifest(#[from] ManifestError),
    /// A media type of the base.
    #[error("a layer of the base image cannot be named")]
    MediaType(#[from] NotAMediaType),
    /// The new image cannot be read back.
    #[error("the image would be none")]
    Image(#[from] ImageError),
    /// The base's layers.
    #[error("a layer of the base image cannot be had")]
    Source(#[from] SourceError),
    /// The layout to write.
    #[error("the layout cannot be written")]
    Layout(#[from] LayoutError),
    /// The registry to push to.
    #[error("the image cannot be pushed")]
    Registry(#[from] RegistryError),
    /// A place for layers on their way.
    #[error("`{path}` cannot be written to; name a directory with room")]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

impl Build {
    /// Begins with `base`, whose layers are in `source`.
    #[must_use]
    pub fn on(source: &Source, base: Image) -> Self {
        Self {
            source: Some(source.clone()),
            base,
            added: Vec::new(),
            entrypoint: None,
            settings: Vec::new(),
        }
    }

    /// Begins with nothing: an image of no files, for `platform`.
    ///
    /// # Errors
    /// None in practice.
    pub fn from_scratch(platform: &Platform) -> Result<Self, BuildError> {
        let mut config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        if let Some(config) = config.as_object_mut().filter(|_| !platform.variant.is_empty()) {
            config.insert("variant".to_owned(), json!(platform.variant));
        }
        let config = serde_json::to_vec(&config).map_err(BuildError::Json)?;
        let manifest = Manifest {
            artifact_type: None,
            config: config_descriptor(&config)?,
            layers: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        Ok(Self {
            source: None,
            base: Image::read(manifest.encode()?, MANIFEST_TYPE.parse()?, config)?,
            added: Vec::new(),
            entrypoint: None,
            settings: Vec::new(),
        })
    }

    /// Says something else in the image's config, such as `User` or `StopSignal` (image-spec, "Properties").
    #[must_use]
    pub fn with_setting(mut self, name: &'static str, value: Value) -> Self {
        self.settings.push((name, value));
        self
    }

    /// Adds a layer on top: an uncompressed tar of at most [`MAX_BLOB_BYTES`], as [`LayerWriter`] makes one. The file must
    /// stay until the image is written or pushed.
    ///
    /// # Errors
    /// The file cannot be read through.
    pub fn append_layer(mut self, tar: &Path) -> Result<Self, BuildError> {
        self.added.push(Blob::measure(tar, MAX_BLOB_BYTES)?);
        Ok(self)
    }

    /// Runs something else. With `cmd` none, the base's command follows the new entrypoint.
    #[must_use]
    pub fn with_entrypoint(mut self, entrypoint: Vec<String>, cmd: Option<Vec<String>>) -> Self {
        self.entrypoint = Some((entrypoint, cmd));
        self
    }

    /// The image, before any of its layers is moved. Always an OCI manifest, also on a base of Docker's kind.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn image(&self) -> Result<Image, BuildError> {
        let config = self.config()?;
        let kept = self.base.layers().iter().map(|layer| {
            let media_type = oci_type(&layer.descriptor.media_type)?;
            Ok(Descriptor {
                media_type,
                ..layer.descriptor.clone()
            })
        });
        let added = self
            .added
            .iter()
            .map(|blob| Ok(Descriptor::new(LAYER_TYPE.parse()?, blob.digest(), blob.size())));
        let manifest = Manifest {
            artifact_type: None,
            config: config_descriptor(&config)?,
            layers: kept.chain(added).collect::<Result<_, BuildError>>()?,
            subject: None,
            annotations: self
                .source
                .iter()
                .map(|_| (BASE.to_owned(), self.base.digest().to_string()))
                .collect(),
        };
        Ok(Image::read(manifest.encode()?, MANIFEST_TYPE.parse()?, config)?)
    }

    /// The base's config with all its members, those that we do not know too.
    fn config(&self) -> Result<Vec<u8>, BuildError> {
        let mut config: Value = serde_json::from_slice(self.base.config_bytes()).map_err(BuildError::Json)?;
        let object = config
            .as_object_mut()
            .ok_or(BuildError::Config("it is no object"))?;
        self.run_as_wanted(object)?;
        let diff_ids = object
            .get_mut("rootfs")
            .and_then(|rootfs| rootfs.get_mut("diff_ids"));
        match diff_ids {
            Some(Value::Array(diff_ids)) => {
                diff_ids.extend(self.added.iter().map(|blob| json!(blob.digest())));
            }
            Some(Value::Null) => {
                let added: Vec<ContentDigest> = self.added.iter().map(Blob::digest).collect();
                object.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": added}));
            }
            _ => return Err(BuildError::Config("it has no list of layers")),
        }
        // Where there is a history, it has an entry for each layer.
        if let Some(Value::Array(history)) = object.get_mut("history") {
            history.extend(self.added.iter().map(|_| json!({"created_by": "suijuris"})));
        }
        serde_json::to_vec(&config).map_err(BuildError::Json)
    }

    /// Puts what is to run, and how, into a config.
    fn run_as_wanted(&self, config: &mut Map<String, Value>) -> Result<(), BuildError> {
        let mut wanted: Vec<(&str, Value)> = self.settings.clone();
        if let Some((entrypoint, cmd)) = &self.entrypoint {
            wanted.push(("Entrypoint", json!(entrypoint)));
            wanted.extend(cmd.as_ref().map(|cmd| ("Cmd", json!(cmd))));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let run = config.entry("config").or_insert(Value::Null);
        if run.is_null() {
            *run = json!({});
        }
        let run = run
            .as_object_mut()
            .ok_or(BuildError::Config("its `config` is no object"))?;
        run.extend(wanted.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(())
    }

    /// The layers of the base, each with where it is.
    fn kept(&self) -> impl Iterator<Item = (&Source, &Layer)> {
        let layers = |source| self.base.layers().iter().map(move |layer| (source, layer));
        self.source.iter().flat_map(layers)
    }

    /// Writes the image with all its layers as a layout to `dir`, which is new or empty, and gives its manifest's
    /// descriptor. All or nothing. `name` is what the index calls it.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn write_layout(&self, dir: &Path, name: Option<&str>) -> Result<Descriptor, BuildError> {
        let image = self.image()?;
        let to = dir.to_owned();
        let stage = blocking(move || layout::begin(&to)).await?;
        for (source, layer) in self.kept() {
            let path = layout::blob(stage.path(), layer.descriptor.digest);
            // The same layer may stand twice.
            if !path.exists() {
                source.save(&layer.descriptor, &path).await?;
            }
        }
        let mut entry = image.descriptor().clone();
        entry
            .annotations
            .extend(name.map(|name| (REF_NAME.to_owned(), name.to_owned())));
        let (added, written, dir) = (self.added.clone(), entry.clone(), dir.to_owned());
        blocking(move || {
            for blob in &added {
                let path = layout::blob(stage.path(), blob.digest());
                if !path.exists() {
                    layout::copy(blob, &path)?;
                }
            }
            let documents = [
                (image.config_descriptor().digest, image.config_bytes()),
                (image.digest(), image.manifest()),
            ];
            for (digest, bytes) in documents {
                layout::put(&layout::blob(stage.path(), digest), bytes)?;
            }
            layout::end(stage, &entry, &dir)
        })
        .await?;
        Ok(written)
    }

    /// Pushes the image to the tag or digest of `reference`, and gives its manifest's descriptor. Layers that the registry
    /// has in that repository are neither fetched nor sent; others pass one by one through a file in `scratch`.
    ///
    /// May be dropped at any await: at most unreferenced blobs are left in the registry.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn push(
        &self,
        registry: &Registry,
        reference: &Reference,
        scratch: &Path,
    ) -> Result<Descriptor, BuildError> {
        let image = self.image()?;
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != image.digest()) {
            let what = "image".to_owned();
            return Err(RegistryError::Digest {
                what,
                wanted,
                found: image.digest(),
            }
            .into());
        }
        for (source, layer) in self.kept() {
            if registry.has_blob(reference, layer.descriptor.digest).await? {
                continue;
            }
            let failed = |source| BuildError::Scratch {
                path: scratch.to_owned(),
                source,
            };
            let place = tempfile::Builder::new()
                .prefix(".push-")
                .tempdir_in(scratch)
                .map_err(failed)?;
            let blob = source
                .save(&layer.descriptor, &place.path().join("layer"))
                .await?;
            registry.put_blob(reference, &blob, &mut |_, _| {}).await?;
        }
        for blob in &self.added {
            registry.put_blob(reference, blob, &mut |_, _| {}).await?;
        }
        registry
            .put_image(reference, image.config_bytes(), image.manifest())
            .await?;
        Ok(image.descriptor().clone())
    }
}

fn config_descriptor(config: &[u8]) -> Result<Descriptor, BuildError> {
    let (digest, size) = (ContentDigest::of(config), config.len() as u64);
    Ok(Descriptor::new(CONFIG_TYPE.parse()?, digest, size))
}

/// The same layer type in the words of OCI.
fn oci_type(media_type: &MediaType) -> Result<MediaType, BuildError> {
    let text = media_type.as_str();
    let docker = "application/vnd.docker.image.rootfs.";
    let Some(rest) = text.strip_prefix(docker) else {
        return Ok(media_type.clone());
    };
    let rest = rest.replace(".gzip", "+gzip").replace(".zstd", "+zstd");
    let known = match rest.strip_prefix("foreign.diff.tar") {
        Some(packed) => format!("application/vnd.oci.image.layer.nondistributable.v1.tar{packed}"),
        None => rest.replace("diff.tar", LAYER_TYPE),
    };
    Ok(known.parse()?)
}
