//! The owner's key: who this person is to the objects they found. It signs amend, fork and terminate.
//!
//! Made on first use. Whoever loses it cannot change the rules of their objects any more.

use std::path::{Path, PathBuf};

use suijuris_core::key::SecretKey;

use crate::key_file::{Error, KeyFile};

/// Environment variable with the path of the key.
const PATH: &str = "SUIJURIS_OWNER_KEY";

fn at(path: &Path) -> KeyFile<'_> {
    KeyFile {
        what: "owner's key",
        path,
    }
}

/// The owner's key in `file`, or else the one of this person; the latter made where there is none.
pub(crate) fn key(file: Option<&Path>) -> Result<SecretKey, Error> {
    file.map_or_else(owner_key, |path| at(path).read())
}

/// The owner's key, where there is one.
pub(crate) fn existing_key() -> Result<Option<SecretKey>, Error> {
    path().map_or(Ok(None), |path| at(&path).read_if_any())
}

/// The owner's key in `file`, or else the one of this person, where there is one.
pub(crate) fn key_if_any(file: Option<&Path>) -> Result<Option<SecretKey>, Error> {
    match file {
        Some(path) => at(path).read().map(Some),
        None => existing_key(),
    }
}

/// The owner's key; made, with a note, where there is none.
pub(crate) fn owner_key() -> Result<SecretKey, Error> {
    let path = path().ok_or(Error::NoHome {
        what: "owner's key",
        variable: PATH,
    })?;
    at(&path).read_or_make("keep a copy of it")
}

/// Where the owner's key is.
pub(crate) fn path() -> Option<PathBuf> {
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
