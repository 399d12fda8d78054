//! Images on this machine's disk: the files of a layout, in a directory or in a tar, and those of the classic archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::archive::Archive;
use super::{MAX_NESTING, Opened, SourceError};
use crate::blob::Meter;
use crate::descriptor::{ContentDigest, Descriptor, MediaType};
use crate::file::FileError;
use crate::image::{CONFIG_TYPE, Document, Image, LAYER_TYPE, Listed, MAX_LAYERS, Platform, choose, hold};
use crate::manifest::Manifest;
use crate::unpack::EntryPath;
use crate::{MANIFEST_TYPE, MAX_MANIFEST_BYTES, Reference, layout, printable};

const INDEX: &str = "index.json";
const MARKER: &str = "oci-layout";
const CLASSIC: &str = "manifest.json";

/// Names that an error shows at most.
const SHOWN_NAMES: usize = 20;

/// What an index calls an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What Docker and containerd call it in full.
const FULL_NAME: &str = "io.containerd.image.name";

/// Files, and which image of them is meant.
#[derive(Debug)]
pub(crate) struct Local {
    files: Files,
    name: Option<String>,
    /// Where the layers of a classic archive lie, once it was resolved.
    classic: Mutex<BTreeMap<ContentDigest, EntryPath>>,
}

#[derive(Debug)]
enum Files {
    Directory(PathBuf),
    Archive(Archive),
}

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Local {
    pub(super) fn directory(dir: &Path, name: Option<&str>) -> Result<Self, SourceError> {
        let files = Files::Directory(dir.to_owned());
        let local = Self {
            files,
            name: name.map(str::to_owned),
            classic: Mutex::default(),
        };
        if local.find(INDEX)?.is_none() {
            return Err(SourceError::Unknown(dir.to_owned()));
        }
        layout::check_links(dir).map_err(|error| SourceError::Document(INDEX, error.to_string()))?;
        Ok(local)
    }

    pub(super) fn archive(path: &Path, name: Option<&str>) -> Result<Self, SourceError> {
        let files = Files::Archive(Archive::open(path)?);
        Ok(Self {
            files,
            name: name.map(str::to_owned),
            classic: Mutex::default(),
        })
    }

    pub(super) fn resolve(&self, platform: &Platform) -> Result<Image, SourceError> {
        let image = if let Some(index) = self.find(INDEX)? {
            let marker = self.find(MARKER)?;
            let marker = read(
                MARKER,
                marker.ok_or_else(|| SourceError::Missing(MARKER.to_owned()))?,
            )?;
            layout::check_marker(&marker)
                .map_err(|error| SourceError::Document(MARKER, error.to_string()))?;
            self.layout(&read(INDEX, index)?, platform)?
        } else if let Some(saved) = self.find(CLASSIC)? {
            self.classic(&read(CLASSIC, saved)?)?
        } else {
            return Err(SourceError::Unknown(self.path().to_owned()));
        };
        Ok(image.expect(platform)?)
    }

    fn path(&self) -> &Path {
        match &self.files {
            Files::Directory(dir) => dir,
            Files::Archive(archive) => archive.path(),
        }
    }

    /// A blob where it lies. Not verified, but of the size that it should have.
    pub(super) fn open(&self, descriptor: &Descriptor) -> Result<Opened, SourceError> {
        let classic = self
            .classic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&descriptor.digest)
            .cloned();
        let name = match classic {
            Some(path) => String::from(path),
            None => blob(descriptor.digest),
        };
        self.find(&name)?.ok_or(SourceError::Missing(name))
    }

    /// A file by its name; none where it is not there. The name is one of ours, or was parsed.
    fn find(&self, name: &str) -> Result<Option<Opened>, SourceError> {
        let dir = match &self.files {
            Files::Archive(archive) => {
                let path = EntryPath::try_from(name.to_owned());
                return Ok(path.ok().and_then(|path| archive.find(&path)));
            }
            Files::Directory(dir) => dir,
        };
        let path = dir.join(name);
        let failed = |source| SourceError::Read {
            path: path.clone(),
            source,
        };
        let about = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            about => about.map_err(failed)?,
        };
        if !about.is_file() {
            return Err(FileError::NotPlain(path).into());
        }
        Ok(Some((Box::new(File::open(&path).map_err(failed)?), about.len())))
    }

    fn layout(&self, index: &[u8], platform: &Platform) -> Result<Image, SourceError> {
        let Document::Index(listed) = Document::decode(index, None)? else {
            return Err(SourceError::Document(INDEX, "it is no index".to_owned()));
        };
        let mut next = choose(&self.named(listed)?, platform)?;
        for _ in 0..MAX_NESTING {
            let bytes = self.small("manifest", &next)?;
            match Document::decode(&bytes, Some(&next.media_type))? {
                Document::Image { config, .. } => {
                    let config = self.small("config", &config)?;
                    return Ok(Image::read(bytes, next.media_type, config)?);
                }
                Document::Index(manifests) => next = choose(&manifests, platform)?,
            }
        }
        Err(SourceError::Nesting)
    }

    /// The manifests of the image that is meant. A layout may say for which platforms they are, or only in their configs;
    /// then there can be but one.
    fn named(&self, listed: Vec<Listed>) -> Result<Vec<Listed>, SourceError> {
        let images: Vec<Listed> = listed
            .into_iter()
            .filter(|found| found.descriptor.artifact_type.is_none())
            .collect();
        let names_of = |found: &Listed| -> Vec<String> {
            let annotations = &found.descriptor.annotations;
            [FULL_NAME, REF_NAME]
                .iter()
                .filter_map(|key| annotations.get(*key).cloned())
                .collect()
        };
        let mut names: Vec<String> = images
            .iter()
            .flat_map(|found| names_of(found).into_iter().next())
            .collect();
        // One image may have many names.
        let mut seen = BTreeSet::new();
        let mut named_once = images.clone();
        named_once.retain(|found| seen.insert(found.descriptor.digest));
        names.dedup();
        match &self.name {
            Some(name) => {
                let meant = |found: &Listed| names_of(found).iter().any(|other| is_same(name, other));
                let found: Vec<Listed> = images.into_iter().filter(|found| meant(found)).collect();
                if found.is_empty() {
                    Err(no_such(name, &names))
                } else {
                    Ok(found)
                }
            }
            None if names.len() > 1 && named_once.len() > 1 => Err(SourceError::Several(shown(&names))),
            None => Ok(named_once),
        }
    }

    /// A document by its descriptor, verified.
    fn small(&self, part: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let bytes = read(part, self.open(descriptor)?)?;
        hold(part, &bytes, descriptor)?;
        Ok(bytes)
    }

    /// An image as `docker save` wrote it before it knew OCI. It has a config and layers, and no manifest.
    fn classic(&self, saved: &[u8]) -> Result<Image, SourceError> {
        let saved: Vec<Saved> = serde_json::from_slice(saved)
            .map_err(|error| SourceError::Document(CLASSIC, error.to_string()))?;
        let all: Vec<String> = saved
            .iter()
            .flat_map(|found| found.repo_tags.iter().flatten().cloned())
            .collect();
        let mut meant = saved.into_iter().filter(|found| match &self.name {
            Some(name) => found.repo_tags.iter().flatten().any(|other| is_same(name, other)),
            None => true,
        });
        let found = match (meant.next(), meant.next(), &self.name) {
            (Some(found), None, _) => found,
            (None, _, Some(name)) => return Err(no_such(name, &all)),
            (None, _, None) => return Err(SourceError::Document(CLASSIC, "it has no image".to_owned())),
            (Some(_), Some(_), _) => return Err(SourceError::Several(shown(&all))),
        };
        if found.layers.len() > MAX_LAYERS {
            return Err(SourceError::Document(
                CLASSIC,
                format!("it has {} layers", found.layers.len()),
            ));
        }
        let config = read("config", self.member(&found.config)?.1)?;
        check_config_name(&found.config, &config)?;
        let layers = found
            .layers
            .iter()
            .map(|name| self.measure(name))
            .collect::<Result<Vec<_>, _>>()?;
        let manifest = Manifest {
            artifact_type: None,
            config: Descriptor::new(
                known(CONFIG_TYPE)?,
                ContentDigest::of(&config),
                config.len() as u64,
            ),
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let bytes = manifest
            .encode()
            .map_err(|error| SourceError::Document(CLASSIC, error.to_string()))?;
        Ok(Image::read(bytes, known(MANIFEST_TYPE)?, config)?)
    }

    fn member(&self, name: &str) -> Result<(EntryPath, Opened), SourceError> {
        let missing = || SourceError::Missing(printable(name));
        let path = EntryPath::parse(name.as_bytes()).map_err(|_| missing())?;
        let opened = self.find(&String::from(path.clone()))?.ok_or_else(missing)?;
        Ok((path, opened))
    }

    /// Takes digest and size of a layer of a classic archive, and remembers where it lies.
    fn measure(&self, name: &str) -> Result<Descriptor, SourceError> {
        let (path, (mut input, _)) = self.member(name)?;
        let mut meter = Meter::default();
        meter
            .read(&mut input, |_| Ok(()))
            .map_err(|source| SourceError::Read {
                path: self.path().to_owned(),
                source,
            })?;
        let (digest, size) = meter.end();
        self.classic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, path);
        Ok(Descriptor::new(known(LAYER_TYPE)?, digest, size))
    }
}

