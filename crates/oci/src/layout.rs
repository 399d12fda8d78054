//! An OCI image layout on disk: `oci-layout`, `index.json`, `blobs/sha256/…`.
//!
//! Reading trusts nothing: files are plain, bounded and held to the digest and size that name them, and a name on disk
//! is only ever made of 64 hexadecimal digits. `index.json` itself is not covered by a digest (the format has none):
//! who must know *which* artifact this is compares its digest with one from elsewhere.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use oci_spec::image::OciLayout;
use serde::{Deserialize, Serialize};

use crate::blob::{Blob, BlobError, Meter};
use crate::descriptor::{ContentDigest, Descriptor};
use crate::file::{self, FileError};
use crate::{INDEX_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, printable};

const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";
const VERSION: &str = "1.0.0";

/// The content of `oci-layout`.
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Size of `oci-layout` at most, bytes.
const MAX_LAYOUT_BYTES: usize = 4096;

/// Why a layout cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The directory is taken.
    #[error("`{0}` is not empty; name a new or empty directory")]
    NotEmpty(PathBuf),
    /// The operating system refuses to write.
    #[error("`{path}` cannot be written")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// The file was written to meanwhile.
    #[error("`{0}` changed while it was read; try again when nothing writes to it")]
    Changed(PathBuf),
    /// A part is missing, no plain file, or too long.
    #[error("a part of the layout cannot be taken; write the layout again")]
    File(#[from] FileError),
    /// A symbolic link where a file or directory should be.
    #[error("`{0}` is a symbolic link, which may lead out of the layout; put the file itself there")]
    Link(PathBuf),
    /// A blob cannot be taken.
    #[error("a blob of the layout cannot be taken; write the layout again")]
    Blob(#[from] BlobError),
    /// `oci-layout` is not what it should be.
    #[error("`{LAYOUT}` is not the marker of a layout of version {VERSION}: {0}; write the layout again")]
    Marker(String),
    /// `index.json` cannot be read.
    #[error("`{INDEX}` cannot be read: {0}; write the layout again")]
    Index(String),
    /// No artifact of the type, or more than one.
    #[error(
        "`{INDEX}` names {found} artifacts of type `{wanted}` instead of one; copy the wanted one into a layout of its own"
    )]
    Count {
        /// How many.
        found: usize,
        /// The type.
        wanted: String,
    },
    /// A blob is not what names it.
    #[error(
        "the {part} is not the one that is named: {found} of {found_size} bytes instead of {wanted} of {wanted_size}; write the layout again"
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
    /// A blob is longer than the caller takes.
    #[error("the blob has {size} bytes, the limit is {max}; raise the limit if it is yours")]
    TooLarge {
        /// Its size, bytes.
        size: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// Cannot happen: an index is made of texts and numbers.
    #[error("the index of the layout cannot be written")]
    Json(#[source] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u64,
    media_type: Option<String>,
    manifests: Vec<serde_json::Value>,
}

/// What a layout is written of: a manifest and all that it names.
#[derive(Debug, Clone)]
pub struct Content<'a> {
    /// What the index says of the manifest.
    pub entry: Descriptor,
    /// The bytes of the manifest.
    pub manifest: &'a [u8],
    /// Contents that lie in memory, such as its config.
    pub small: &'a [&'a [u8]],
    /// The content that lies in a file.
    pub blob: &'a Blob,
}

/// Writes one artifact as a layout to `dir`, which is new or empty. All or nothing: the directory appears complete and
/// synced.
///
/// # Errors
/// See [`LayoutError`].
pub fn write(content: &Content<'_>, dir: &Path) -> Result<(), LayoutError> {
    let stage = begin(dir)?;
    fill(content, stage.path())?;
    end(stage, &content.entry, dir)
}

