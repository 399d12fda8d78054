//! Images on this machine: each layer unpacked once, named by the digest of its archive; images refer to layers.
//!
//! ```text
//! version                 what this directory is
//! lock                    shared: a holder registers, a name is written; alone: what nobody needs is taken away
//! images/SHA256-OF-NAME   name and manifest of an image
//! blobs/HEX               manifests and configs
//! layers/HEX/             by diff id: tree/ (the files), entries (what the layer says of them), layer.json (what was done)
//! holds/…                 an image in use; locked as long as it is
//! partial/HEX             a blob that is being fetched, or whose fetch broke off; locked by whoever fetches
//! stage/…, stage/….lock   a layer that is being unpacked; locked likewise
//! trash/…, trash-lock     what is being removed, by one at a time
//! ```
//!
//! What is referred to is found by looking: there is no counter that could be wrong. A layer appears by one rename, after
//! its files are on disk, so that one which is there is whole. Any number of processes may use a store at once; locks are
//! those of files, which end with their process. The directory is closed to others (mode 0700): as root it holds
//! set-user files.

#[cfg(feature = "registry")]
mod fetch;
mod files;
mod gc;
mod hold;
mod pull;
mod root;
mod unpacked;

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use gc::Collected;
pub use hold::Hold;
pub use pull::{Event, Observer, Unobserved};
pub use root::{Copied, How, LayerDir, Merged, Root};
pub use unpacked::{Account, NoSuchAccount, Unpacked};

use crate::descriptor::{ContentDigest, Descriptor};
use crate::file::FileError;
use crate::image::{Image, ImageError, hold as hold_to};
use crate::source::SourceError;
use crate::unpack::{EntryPath, Limits, TreeError, UnpackError, is_root};
use crate::{MAX_MANIFEST_BYTES, file, printable};

/// Content of `version`.
const VERSION: &[u8] = b"suijuris image store 1\n";

/// Length of an image's name at most, bytes.
const MAX_NAME_BYTES: usize = 512;

const DIRECTORIES: [&str; 7] = ["images", "blobs", "layers", "holds", "partial", "stage", "trash"];

/// How a store works.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// How large a layer may become.
    pub limits: Limits,
    /// Layers of one pull at a time.
    pub parallel: usize,
    /// Bytes kept of pulls that broke off, besides those that go on; the oldest go first.
    pub partial_bytes: u64,
    /// Files get owners, devices and special bits: see [`crate::unpack`].
    pub as_root: bool,
}

impl Default for StoreOptions {
    /// Three layers at a time, 8 GiB of partial files, owners where this process is root.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            parallel: 3,
            partial_bytes: 8 << 30,
            as_root: is_root(),
        }
    }
}

/// A store of images. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    options: StoreOptions,
}

/// An image in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its manifest.
    pub manifest: Descriptor,
}

