//! The host's own registry: what is pushed to an app, on disk. `api/registry.rs` is its face.
//!
//! ```text
//! blobs/HEX                          contents, by digest
//! repos/ORG/NAME/manifests/HEX       media type of a manifest that the repository has; NAME is a path with `,` for `/`
//! repos/ORG/NAME/blobs/HEX           empty: a blob that it has
//! repos/ORG/NAME/tags/TAG            digest of the manifest
//! uploads/ORG,NAME,ID                what came of an upload
//! pulls/…                            layouts that machines are made from, for a moment
//! ```
//!
//! A repository has what was pushed to it, or mounted from another of its org: that the content lies here for somebody else
//! opens nothing. What is referred to is found by looking. All functions block on the disk.

mod gc;
mod upload;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use suijuris_oci::{ContentDigest, INDEX_TYPE, MAX_MANIFEST_BYTES};

pub(crate) use gc::AGES;
pub(crate) use upload::{Upload, Uploads};

/// Repositories of an app at most.
const MAX_REPOSITORIES: usize = 1_000;
/// Tags of a repository at most, and manifests.
const MAX_NAMES: usize = 10_000;
/// Indexes within indexes at most.
const MAX_NESTING: usize = 4;

/// A repository: its org, and its name, of which the first part is an app of that org.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Repo {
    pub(crate) org: String,
    pub(crate) name: String,
}

impl Repo {
    /// The app that it belongs to.
    pub(crate) fn app(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    fn file_name(&self) -> String {
        self.name.replace('/', ",")
    }
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    #[error("{0}")]
    Invalid(String),
    #[error("`{0}` is not in this repository")]
    Unknown(String),
    #[error("the manifest names {0}, which is not in this repository; push it first")]
    Missing(ContentDigest),
    #[error("what came has the digest {found}, not {wanted}; send it again")]
    Digest {
        found: ContentDigest,
        wanted: ContentDigest,
    },
    #[error("{0}")]
    TooMuch(String),
    #[error("the registry's disk cannot be used")]
    Disk(#[from] io::Error),
}

/// What is pushed.
#[derive(Debug)]
pub(crate) struct Shelf {
    directory: PathBuf,
    /// Taken by whoever writes names, and by the collection, which looks at all of them.
    naming: std::sync::Mutex<()>,
}

fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Writes a file whole, or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // No tag and no digest begins with a dot.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}"));
    let mut file = fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(fresh, path)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// What a manifest refers to: parts that are blobs, and manifests.
fn parts(manifest: &Value) -> Result<(Vec<ContentDigest>, Vec<ContentDigest>), ShelfError> {
    let digest = |descriptor: &Value| {
        let digest = descriptor
            .get("digest")
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok());
        digest.ok_or_else(|| {
            ShelfError::Invalid("a descriptor of the manifest has no sha256 digest".to_owned())
        })
    };
    let list = |name: &str| manifest.get(name).and_then(Value::as_array).into_iter().flatten();
    let blobs = manifest
        .get("config")
        .into_iter()
        .chain(list("layers"))
        .chain(list("blobs"))
        .map(digest);
    let manifests = list("manifests").map(digest);
    Ok((
        blobs.collect::<Result<_, _>>()?,
        manifests.collect::<Result<_, _>>()?,
    ))
}

impl Shelf {
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        for part in ["blobs", "repos", "uploads"] {
            make(&directory.join(part))?;
        }
        // What a daemon that died was at.
        let _ = fs::remove_dir_all(directory.join("pulls"));
        Ok(Self {
            directory,
            naming: std::sync::Mutex::default(),
        })
    }

    fn repo(&self, repo: &Repo) -> PathBuf {
        self.directory
            .join("repos")
            .join(&repo.org)
            .join(repo.file_name())
    }

    fn content(&self, digest: ContentDigest) -> PathBuf {
        self.directory.join("blobs").join(digest.hex())
    }

    /// The repositories of an org, by name.
    pub(crate) fn repositories(&self, org: &str) -> Vec<String> {
        let names = names(&self.directory.join("repos").join(org));
        names.into_iter().map(|name| name.replace(',', "/")).collect()
    }

    /// A blob of a repository.
    pub(crate) fn blob(&self, repo: &Repo, digest: ContentDigest) -> Result<PathBuf, ShelfError> {
        let has = self.repo(repo).join("blobs").join(digest.hex()).exists();
        has.then(|| self.content(digest))
            .ok_or_else(|| ShelfError::Unknown(digest.to_string()))
    }

