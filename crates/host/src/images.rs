//! What machines are made from: images of registries, of layouts below directories that the operator named, of the host's own
//! registry; all in one store below the data directory, by digest.
//!
//! Whoever names an image is a tenant: nothing is pulled from this machine or its own link unless the operator named that registry,
//! nobody's credentials are used, and a name is looked up each time, so that a digest alone opens no image that another org pulled.

mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use suijuris_oci::ContentDigest;
use suijuris_oci::image::{ImageConfig, Platform};
use suijuris_oci::source::{Source, SourceError};
use suijuris_oci::store::{Hold, ImageStore, NoSuchAccount, StoreError, StoreOptions, Unobserved};
use suijuris_oci::{Reference, Registry, RegistryError};

use crate::machine::ImageRef;
use crate::registry::{Layout, Repo, Shelf, ShelfError};
use crate::signals;
use place::Place;

/// Bytes of a layer's blob at most.
const MAX_BLOB_BYTES: u64 = 8 << 30;
/// How long a pull may take as a whole.
const PULL_LIMIT: Duration = Duration::from_secs(600);
/// How long an image is kept that was fetched and that no machine has yet.
const UNUSED: Duration = Duration::from_secs(600);

/// What the operator allows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed {
    /// Whether `host:` is an image: the host's own files, for tests.
    pub(crate) host_programs: bool,
    /// Directories below which layouts may be named.
    pub(crate) oci_roots: Vec<PathBuf>,
    /// Registries that may be this machine itself.
    pub(crate) registries: Vec<String>,
    /// Names of the host's own registry.
    pub(crate) own: Vec<String>,
}

/// Where images come from.
#[derive(Debug)]
pub(crate) struct Images {
    allowed: Allowed,
    store: ImageStore,
    /// What was pushed to this host.
    pub(crate) shelf: Shelf,
    /// Whether overlayfs can be mounted for machines; else each has a copy.
    pub(crate) overlay: bool,
    /// When images were fetched last: they may not be recorded with a machine yet.
    fetched: Mutex<BTreeMap<ContentDigest, Instant>>,
}