/// A directory beside `dir`, which must be new or empty, to write a layout in.
pub(crate) fn begin(dir: &Path) -> Result<tempfile::TempDir, LayoutError> {
    let failed = |path: &Path, source| LayoutError::Write {
        path: path.to_owned(),
        source,
    };
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(LayoutError::NotEmpty(dir.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(dir, error)),
        _ => {}
    }
    let parent = parent(dir);
    let stage = tempfile::Builder::new()
        .prefix(".layout-")
        .tempdir_in(parent)
        .map_err(|error| failed(parent, error))?;
    let blobs = blobs(stage.path());
    fs::create_dir_all(&blobs).map_err(|error| failed(&blobs, error))?;
    Ok(stage)
}

fn parent(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes what makes the blobs in `stage` a layout, and puts it into its place.
pub(crate) fn end(stage: tempfile::TempDir, entry: &Descriptor, dir: &Path) -> Result<(), LayoutError> {
    let failed = |path: &Path, source| LayoutError::Write {
        path: path.to_owned(),
        source,
    };
    put(&stage.path().join(LAYOUT), MARKER.as_bytes())?;
    let index = Index {
        schema_version: 2,
        media_type: Some(INDEX_TYPE.to_owned()),
        manifests: vec![serde_json::to_value(entry).map_err(LayoutError::Json)?],
    };
    put(&stage.path().join(INDEX), &json(&index)?)?;
    let parent = parent(dir);
    // Replaces an empty directory, and fails where something was put into it meanwhile.
    fs::rename(stage.path(), dir).map_err(|error| failed(dir, error))?;
    // Nothing is left for it to remove.
    let _ = stage.keep();
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|error| failed(parent, error))
}

fn fill(content: &Content<'_>, stage: &Path) -> Result<(), LayoutError> {
    copy(content.blob, &blob(stage, content.blob.digest()))?;
    for bytes in content.small {
        put(&blob(stage, ContentDigest::of(bytes)), bytes)?;
    }
    put(&blob(stage, content.entry.digest), content.manifest)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, LayoutError> {
    serde_json::to_vec(value).map_err(LayoutError::Json)
}

pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| LayoutError::Write {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn copy(blob: &Blob, to: &Path) -> Result<(), LayoutError> {
    let from = File::open(blob.path()).map_err(|source| BlobError::Read {
        path: blob.path().to_owned(),
        source,
    })?;
    let mut meter = Meter::default();
    let write = || {
        let mut file = File::create_new(to)?;
        // One byte more than measured: enough to see that the file grew.
        let mut from = io::Read::take(from, blob.size().saturating_add(1));
        meter.read(&mut from, |piece| file.write_all(piece))?;
        file.sync_all()?;
        Ok(meter.end())
    };
    let found = write().map_err(|source| LayoutError::Write {
        path: to.to_owned(),
        source,
    })?;
    if found == (blob.digest(), blob.size()) {
        Ok(())
    } else {
        Err(LayoutError::Changed(blob.path().to_owned()))
    }
}

/// A layout to read from. Nothing is trusted: each part is held to the digest and size that name it.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
    named: (ContentDigest, u64),
}

impl Layout {
    /// Opens the layout in `dir`, and finds in it the one artifact of a type. Other artifacts beside it are passed
    /// over, if the index says what they are.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn open(dir: &Path, artifact_type: &str) -> Result<Self, LayoutError> {
        check_marker(&part(dir, LAYOUT, MAX_LAYOUT_BYTES)?)?;
        let named = one_of(&part(dir, INDEX, MAX_MANIFEST_BYTES)?, artifact_type)?;
        check_links(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            named,
        })
    }

    /// The bytes of the artifact's manifest.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn manifest(&self) -> Result<Vec<u8>, LayoutError> {
        small(&self.dir, "manifest", &self.named)
    }

    /// A blob that fits into memory: at most [`MAX_MANIFEST_BYTES`]. `what` names it in errors.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn bytes(
        &self,
        what: &'static str,
        digest: ContentDigest,
        size: u64,
    ) -> Result<Vec<u8>, LayoutError> {
        small(&self.dir, what, &(digest, size))
    }

    /// A blob of at most `max_bytes` where it lies, in the layout. `what` names it in errors.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn blob(
        &self,
        what: &'static str,
        descriptor: &Descriptor,
        max_bytes: u64,
    ) -> Result<Blob, LayoutError> {
        let (digest, size) = (descriptor.digest, descriptor.size);
        if size > max_bytes {
            return Err(LayoutError::TooLarge { size, max: max_bytes });
        }
        let path = blob(&self.dir, digest);
        no_link(&path)?;
        let found = Blob::measure(&path, max_bytes)?;
        hold(what, (found.digest(), found.size()), (digest, size))?;
        Ok(found)
    }
}

