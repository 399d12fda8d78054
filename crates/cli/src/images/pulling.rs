//! From where images come, and how far one has come.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use suijuris_oci::ContentDigest;
use suijuris_oci::image::Platform;
use suijuris_oci::source::Source;
use suijuris_oci::store::{Event, ImageStore, Observer};

use super::Pulled;
use crate::Usage;
use crate::progress::Progress;

/// A place that images come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// An OCI layout.
    Layout(PathBuf, Option<String>),
    /// What `docker save` writes.
    Archive(PathBuf, Option<String>),
    /// A registry.
    Registry(suijuris_oci::Reference),
}

impl From {
    /// Reads what a definition or a command line says; relative paths start at `dir`.
    pub(super) fn parse(text: &str, dir: &Path) -> anyhow::Result<Self> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, name) = split(rest, dir);
            return Ok(Self::Layout(path, name));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, name) = split(rest, dir);
            return Ok(Self::Archive(path, name));
        }
        let reference = suijuris_oci::Reference::familiar(text);
        Ok(Self::Registry(reference.map_err(|error| {
            Usage(format!("{error}; or write oci:DIRECTORY or docker-archive:FILE"))
        })?))
    }

    pub(super) const fn is_local(&self) -> bool {
        !matches!(self, Self::Registry(_))
    }

    /// The same, as of this digest.
    pub(super) fn at(self, digest: ContentDigest) -> Self {
        match self {
            Self::Registry(reference) => Self::Registry(reference.with_digest(digest)),
            local => local,
        }
    }

    fn source(&self) -> anyhow::Result<Source> {
        Ok(match self {
            Self::Layout(dir, name) => Source::layout(dir, name.as_deref())?,
            Self::Archive(file, name) => Source::archive(file, name.as_deref())?,
            #[cfg(feature = "remote")]
            Self::Registry(reference) => {
                let registry = crate::oci::Reach::default().registry(reference)?;
                Source::registry(Arc::new(registry), reference)?
            }
            #[cfg(not(feature = "remote"))]
            Self::Registry(_) => anyhow::bail!(
                "this suijuris was built without registries: build it with the feature `remote`, or use oci:DIRECTORY"
            ),
        })
    }

    fn name(&self) -> String {
        let of = |kind: &str, path: &Path, name: &Option<String>| {
            let name = name.as_ref().map(|name| format!(":{name}")).unwrap_or_default();
            format!("{kind}:{}{name}", path.display())
        };
        match self {
            Self::Layout(path, name) => of("oci", path, name),
            Self::Archive(path, name) => of("docker-archive", path, name),
            Self::Registry(reference) => {
                let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
                format!("{}/{}{tag}", reference.host(), reference.repository())
            }
        }
    }
}

/// `PATH` or `PATH:NAME`.
fn split(text: &str, dir: &Path) -> (PathBuf, Option<String>) {
    let whole = dir.join(text);
    let found = |path: PathBuf| path.canonicalize().unwrap_or(path);
    match text.rsplit_once(':') {
        Some((path, name)) if !whole.exists() && !name.is_empty() => {
            (found(dir.join(path)), Some(name.to_owned()))
        }
        _ => (found(whole), None),
    }
}

/// What runs a pull: its threads unpack.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The image that `text` names, of this digest where one is wanted, and where its layers are; relative paths start at `dir`.
#[cfg(feature = "remote")]
pub(crate) async fn resolve(
    text: &str,
    dir: &Path,
    digest: Option<ContentDigest>,
) -> anyhow::Result<(Source, suijuris_oci::image::Image)> {
    let from = From::parse(text, dir)?;
    let from = match digest {
        Some(digest) => from.at(digest),
        None => from,
    };
    let source = from.source()?;
    let image = source.resolve(&Platform::host()).await?;
    if let Some(wanted) = digest.filter(|wanted| *wanted != image.digest()) {
        anyhow::bail!(
            "`{}` is {} now, and the definition was built with {wanted}: build it again",
            crate::terminal::clean(text),
            image.digest()
        );
    }
    Ok((source, image))
}

/// Pulls what is there, and names it by where it came from and by its digest.
pub(super) async fn pull(store: &ImageStore, from: &From) -> anyhow::Result<Pulled> {
    let source = from.source()?;
    let platform = Platform::host();
    let digest = source.resolve(&platform).await?.digest();
    let name = format!("{}@{digest}", from.name());
    let observer = Arc::new(Bar::default());
    let hold = store.pull(&source, &name, &platform, observer).await?;
    let layers = hold.image().layers();
    Ok(Pulled {
        name,
        digest: hold.image().digest(),
        layers: layers.len(),
        bytes: layers.iter().map(|layer| layer.descriptor.size).sum(),
    })
}

/// Shows bytes of all layers together.
#[derive(Default)]
struct Bar(Mutex<Shown>);

struct Shown {
    progress: Progress,
    /// Done and total of each layer.
    layers: BTreeMap<usize, (u64, u64)>,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            progress: Progress::bytes("pulled"),
            layers: BTreeMap::new(),
        }
    }
}

impl Observer for Bar {
    fn observe(&self, event: Event<'_>) -> ControlFlow<()> {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Resolved(image) => {
                let sizes = image.layers().iter().map(|layer| (0, layer.descriptor.size));
                shown.layers = sizes.enumerate().collect();
            }
            Event::Fetching { layer, done, total } => {
                shown.layers.insert(layer, (done, total));
            }
            Event::Present { layer } | Event::Stored { layer } => {
                if let Some((done, total)) = shown.layers.get_mut(&layer) {
                    *done = *total;
                }
            }
            _ => {}
        }
        let (done, total) = shown
            .layers
            .values()
            .fold((0_u64, 0_u64), |(done, total), (more, size)| {
                (done.saturating_add(*more), total.saturating_add(*size))
            });
        shown.progress.bytes_at(done, total);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        std::fs::create_dir(dir.join("a:b")).unwrap();
        for (text, expect) in [
            ("oci:image", From::Layout(dir.join("image"), None)),
            (
                "oci:image:v1",
                From::Layout(dir.join("image"), Some("v1".to_owned())),
            ),
            ("oci:a:b", From::Layout(dir.join("a:b"), None)),
            ("docker-archive:/x.tar", From::Archive("/x.tar".into(), None)),
        ] {
            assert_eq!(From::parse(text, dir).unwrap(), expect, "{text}");
        }
        let named = From::parse("nginx:1.29", dir).unwrap();
        assert_eq!(named.name(), "docker.io/library/nginx:1.29");
        assert!(!named.is_local());
        let error = From::parse("No Image", dir).unwrap_err();
        assert!(error.to_string().contains("oci:DIRECTORY"), "{error}");
    }
}
