//! Where an image is, from what a machine's config says, as far as the operator lets tenants name it.

use std::path::{Path, PathBuf};

use suijuris_oci::Reference;

use super::Allowed;

/// A place that an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A program of this host, for tests.
    Host(String),
    /// An OCI layout, and the name of an image in it.
    Layout(PathBuf, Option<String>),
    /// What was pushed to this host.
    Own(Reference),
    /// A registry.
    Registry(Reference),
}

impl Place {
    /// Reads `config.image`. The text of an error says what to do.
    pub(super) fn read(text: &str, allowed: &Allowed) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("host:").filter(|_| allowed.host_programs) {
            return Ok(Self::Host(name.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return layout(rest, &allowed.oci_roots);
        }
        let reference = Reference::familiar(text).map_err(|error| error.to_string())?;
        let is_own = allowed.own.iter().any(|own| own == reference.host().as_str());
        Ok(if is_own {
            Self::Own(reference)
        } else {
            Self::Registry(reference)
        })
    }
}

/// `PATH` or `PATH:NAME`, below one of `roots`. One answer for all that is not there, or not below them: it tells nothing of the host.
fn layout(text: &str, roots: &[PathBuf]) -> Result<Place, String> {
    if roots.is_empty() {
        return Err("layouts of this host are not open to machines; whoever runs it names their directory with --oci-root DIR".to_owned());
    }
    let found = |path: &str| {
        let path = Path::new(path).canonicalize().ok()?;
        let below = roots.iter().any(|root| path.starts_with(root));
        (below && path.is_dir()).then_some(path)
    };
    let named = || {
        let (path, name) = text.rsplit_once(':').filter(|(_, name)| !name.is_empty())?;
        Some(Place::Layout(found(path)?, Some(name.to_owned())))
    };
    let place = found(text).map(|path| Place::Layout(path, None)).or_else(named);
    place.ok_or_else(|| {
        "no layout is there below a directory of --oci-root; give its absolute path on the host".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_below_a_root_or_is_not_there() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let (open, closed) = (root.join("open"), root.join("closed"));
        for directory in [open.join("a"), open.join("b:c"), closed.clone()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::os::unix::fs::symlink(&closed, open.join("out")).unwrap();
        let allowed = Allowed {
            oci_roots: vec![open.clone()],
            ..Allowed::default()
        };
        let read = |path: &str| Place::read(&format!("oci:{}/{path}", root.display()), &allowed);
        let a = |name: Option<&str>| Ok(Place::Layout(open.join("a"), name.map(str::to_owned)));
        assert_eq!(read("open/a"), a(None));
        assert_eq!(read("open/a:v1"), a(Some("v1")));
        assert_eq!(read("open/../open/a"), a(None));
        assert_eq!(read("open/b:c"), Ok(Place::Layout(open.join("b:c"), None)));
        let missing = read("open/none").unwrap_err();
        for outside in ["closed", "open/../closed", "open/out", "", "closed:v1"] {
            assert_eq!(read(outside).unwrap_err(), missing, "{outside}");
        }
        let none = Place::read("oci:/", &Allowed::default()).unwrap_err();
        assert!(none.contains("--oci-root"), "{none}");
        assert!(matches!(
            Place::read("host:sh", &Allowed::default()),
            Err(_) | Ok(Place::Registry(_))
        ));
    }
}