/// That the way to the blobs does not lead out.
pub(crate) fn check_links(dir: &Path) -> Result<(), LayoutError> {
    no_link(&dir.join("blobs"))?;
    no_link(&blobs(dir))
}

pub(crate) fn check_marker(bytes: &[u8]) -> Result<(), LayoutError> {
    let marker: OciLayout =
        serde_json::from_slice(bytes).map_err(|error| LayoutError::Marker(error.to_string()))?;
    if marker.image_layout_version() == VERSION {
        return Ok(());
    }
    Err(LayoutError::Marker(format!(
        "its version is `{}`",
        printable(marker.image_layout_version())
    )))
}

/// The one artifact of a type that an index names: digest and size of its manifest.
fn one_of(bytes: &[u8], artifact_type: &str) -> Result<(ContentDigest, u64), LayoutError> {
    let index: Index =
        serde_json::from_slice(bytes).map_err(|error| LayoutError::Index(error.to_string()))?;
    if index.schema_version != 2 || !matches!(index.media_type.as_deref(), None | Some(INDEX_TYPE)) {
        return Err(LayoutError::Index("it is of another kind or version".to_owned()));
    }
    // Some tools leave the artifact's type out of the index. A lone manifest is then the one to look into.
    let lone = index.manifests.len() == 1;
    let wanted = |entry: &serde_json::Value| match entry.get("artifactType") {
        Some(kind) => kind.as_str() == Some(artifact_type),
        None => lone,
    };
    let found: Vec<Descriptor> = index
        .manifests
        .into_iter()
        .filter(wanted)
        .map(serde_json::from_value)
        .collect::<Result<_, _>>()
        .map_err(|error| LayoutError::Index(error.to_string()))?;
    match found.as_slice() {
        [one] if one.media_type.as_str() == MANIFEST_TYPE => Ok((one.digest, one.size)),
        [one] => Err(LayoutError::Index(format!("it names a `{}`", one.media_type))),
        others => Err(LayoutError::Count {
            found: others.len(),
            wanted: artifact_type.to_owned(),
        }),
    }
}

fn blobs(dir: &Path) -> PathBuf {
    dir.join("blobs").join("sha256")
}

pub(crate) fn blob(dir: &Path, digest: ContentDigest) -> PathBuf {
    blobs(dir).join(digest.hex())
}

fn no_link(path: &Path) -> Result<(), LayoutError> {
    // A missing file is reported by whoever reads it.
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(LayoutError::Link(path.to_owned())),
        _ => Ok(()),
    }
}

fn part(dir: &Path, name: &str, max: usize) -> Result<Vec<u8>, LayoutError> {
    let path = dir.join(name);
    no_link(&path)?;
    Ok(file::bytes(&path, max)?)
}

/// A blob that fits into memory, held to what names it.
fn small(dir: &Path, part: &'static str, wanted: &(ContentDigest, u64)) -> Result<Vec<u8>, LayoutError> {
    let path = blob(dir, wanted.0);
    no_link(&path)?;
    let bytes = file::bytes(&path, MAX_MANIFEST_BYTES)?;
    hold(part, (ContentDigest::of(&bytes), bytes.len() as u64), *wanted)?;
    Ok(bytes)
}

fn hold(
    part: &'static str,
    found: (ContentDigest, u64),
    wanted: (ContentDigest, u64),
) -> Result<(), LayoutError> {
    if found == wanted {
        return Ok(());
    }
    Err(LayoutError::Digest {
        part,
        found: found.0,
        found_size: found.1,
        wanted: wanted.0,
        wanted_size: wanted.1,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_markers_and_indexes_never_panic(bytes: Vec<u8>) {
            let _ = check_marker(&bytes);
            let _ = one_of(&bytes, MANIFEST_TYPE);
        }
    }
}
