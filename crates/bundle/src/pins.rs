//! `image.lock`: which image each name in `object.toml` means. Written when a name is looked up, committed beside the
//! definition, so that the same files give the same bundle wherever they are built.
//!
//! ```toml
//! [images]
//! "docker.io/library/nginx:1.29" = "sha256:…"
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use suijuris_core::id::Digest;

use crate::files::{self, FileError};

/// Name of the file.
pub const LOCK: &str = "image.lock";

/// Length of the file at most, bytes.
const MAX_BYTES: usize = 64 << 10;

/// Above what is pinned.
const HEAD: &str = "# Which images the names in object.toml mean. Commit this file; `suijuris images pull --update` looks them up again.\n\n";

/// The names that are pinned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(BTreeMap<String, Digest>);

/// Why there are no pins.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// The file.
    #[error("`{LOCK}` cannot be used: remove it and run `suijuris images pull`")]
    File(#[from] FileError),
    /// What is in it.
    #[error("`{LOCK}` is not what `suijuris images pull` writes ({0}): remove it and run that again")]
    Content(String),
    /// It cannot be written.
    #[error("`{LOCK}` cannot be written")]
    Write(#[from] io::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    images: BTreeMap<String, String>,
}

impl Pins {
    /// Those of the object in `dir`; none where there is no file.
    ///
    /// # Errors
    /// [`PinsError`].
    pub fn read(dir: &Path) -> Result<Self, PinsError> {
        let path = dir.join(LOCK);
        if path
            .symlink_metadata()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            return Ok(Self::default());
        }
        Self::parse(&files::text(&path, MAX_BYTES)?)
    }

    fn parse(text: &str) -> Result<Self, PinsError> {
        let wire: Wire =
            toml::from_str(text).map_err(|error| PinsError::Content(error.message().to_owned()))?;
        let one = |(name, digest): (String, String)| {
            let parsed = digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
            let digest = parsed.ok_or_else(|| PinsError::Content(format!("{digest:?} is no digest")))?;
            Ok((name, digest))
        };
        wire.images
            .into_iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The image that a name means.
    #[must_use]
    pub fn digest(&self, name: &str) -> Option<Digest> {
        self.0.get(name).copied()
    }

    /// Pins `name` alone: a definition has one image. Whether that changes anything.
    pub fn pin(&mut self, name: &str, digest: Digest) -> bool {
        let pinned = BTreeMap::from([(name.to_owned(), digest)]);
        let changes = self.0 != pinned;
        self.0 = pinned;
        changes
    }

    /// Writes them beside the definition in `dir`, whole or not at all.
    ///
    /// # Errors
    /// [`PinsError::Write`].
    pub fn write(&self, dir: &Path) -> Result<(), PinsError> {
        let images = self
            .0
            .iter()
            .map(|(name, digest)| (name.clone(), format!("sha256:{}", digest.hex())));
        let wire = Wire {
            images: images.collect(),
        };
        let text = toml::to_string(&wire).map_err(|error| PinsError::Content(error.to_string()))?;
        let fresh = dir.join(format!(".{LOCK}.{}", std::process::id()));
        let written = std::fs::File::create(&fresh).and_then(|mut file| {
            file.write_all(HEAD.as_bytes())?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&fresh, dir.join(LOCK))
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
        Ok(written?)
    }
}

/// The image that the definition in `dir` names, where it can be read and names one that is no digest: whoever can look it up
/// pins it before the bundle is built.
#[must_use]
pub fn named_image(dir: &Path) -> Option<String> {
    let text = files::text(&dir.join(files::DEFINITION), files::MAX_DEFINITION_BYTES).ok()?;
    let document: toml::Table = text.parse().ok()?;
    let image = document.get("workload")?.get("image")?.as_str()?;
    (!image.starts_with("sha256:") && !image.is_empty()).then(|| image.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_survive_the_file_and_others_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(Pins::read(temp.path()).unwrap(), Pins::default());
        let mut pins = Pins::default();
        assert!(pins.pin("oci:a \"b\"", Digest::of(b"x")) && !pins.pin("oci:a \"b\"", Digest::of(b"x")));
        pins.write(temp.path()).unwrap();
        assert_eq!(Pins::read(temp.path()).unwrap(), pins);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        for wrong in [
            "",
            "[images]\na = 1",
            "[images]\na = \"sha256:00\"",
            "[other]",
            "[images]\n[more]",
            "\u{0}",
        ] {
            assert!(Pins::parse(wrong).is_err(), "{wrong}");
        }
    }
}
