//! The owner's key: who this person is to the objects they found. It signs amend, fork and terminate.
//!
//! A file of mode 0600 with 64 hexadecimal digits, made on first use. Whoever loses it cannot change the rules of their
//! objects any more.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use suijuris_core::id::Digest;
use suijuris_core::key::SecretKey;
use zeroize::Zeroizing;

use crate::terminal;

/// Environment variable with the path of the key.
const PATH: &str = "SUIJURIS_OWNER_KEY";

/// Bytes of the file at most: the digits and an end of line.
const MAX_BYTES: usize = 66;

/// Why there is no owner's key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nowhere to look.
    #[error("there is no place for the owner's key: set HOME, or {PATH} to its path")]
    NoHome,
    /// The file cannot be used.
    #[error("the owner's key `{}` cannot be read or made", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Others may read it.
    #[error("others can read the owner's key `{0}`: make it yours alone with `chmod 600 {0}`")]
    Open(String),
    /// Not a key.
    #[error("`{}` is not an owner's key: it does not hold 64 hexadecimal digits; put the right file back", .0.display())]
    NotAKey(PathBuf),
    /// No randomness.
    #[error("the system provides no randomness for a key")]
    Random(#[from] getrandom::Error),
}

/// The owner's key in `file`, or else the one of this person; the latter made where there is none.
pub(crate) fn key(file: Option<&Path>) -> Result<SecretKey, Error> {
    file.map_or_else(owner_key, read)
}

/// The owner's key, where there is one.
pub(crate) fn existing_key() -> Result<Option<SecretKey>, Error> {
    let Some(path) = path() else { return Ok(None) };
    match read(&path) {
        Err(Error::File(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// The owner's key in `file`, or else the one of this person, where there is one.
pub(crate) fn key_if_any(file: Option<&Path>) -> Result<Option<SecretKey>, Error> {
    match file {
        Some(path) => read(path).map(Some),
        None => existing_key(),
    }
}

/// The owner's key; made, with a note, where there is none.
pub(crate) fn owner_key() -> Result<SecretKey, Error> {
    let path = path().ok_or(Error::NoHome)?;
    match read(&path) {
        Err(Error::File(_, error)) if error.kind() == io::ErrorKind::NotFound => make(&path),
        found => found,
    }
}

fn path() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let absolute = |name: &str| set(name).filter(|path| path.is_absolute());
    set(PATH).or_else(|| {
        let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
        Some(config?.join("suijuris/owner.key"))
    })
}

fn read(path: &Path) -> Result<SecretKey, Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let file = fs::File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(Error::Open(path.display().to_string()));
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES));
    let not_a_key = || Error::NotAKey(path.to_owned());
    file.take(MAX_BYTES as u64)
        .read_to_string(&mut text)
        .map_err(|_| not_a_key())?;
    let mut seed: Digest = text.trim_end().parse().map_err(|_| not_a_key())?;
    let key = SecretKey::from_seed(&seed.0);
    zeroize::Zeroize::zeroize(&mut seed.0);
    Ok(key)
}

fn make(path: &Path) -> Result<SecretKey, Error> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())?;
    match write(path, &Zeroizing::new(Digest(*seed).hex())) {
        Ok(()) => terminal::note(&format!(
            "made the owner's key {}; keep a copy of it",
            path.display()
        )),
        // Somebody was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::File(path.to_owned(), error)),
    }
    read(path)
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

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/owner.key");
        let made = make(&path).unwrap();
        assert_eq!(read(&path).unwrap().public(), made.public());
        assert_eq!(make(&path).unwrap().public(), made.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("owner.key");
        make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path), Err(Error::Open(_))));
        for text in ["", "00", &"g".repeat(64), &"0".repeat(70)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, text).unwrap();
            assert!(matches!(read(&path), Err(Error::NotAKey(_))), "{text}");
        }
    }
}