/// The whole of a small file.
fn read(what: &'static str, (input, size): Opened) -> Result<Vec<u8>, SourceError> {
    let max = MAX_MANIFEST_BYTES as u64;
    let mut bytes = Vec::new();
    let failed = |source| SourceError::Read {
        path: PathBuf::from(what),
        source,
    };
    input
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(SourceError::TooLarge {
            what: what.to_owned(),
            size: size.max(bytes.len() as u64),
            max,
        });
    }
    Ok(bytes)
}

fn known(text: &str) -> Result<MediaType, SourceError> {
    text.parse()
        .map_err(|_| SourceError::Document(CLASSIC, "a media type of ours is none".to_owned()))
}

fn blob(digest: ContentDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The name of a config says its digest, as `HEX.json` or as a blob's path.
fn check_config_name(name: &str, config: &[u8]) -> Result<(), SourceError> {
    let hex = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".json");
    match format!("sha256:{hex}").parse::<ContentDigest>() {
        Ok(wanted) => Ok(hold(
            "config",
            config,
            &Descriptor::new(known(CONFIG_TYPE)?, wanted, config.len() as u64),
        )?),
        Err(_) => Ok(()),
    }
}

/// Whether two names mean one image: the same text, or the same in full.
fn is_same(wanted: &str, found: &str) -> bool {
    let full = |text: &str| Reference::familiar(text).ok();
    wanted == found || full(wanted).is_some_and(|wanted| full(found) == Some(wanted))
}

fn shown(names: &[String]) -> String {
    if names.is_empty() {
        return "images without names".to_owned();
    }
    names
        .iter()
        .take(SHOWN_NAMES)
        .map(|name| format!("`{}`", printable(name)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn no_such(name: &str, names: &[String]) -> SourceError {
    SourceError::NoSuchName {
        name: printable(name),
        offered: shown(names),
    }
}