/// Why a store cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk.
    #[error("`{path}` of the image store cannot be used")]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// Another directory.
    #[error("`{0}` is neither empty nor an image store of this version; name another directory")]
    NotAStore(PathBuf),
    /// A name that is none.
    #[error("`{0}` cannot be an image's name; write 1 to {MAX_NAME_BYTES} bytes without control characters")]
    Name(String),
    /// No image of that name.
    #[error("there is no image `{0}` in the store; pull it first")]
    NoSuchImage(String),
    /// A file of the store.
    #[error("a file of the image store cannot be taken; remove the image and pull it again")]
    File(#[from] FileError),
    /// What the store has of an image is no longer that.
    #[error("the image is damaged in the store; remove it and pull it again")]
    Image(#[from] ImageError),
    /// The record of an image or layer.
    #[error(
        "`{path}` of the image store is damaged: {why}; remove the image, collect garbage and pull it again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A layer was never there, or was removed with the last image that had it.
    #[error("the layer {0} is not in the store; pull the image again")]
    NoLayer(ContentDigest),
    /// Where the image comes from.
    #[error("the image cannot be pulled")]
    Source(#[from] SourceError),
    /// A layer.
    #[error("the layer {digest} cannot be unpacked")]
    Unpack {
        /// The blob.
        digest: ContentDigest,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The observer ended it.
    #[error("the pull was ended on request")]
    Cancelled,
    /// The directory to copy to.
    #[error("`{0}` is not empty; name a new or empty directory")]
    NotEmpty(PathBuf),
    /// A file to copy.
    #[error("`{path}` of the image cannot be copied")]
    Copy {
        /// Its path in the image.
        path: EntryPath,
        /// Why.
        #[source]
        source: TreeError,
    },
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| StoreError::Disk {
        path: path.to_owned(),
        source,
    }
}

impl ImageStore {
    /// Opens the store in `dir`; a directory that is new or empty becomes one.
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::NotAStore`].
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let mut closed = std::fs::DirBuilder::new();
        closed
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(disk(dir))?;
        let store = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            options,
        }));
        let version = store.at("version");
        match file::bytes(&version, VERSION.len()) {
            Ok(found) if found == VERSION => {}
            Ok(_) | Err(FileError::TooLong { .. } | FileError::NotPlain(_)) => {
                return Err(StoreError::NotAStore(dir.to_owned()));
            }
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                store.create()?;
            }
            Err(error) => return Err(error.into()),
        }
        for name in DIRECTORIES {
            closed.create(store.at(name)).map_err(disk(&store.at(name)))?;
        }
        Ok(store)
    }

    /// Makes an empty directory a store. Two may do it at once.
    fn create(&self) -> Result<(), StoreError> {
        let ours = |name: &std::ffi::OsStr| {
            name == "lock" || name == "version" || name.as_encoded_bytes().starts_with(b".tmp-")
        };
        for found in std::fs::read_dir(&self.0.dir).map_err(disk(&self.0.dir))? {
            if !ours(&found.map_err(disk(&self.0.dir))?.file_name()) {
                // The other one may have come further in the meantime.
                return match file::bytes(&self.at("version"), VERSION.len()) {
                    Ok(found) if found == VERSION => Ok(()),
                    _ => Err(StoreError::NotAStore(self.0.dir.clone())),
                };
            }
        }
        let _alone = self.lock_alone()?;
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&self.0.dir, closed).map_err(disk(&self.0.dir))?;
        files::write(&self.0.dir, &self.at("version"), VERSION)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.dir.join(name)
    }

    fn layer_dir(&self, diff_id: ContentDigest) -> PathBuf {
        self.at("layers").join(diff_id.hex())
    }

    fn blob_path(&self, digest: ContentDigest) -> PathBuf {
        self.at("blobs").join(digest.hex())
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.at("images").join(ContentDigest::of(name.as_bytes()).hex())
    }

    /// All images, by name.
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::Damaged`].
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let mut all = Vec::new();
        for path in files::list(&self.at("images"))? {
            // One that was removed meanwhile is none.
            all.extend(self.read_name(&path)?);
        }
        all.sort_by(|one: &Listed, other| one.name.cmp(&other.name));
        Ok(all)
    }

    fn read_name(&self, path: &Path) -> Result<Option<Listed>, StoreError> {
        let damaged = |why: String| StoreError::Damaged {
            path: path.to_owned(),
            why,
        };
        let bytes = match file::bytes(path, MAX_MANIFEST_BYTES) {
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            bytes => bytes?,
        };
        let found: Listed = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if self.name_path(&found.name) == *path {
            Ok(Some(found))
        } else {
            Err(damaged("it is the record of another name".to_owned()))
        }
    }

    /// The image of a name, held: its layers stay until the hold ends.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`], and what [`ImageStore::hold`] says.
    pub fn image(&self, name: &str) -> Result<Hold, StoreError> {
        check_name(name)?;
        let found = self.read_name(&self.name_path(name))?;
        let found = found.ok_or_else(|| StoreError::NoSuchImage(printable(name)))?;
        let image = self.read_image(&found.manifest)?;
        self.hold(image)
    }

    /// An image by its manifest, verified.
    fn read_image(&self, manifest: &Descriptor) -> Result<Image, StoreError> {
        let bytes = file::bytes(&self.blob_path(manifest.digest), MAX_MANIFEST_BYTES)?;
        hold_to("manifest", &bytes, manifest)?;
        let config = crate::image::config_of(&bytes, &manifest.media_type)?;
        let config = file::bytes(&self.blob_path(config.digest), MAX_MANIFEST_BYTES)?;
        Ok(Image::read(bytes, manifest.media_type.clone(), config)?)
    }

    /// Forgets a name; false where there was none. Layers go with the next [`ImageStore::gc`], if nothing else has them.
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::Name`].
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        check_name(name)?;
        let path = self.name_path(name);
        let _shared = self.lock_shared()?;
        match std::fs::remove_file(&path) {
            Ok(()) => files::sync_dir(&self.at("images")).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk(&path)(error)),
        }
    }

    /// Writes a name for an image whose layers are there and held.
    fn name(&self, name: &str, image: &Image) -> Result<(), StoreError> {
        let path = self.name_path(name);
        let listed = Listed {
            name: name.to_owned(),
            manifest: image.descriptor().clone(),
        };
        let bytes = files::json(&path, &listed)?;
        let _shared = self.lock_shared()?;
        files::write(&self.0.dir, &path, &bytes)
    }
}

fn check_name(name: &str) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(StoreError::Name(printable(name)));
    }
    Ok(())
}
