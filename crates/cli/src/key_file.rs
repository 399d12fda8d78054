//! A file with a secret key: mode 0600, 64 hexadecimal digits, made whole or not at all.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use suijuris_core::id::Digest;
use suijuris_core::key::SecretKey;
use zeroize::Zeroizing;

use crate::terminal;

/// Bytes of the file at most: the digits and an end of line.
const MAX_BYTES: usize = 66;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nowhere to look.
    #[error("there is no place for the {what}: set HOME, or {variable} to its path")]
    NoHome {
        what: &'static str,
        variable: &'static str,
    },
    /// The file cannot be used.
    #[error("the {what} `{}` cannot be read or made", .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Others may read it.
    #[error("others can read the {what} `{path}`: make it yours alone with `chmod 600 {path}`")]
    Open { what: &'static str, path: String },
    /// Not a key.
    #[error(
        "`{}` is not the {what}: it does not hold 64 hexadecimal digits; put the right file back",
        .path.display()
    )]
    NotAKey { what: &'static str, path: PathBuf },
    /// No randomness.
    #[error("the system provides no randomness for a key")]
    Random(#[from] getrandom::Error),
}

/// Where a key is kept, and what it is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyFile<'a> {
    pub(crate) what: &'static str,
    pub(crate) path: &'a Path,
}

impl KeyFile<'_> {
    /// The key, where there is one.
    pub(crate) fn read_if_any(self) -> Result<Option<SecretKey>, Error> {
        match self.read() {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// The key; made, with a note that ends in `advice`, where there is none.
    pub(crate) fn read_or_make(self, advice: &str) -> Result<SecretKey, Error> {
        match self.read_if_any()? {
            Some(key) => Ok(key),
            None => self.make(advice),
        }
    }

    /// The key.
    pub(crate) fn read(self) -> Result<SecretKey, Error> {
        let file = fs::File::open(self.path).map_err(|error| self.failed(error))?;
        let mode = file.metadata().map_err(|error| self.failed(error))?.permissions();
        if mode.mode() & 0o077 != 0 {
            return Err(Error::Open {
                what: self.what,
                path: self.path.display().to_string(),
            });
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES));
        let not_a_key = || Error::NotAKey {
            what: self.what,
            path: self.path.to_owned(),
        };
        file.take(MAX_BYTES as u64)
            .read_to_string(&mut text)
            .map_err(|_| not_a_key())?;
        let mut seed: Digest = text.trim_end().parse().map_err(|_| not_a_key())?;
        let key = SecretKey::from_seed(&seed.0);
        zeroize::Zeroize::zeroize(&mut seed.0);
        Ok(key)
    }

    fn make(self, advice: &str) -> Result<SecretKey, Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        match write(self.path, &Zeroizing::new(Digest(*seed).hex())) {
            Ok(()) => terminal::note(&format!(
                "made the {} {}; {advice}",
                self.what,
                self.path.display()
            )),
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.failed(error)),
        }
        self.read()
    }

    fn failed(self, source: io::Error) -> Error {
        Error::File {
            what: self.what,
            path: self.path.to_owned(),
            source,
        }
    }
}

/// Writes the whole file under its name at once, so that nobody reads half a key.
fn write(path: &Path, digits: &str) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let fresh = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    writeln!(file, "{digits}")?;
    file.sync_all()?;
    let linked = fs::hard_link(&fresh, path);
    fs::remove_file(&fresh)?;
    linked?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> KeyFile<'_> {
        KeyFile {
            what: "owner's key",
            path,
        }
    }

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/owner.key");
        let made = at(&path).make("").unwrap();
        assert_eq!(at(&path).read().unwrap().public(), made.public());
        assert_eq!(at(&path).make("").unwrap().public(), made.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("owner.key");
        at(&path).make("").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(at(&path).read(), Err(Error::Open { .. })));
        for text in ["", "00", &"g".repeat(64), &"0".repeat(70)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, text).unwrap();
            assert!(matches!(at(&path).read(), Err(Error::NotAKey { .. })), "{text}");
        }
    }
}
