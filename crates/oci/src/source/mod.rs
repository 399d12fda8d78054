//! Where images come from: a registry, a layout on disk, an archive of `docker save`. One type for all, and from each the
//! same [`Image`]; only the classic archive has no manifest, so one is made for it (the same from the same archive).

mod archive;
mod local;

#[cfg(feature = "registry")]
use std::fs::File;
#[cfg(feature = "registry")]
use std::io::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "registry")]
use crate::blob::{Blob, Meter};
use crate::descriptor::Descriptor;
use crate::file::FileError;
#[cfg(feature = "registry")]
use crate::image::{Document, choose, hold};
use crate::image::{DocumentError, Image, ImageError, Platform};
#[cfg(feature = "registry")]
use crate::reference::Reference;
#[cfg(feature = "registry")]
use crate::registry::{Registry, RegistryError};
use crate::unpack::TarError;

pub(crate) use local::Local;

/// Indexes within indexes at most.
const MAX_NESTING: usize = 4;

/// An image in a place. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source(pub(crate) Kind);

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    #[cfg(feature = "registry")]
    Registry(Arc<Registry>, Reference),
    Local(Arc<Local>),
}

/// Why a source gives no image.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The registry.
    #[cfg(feature = "registry")]
    #[error("the image cannot be had from its registry")]
    Registry(#[from] RegistryError),
    /// What is there is no image, or not the one that is named.
    #[error("the image cannot be used")]
    Image(#[from] ImageError),
    /// A file of a layout, or the archive itself.
    #[error("a file of the image cannot be taken; write the layout or archive again")]
    File(#[from] FileError),
    /// The archive.
    #[error("`{path}` is no archive that can be read; save the image again")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// Compressed as a whole.
    #[error("`{0}` is compressed as a whole; decompress it first, as with gunzip or unzstd")]
    Compressed(PathBuf),
    /// More files than an image has.
    #[error("`{path}` has more than {max} files; it is not one image")]
    TooManyFiles {
        /// The archive.
        path: PathBuf,
        /// Files that are taken.
        max: usize,
    },
    /// Neither of the known forms.
    #[error(
        "`{0}` is neither an OCI layout nor an archive of docker save; it has no index.json and no manifest.json"
    )]
    Unknown(PathBuf),
    /// A document of the layout or archive.
    #[error("`{0}` cannot be read: {1}; write the layout or archive again")]
    Document(&'static str, String),
    /// A part that is named is not there.
    #[error("`{0}` is not in the layout or archive; write it again")]
    Missing(String),
    /// No image of this name.
    #[error("there is no image `{name}` here, only {offered}; name one of these")]
    NoSuchName {
        /// What was asked for.
        name: String,
        /// What is there.
        offered: String,
    },
    /// Several images, and none was named.
    #[error("there are several images here: {0}; name one of them")]
    Several(String),
    /// Indexes within indexes.
    #[error("the index leads to an index {MAX_NESTING} times over; check the reference")]
    Nesting,
    /// A part is larger than the caller takes.
    #[error("`{what}` has {size} bytes, the limit is {max}; raise the limit if you trust the image")]
    TooLarge {
        /// What.
        what: String,
        /// Its size, bytes.
        size: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The disk.
    #[error("`{path}` cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

impl From<DocumentError> for SourceError {
    fn from(error: DocumentError) -> Self {
        Self::Image(error.into())
    }
}

impl Source {
    /// The image that `reference` names in its registry.
    ///
    /// # Errors
    /// The reference is in another registry than the client.
    #[cfg(feature = "registry")]
    pub fn registry(registry: Arc<Registry>, reference: &Reference) -> Result<Self, SourceError> {
        // Says so now, and not at the first request.
        registry.pull(reference)?;
        Ok(Self(Kind::Registry(registry, reference.clone())))
    }

    /// The image in an OCI layout, a directory. `name` is what its index calls it
    /// (`org.opencontainers.image.ref.name`); none where it has one image only.
    ///
    /// # Errors
    /// It is no directory with a layout.
    pub fn layout(dir: &Path, name: Option<&str>) -> Result<Self, SourceError> {
        Ok(Self(Kind::Local(Arc::new(Local::directory(dir, name)?))))
    }

    /// The image in an archive of `docker save` (or of other tools that write one): the classic form with `manifest.json`,
    /// or a layout in a tar, which is preferred where the archive has both. `name` as `docker images` shows it; none where it
    /// has one image only. Reads the archive through; the file must not change afterwards.
    ///
    /// # Errors
    /// It is no such archive.
    pub fn archive(file: &Path, name: Option<&str>) -> Result<Self, SourceError> {
        Ok(Self(Kind::Local(Arc::new(Local::archive(file, name)?))))
    }

    /// Finds the image for `platform`, and reads and verifies its manifest and config. Of a classic archive it also reads
    /// all layers, whose digests nobody else has taken. Blocks a little on disks; may be dropped at any await.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn resolve(&self, platform: &Platform) -> Result<Image, SourceError> {
        match &self.0 {
            #[cfg(feature = "registry")]
            Kind::Registry(registry, reference) => resolve_in(registry, reference, platform).await,
            Kind::Local(local) => {
                let (local, platform) = (Arc::clone(local), platform.clone());
                blocking(move || local.resolve(&platform)).await
            }
        }
    }
}

/// Work that blocks, off the event loop.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It cannot be cancelled once it runs, so it panicked; or the event loop ends, and so do we.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(feature = "registry")]
async fn resolve_in(
    registry: &Registry,
    reference: &Reference,
    platform: &Platform,
) -> Result<Image, SourceError> {
    let (mut bytes, mut media_type) = registry.document(reference).await?;
    for _ in 0..MAX_NESTING {
        match Document::decode(&bytes, Some(&media_type))? {
            Document::Image { config, .. } => {
                let config = registry.small_blob(reference, &config).await?;
                return Ok(Image::read(bytes, media_type, config)?.expect(platform)?);
            }
            Document::Index(manifests) => {
                let chosen = choose(&manifests, platform)?;
                (bytes, _) = registry.document(&reference.with_digest(chosen.digest)).await?;
                hold("manifest", &bytes, &chosen)?;
                media_type = chosen.media_type;
            }
        }
    }
    Err(SourceError::Nesting)
}

#[cfg(feature = "registry")]
impl Source {
    /// A blob of the source in the new file `to`, verified and synced.
    pub(crate) async fn save(&self, descriptor: &Descriptor, to: &Path) -> Result<Blob, SourceError> {
        let (wanted, path) = (descriptor.clone(), to.to_owned());
        if let Kind::Registry(registry, reference) = &self.0 {
            let mut pull = registry.pull(reference)?;
            return Ok(pull.blob(descriptor, to, &mut |_, _| {}).await?);
        }
        let source = self.clone();
        blocking(move || {
            let failed = |source| SourceError::Read {
                path: path.clone(),
                source,
            };
            let Some(opened) = source.open(&wanted) else {
                return Err(SourceError::Missing(wanted.digest.to_string()));
            };
            let mut meter = Meter::default();
            let mut file = File::create_new(&path).map_err(failed)?;
            let mut input = opened?.0.take(wanted.size.saturating_add(1));
            meter
                .read(&mut input, |piece| file.write_all(piece))
                .map_err(failed)?;
            file.sync_all().map_err(failed)?;
            let (found, found_size) = meter.end();
            if (found, found_size) == (wanted.digest, wanted.size) {
                return Ok(Blob::measured(path, found, found_size));
            }
            Err(SourceError::Image(ImageError::Digest {
                part: "layer",
                found,
                found_size,
                wanted: wanted.digest,
                wanted_size: wanted.size,
            }))
        })
        .await
    }
}

/// A blob as a stream, and its size.
pub(crate) type Opened = (Box<dyn Read + Send>, u64);

impl Source {
    /// A blob of a local source; none for a registry. Not verified.
    pub(crate) fn open(&self, descriptor: &Descriptor) -> Option<Result<Opened, SourceError>> {
        match &self.0 {
            #[cfg(feature = "registry")]
            Kind::Registry(..) => None,
            Kind::Local(local) => Some(local.open(descriptor)),
        }
    }
}