    /// A repository has a blob from now on whose content is here.
    fn keep_blob(&self, repo: &Repo, digest: ContentDigest) -> Result<(), ShelfError> {
        let directory = self.repo(repo);
        if !directory.exists() {
            let of_app = self.repositories(&repo.org);
            let of_app = of_app
                .iter()
                .filter(|name| name.split('/').next() == Some(repo.app()));
            if of_app.count() >= MAX_REPOSITORIES {
                return Err(ShelfError::TooMuch(format!(
                    "an app has at most {MAX_REPOSITORIES} repositories"
                )));
            }
        }
        for part in ["blobs", "manifests", "tags"] {
            make(&directory.join(part))?;
        }
        Ok(write(&directory.join("blobs").join(digest.hex()), b"")?)
    }

    /// A blob of one repository becomes one of another of the same org; whether the first has it.
    pub(crate) fn mount(&self, repo: &Repo, from: &Repo, digest: ContentDigest) -> Result<bool, ShelfError> {
        let _naming = self
            .naming
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if repo.org != from.org || self.blob(from, digest).is_err() {
            return Ok(false);
        }
        self.keep_blob(repo, digest)?;
        Ok(true)
    }

    /// What a tag or digest of a repository means.
    pub(crate) fn find(&self, repo: &Repo, reference: &str) -> Result<ContentDigest, ShelfError> {
        let unknown = || ShelfError::Unknown(suijuris_oci::printable(reference));
        if reference.contains(':') {
            return reference.parse().map_err(|_| unknown());
        }
        let tag: suijuris_oci::Tag = reference.parse().map_err(|_| unknown())?;
        let digest = fs::read_to_string(self.repo(repo).join("tags").join(tag.to_string()));
        digest
            .ok()
            .and_then(|digest| digest.parse().ok())
            .ok_or_else(unknown)
    }

    /// A manifest of a repository: its media type and its bytes.
    pub(crate) fn manifest(
        &self,
        repo: &Repo,
        digest: ContentDigest,
    ) -> Result<(String, Vec<u8>), ShelfError> {
        let unknown = |_| ShelfError::Unknown(digest.to_string());
        let media_type =
            fs::read_to_string(self.repo(repo).join("manifests").join(digest.hex())).map_err(unknown)?;
        Ok((media_type, fs::read(self.content(digest)).map_err(unknown)?))
    }