/// Why there is no image, with what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("failed to get manifest {0}: {1}")]
    Name(String, String),
    #[error("failed to get manifest {0}")]
    Source(String, #[source] SourceError),
    #[error("failed to get manifest {0}")]
    Registry(String, #[source] Box<RegistryError>),
    #[error("failed to pull image {0}")]
    Pull(String, #[source] StoreError),
    #[error("failed to pull image {0}: it took longer than {limit} s; try again, what came is kept", limit = PULL_LIMIT.as_secs())]
    Slow(String),
    #[error("the image cannot be used: destroy the machine, and create it again")]
    Store(#[from] StoreError),
    #[error("the image's user cannot be found")]
    User(#[from] NoSuchAccount),
}

/// An image that a machine can begin with.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) hold: Hold,
    pub(crate) config: ImageConfig,
    pub(crate) account: suijuris_oci::store::Account,
    /// Directories of its layers, where overlayfs can take them.
    pub(crate) layers: Option<Vec<PathBuf>>,
}

impl Images {
    pub(crate) fn open(
        allowed: Allowed,
        directory: &Path,
        shelf: Shelf,
        overlay: bool,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            allowed,
            store: ImageStore::open(directory, StoreOptions::default())?,
            overlay,
            shelf,
            fetched: Mutex::default(),
        })
    }

    /// Has the image for a machine of `org`, and says what it is.
    pub(crate) async fn fetch(&self, reference: &str, org: &str) -> Result<ImageRef, ImageError> {
        let place = Place::read(reference, &self.allowed)
            .map_err(|why| ImageError::Name(suijuris_oci::printable(reference), why))?;
        let shown = || suijuris_oci::printable(reference);
        // Its files stay as long as this.
        let mut pushed = None;
        let source = match &place {
            Place::Host(name) => {
                return Ok(ImageRef {
                    registry: "host".to_owned(),
                    repository: name.clone(),
                    tag: "latest".to_owned(),
                    ..ImageRef::default()
                });
            }
            Place::Layout(path, name) => {
                Source::layout(path, name.as_deref()).map_err(|error| ImageError::Source(shown(), error))?
            }
            Place::Own(reference) => {
                let repo = Repo {
                    org: org.to_owned(),
                    name: reference.repository().to_string(),
                };
                let failed = |error: ShelfError| {
                    ImageError::Name(shown(), format!("{error}; push it with a token of this org"))
                };
                let layout = self.shelf.layout(&repo, &reference.target()).map_err(failed)?;
                let source = Source::layout(layout.path(), None);
                pushed = Some(layout);
                source.map_err(|error| ImageError::Source(shown(), error))?
            }
            Place::Registry(reference) => self
                .registry(reference)
                .map_err(|error| ImageError::Registry(shown(), Box::new(error)))?,
        };
        let hold = self.pull(&source, &shown()).await?;
        drop(pushed);
        self.lately(hold.image().digest());
        Ok(described(&place, &hold))
    }

    /// An image that was pushed to this host, as a layout, as long as that is the one of this digest.
    pub(crate) fn pushed(&self, reference: &str, org: &str, digest: &str) -> Option<Layout> {
        let Ok(Place::Own(reference)) = Place::read(reference, &self.allowed) else {
            return None;
        };
        let repo = Repo {
            org: org.to_owned(),
            name: reference.repository().to_string(),
        };
        // Its name may have moved on since; its digest has not.
        let by_name = || self.shelf.layout(&repo, &reference.target());
        self.shelf.layout(&repo, digest).or_else(|_| by_name()).ok()
    }

    /// Has the image in this layout, which another host sent, where it is the one of this digest.
    pub(crate) async fn take_in(&self, layout: &Path, digest: &str) -> Result<(), ImageError> {
        let source = Source::layout(layout, None);
        let source = source.map_err(|error| ImageError::Source(digest.to_owned(), error))?;
        let hold = self.pull(&source, digest).await?;
        let found = hold.image().digest();
        if found.to_string() != digest {
            let why = format!("the other host sent another image, {found}");
            return Err(ImageError::Name(digest.to_owned(), why));
        }
        self.lately(found);
        Ok(())
    }

    fn registry(&self, reference: &Reference) -> Result<Source, RegistryError> {
        let options = suijuris_oci::Options {
            max_blob_bytes: MAX_BLOB_BYTES,
            only_elsewhere: !self
                .allowed
                .registries
                .iter()
                .any(|host| host == reference.host().as_str()),
            ..suijuris_oci::Options::default()
        };
        let registry = Registry::new(reference.host(), options)?;
        // Refused for nothing but another registry.
        Source::registry(Arc::new(registry), reference)
            .map_err(|error| RegistryError::Protocol(error.to_string()))
    }

    async fn pull(&self, source: &Source, shown: &str) -> Result<Hold, ImageError> {
        let pulling = async {
            let platform = Platform::host();
            let image = source
                .resolve(&platform)
                .await
                .map_err(|error| ImageError::Source(shown.to_owned(), error))?;
            let name = image.digest().to_string();
            let pulled = self
                .store
                .pull(source, &name, &platform, Arc::new(Unobserved))
                .await;
            pulled.map_err(|error| match error {
                StoreError::Source(error) => ImageError::Source(shown.to_owned(), error),
                error => ImageError::Pull(shown.to_owned(), error),
            })
        };
        tokio::time::timeout(PULL_LIMIT, pulling)
            .await
            .map_err(|_| ImageError::Slow(shown.to_owned()))?
    }

    fn lately(&self, digest: ContentDigest) {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.insert(digest, Instant::now());
    }

    /// The image of this digest, for a machine that runs as `user`, or as the image says. Reads the disk.
    pub(crate) fn ready(&self, digest: &str, user: Option<&str>) -> Result<Ready, ImageError> {
        let digest: ContentDigest = digest
            .parse()
            .map_err(|_| StoreError::NoSuchImage(suijuris_oci::printable(digest)))?;
        let hold = self.store.by_digest(digest)?;
        let unpacked = hold.unpacked()?;
        let config = hold.image().config().clone();
        let account = unpacked.account(user.unwrap_or(&config.user))?;
        Ok(Ready {
            layers: (self.overlay && unpacked.overlay).then_some(unpacked.layers),
            hold,
            config,
            account,
        })
    }

    /// Removes images that are not in `used`, by digest, and were not fetched lately. Reads and writes the disk.
    pub(crate) fn sweep(&self, used: &BTreeSet<String>) -> Result<(), StoreError> {
        let lately: BTreeSet<String> = {
            let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            fetched.retain(|_, at| at.elapsed() < UNUSED);
            fetched.keys().map(ToString::to_string).collect()
        };
        let mut removed = false;
        for listed in self.store.list()? {
            let digest = listed.manifest.digest.to_string();
            if !used.contains(&digest) && !lately.contains(&digest) {
                removed |= self.store.remove(&listed.name)?;
            }
        }
        if removed {
            self.store.gc()?;
        }
        Ok(())
    }
}

fn described(place: &Place, hold: &Hold) -> ImageRef {
    let image = hold.image();
    let (registry, repository, tag) = match place {
        Place::Registry(reference) | Place::Own(reference) => (
            reference.host().to_string(),
            reference.repository().to_string(),
            reference.tag().map(ToString::to_string),
        ),
        Place::Layout(path, name) => ("oci".to_owned(), path.display().to_string(), name.clone()),
        Place::Host(name) => ("host".to_owned(), name.clone(), None),
    };
    ImageRef {
        registry,
        repository,
        tag: tag.unwrap_or_default(),
        digest: image.digest().to_string(),
        labels: image.config().labels.clone(),
        stop_signal: stop_signal(image.config_bytes()),
    }
}

/// The signal that an image says it stops at; none where it says nothing.
fn stop_signal(config: &[u8]) -> Option<i32> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    signals::named(config.pointer("/config/StopSignal")?.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_its_signal_or_does_not() {
        for (config, signal) in [
            (r#"{"config": {"StopSignal": "SIGQUIT"}}"#, Some(3)),
            (r#"{"config": {"StopSignal": "9"}}"#, Some(9)),
            (r#"{"config": {"StopSignal": ""}}"#, None),
            (r#"{"config": {}}"#, None),
            ("{}", None),
        ] {
            assert_eq!(stop_signal(config.as_bytes()), signal, "{config}");
        }
    }
}