    /// Takes a manifest, under a tag or its digest; all that it refers to must be there. Gives its digest, and its subject's.
    pub(crate) fn put(
        &self,
        repo: &Repo,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(ContentDigest, Option<String>), ShelfError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ShelfError::TooMuch(format!(
                "a manifest has at most {MAX_MANIFEST_BYTES} bytes"
            )));
        }
        let invalid =
            |error: serde_json::Error| ShelfError::Invalid(format!("the manifest is no JSON: {error}"));
        let manifest: Value = serde_json::from_slice(bytes).map_err(invalid)?;
        if !manifest.is_object() || media_type.is_empty() || media_type.len() > 255 {
            return Err(ShelfError::Invalid(
                "a manifest is a JSON object with a Content-Type".to_owned(),
            ));
        }
        let digest = ContentDigest::of(bytes);
        let _naming = self
            .naming
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (blobs, manifests) = parts(&manifest)?;
        let missing = blobs.into_iter().find(|blob| self.blob(repo, *blob).is_err());
        let has = |digest: &ContentDigest| self.repo(repo).join("manifests").join(digest.hex()).exists();
        if let Some(missing) = missing.or_else(|| manifests.into_iter().find(|manifest| !has(manifest))) {
            return Err(ShelfError::Missing(missing));
        }
        let tag = self.tag_of(repo, reference, digest)?;
        if !self.content(digest).exists() {
            write(&self.content(digest), bytes)?;
        }
        let directory = self.repo(repo);
        for part in ["blobs", "manifests", "tags"] {
            make(&directory.join(part))?;
        }
        write(
            &directory.join("manifests").join(digest.hex()),
            media_type.as_bytes(),
        )?;
        if let Some(tag) = tag {
            write(&directory.join("tags").join(tag), digest.to_string().as_bytes())?;
        }
        let subject = manifest.pointer("/subject/digest").and_then(Value::as_str);
        Ok((digest, subject.map(str::to_owned)))
    }

    /// The tag that `reference` is, unless it is the digest of what came.
    fn tag_of(
        &self,
        repo: &Repo,
        reference: &str,
        digest: ContentDigest,
    ) -> Result<Option<String>, ShelfError> {
        for (part, what) in [("tags", "tags"), ("manifests", "manifests")] {
            if names(&self.repo(repo).join(part)).len() >= MAX_NAMES {
                return Err(ShelfError::TooMuch(format!(
                    "a repository has at most {MAX_NAMES} {what}; delete some"
                )));
            }
        }
        if reference.contains(':') {
            let wanted: ContentDigest = reference
                .parse()
                .map_err(|_| ShelfError::Invalid("the digest is sha256:HEX".to_owned()))?;
            return if wanted == digest {
                Ok(None)
            } else {
                Err(ShelfError::Digest {
                    found: digest,
                    wanted,
                })
            };
        }
        let tag: Result<suijuris_oci::Tag, _> = reference.parse();
        tag.map(|tag| Some(tag.to_string()))
            .map_err(|error| ShelfError::Invalid(error.to_string()))
    }

    /// Removes a tag, or a manifest with all its tags.
    pub(crate) fn remove(&self, repo: &Repo, reference: &str) -> Result<(), ShelfError> {
        let _naming = self
            .naming
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let digest = self.find(repo, reference)?;
        let directory = self.repo(repo);
        if !reference.contains(':') {
            return Ok(fs::remove_file(directory.join("tags").join(reference))?);
        }
        self.manifest(repo, digest)?;
        for tag in self.tags(repo) {
            if self.find(repo, &tag).is_ok_and(|named| named == digest) {
                fs::remove_file(directory.join("tags").join(tag))?;
            }
        }
        Ok(fs::remove_file(directory.join("manifests").join(digest.hex()))?)
    }

    /// The tags of a repository, in order.
    pub(crate) fn tags(&self, repo: &Repo) -> Vec<String> {
        names(&self.repo(repo).join("tags"))
    }

    /// Whether anything was pushed to it.
    pub(crate) fn has(&self, repo: &Repo) -> bool {
        self.repo(repo).exists()
    }

    /// The manifests that have `subject` as theirs, as an index lists them.
    pub(crate) fn referrers(
        &self,
        repo: &Repo,
        subject: ContentDigest,
        artifact_type: Option<&str>,
    ) -> Vec<Value> {
        let listed = names(&self.repo(repo).join("manifests"));
        let row = |hex: String| {
            let digest: ContentDigest = format!("sha256:{hex}").parse().ok()?;
            let (media_type, bytes) = self.manifest(repo, digest).ok()?;
            let manifest: Value = serde_json::from_slice(&bytes).ok()?;
            let of = manifest.pointer("/subject/digest")?.as_str()?;
            let kind = manifest
                .get("artifactType")
                .or_else(|| manifest.pointer("/config/mediaType"));
            let wanted = artifact_type.is_none_or(|wanted| kind.and_then(Value::as_str) == Some(wanted));
            (of == subject.to_string() && wanted).then(|| {
                json!({
                    "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len(), "artifactType": kind,
                    "annotations": manifest.get("annotations"),
                })
            })
        };
        listed.into_iter().filter_map(row).collect()
    }

    /// A layout with one image and all that it refers to, for a moment; contents are linked.
    pub(crate) fn layout(&self, repo: &Repo, reference: &str) -> Result<Layout, ShelfError> {
        let digest = self.find(repo, reference)?;
        let layout = Layout::new(&self.directory.join("pulls"))?;
        let (media_type, bytes) = self.manifest(repo, digest)?;
        self.link(repo, digest, layout.path(), 0)?;
        let manifest = json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest]});
        fs::write(
            layout.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        fs::write(layout.path().join("index.json"), index.to_string())?;
        Ok(layout)
    }

    fn link(&self, repo: &Repo, digest: ContentDigest, into: &Path, depth: usize) -> Result<(), ShelfError> {
        let place = |digest: ContentDigest| into.join("blobs/sha256").join(digest.hex());
        let put = |digest: ContentDigest| match fs::hard_link(self.content(digest), place(digest)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(ShelfError::Disk(error)),
            _ => Ok(()),
        };
        let (_, bytes) = self.manifest(repo, digest)?;
        put(digest)?;
        let manifest = serde_json::from_slice(&bytes).unwrap_or_default();
        let (blobs, manifests) = parts(&manifest)?;
        for blob in blobs {
            self.blob(repo, blob)?;
            put(blob)?;
        }
        if depth >= MAX_NESTING {
            return Err(ShelfError::Invalid(
                "indexes lie within indexes too deep".to_owned(),
            ));
        }
        manifests
            .into_iter()
            .try_for_each(|inner| self.link(repo, inner, into, depth + 1))
    }
}

/// A layout that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    fn new(parent: &Path) -> io::Result<Self> {
        let name = crate::ids::random::<16>().map_err(io::Error::other)?;
        let path = parent.join(crate::ids::hex(&name));
        make(&path.join("blobs/sha256"))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // What stays goes when the daemon starts.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
