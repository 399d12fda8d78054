//! Secrets of the object as an unmodified program takes them: variables of its environment, and files whose paths stand in
//! its arguments. Nothing of a value stands in an argument.
//!
//! The files are the workload's own user's, 0400, in a directory that goes with the run. Where they lie depends on who may
//! look there: beside the agent socket, which is the object's alone, or below `/run` for another user than ours.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use suijuris_core::manifest::Manifest;
use suijuris_core::memory::{Name, Value};
use suijuris_store::secrets;
use suijuris_sys::spawn::Credentials;
use zeroize::Zeroizing;

/// Where files for another user lie, who has no way into the object's directory.
const FOR_OTHERS: &str = "/run/suijuris";

/// The directory's name beside the agent socket.
const DIRECTORY: &str = "secrets";

/// Why a workload cannot have its secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The field has no value.
    #[error(
        "the workload needs the secret `{0}`, and that field of memory has no value: set it with `suijuris memory set {0}=VALUE`"
    )]
    Missing(Name),
    /// Its value cannot be had.
    #[error("the workload needs the secret `{0}`")]
    Unreadable(Name, #[source] secrets::Error),
}

impl SecretError {
    /// Stable code with a page in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => CODE_MISSING,
            Self::Unreadable(..) => CODE_UNREADABLE,
        }
    }
}

const CODE_MISSING: &str = "secret_missing";
const CODE_UNREADABLE: &str = "secret_unreadable";

/// The values that a workload is given.
#[derive(Default)]
pub struct Secrets {
    /// By the variable's name.
    pub env: BTreeMap<String, Zeroizing<String>>,
    /// By the field's name.
    pub files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    /// Those that the manifest asks for; `value` gives that of a field.
    ///
    /// # Errors
    /// [`SecretError`] names the field.
    pub fn gather(
        manifest: &Manifest,
        value: impl Fn(&str) -> Result<Option<Value>, secrets::Error>,
    ) -> Result<Self, SecretError> {
        let value = |field: &Name| match value(field.as_str()) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(SecretError::Missing(field.clone())),
            Err(error) => Err(SecretError::Unreadable(field.clone(), error)),
        };
        let mut secrets = Self::default();
        for (variable, field) in &manifest.workload.secret_env {
            // A checked manifest names texts only.
            if let Value::String(text) = value(field)? {
                secrets.env.insert(variable.clone(), Zeroizing::new(text));
            }
        }
        for field in manifest.secret_files() {
            let bytes = match value(&field)? {
                Value::String(text) => text.into_bytes(),
                Value::Bytes(bytes) => bytes,
                _ => continue,
            };
            secrets.files.insert(field.to_string(), Zeroizing::new(bytes));
        }
        Ok(secrets)
    }
}

/// Files of secrets; dropped, they are gone.
#[derive(Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    /// Where the files of a run lie; they are there while one of these exists.
    pub(super) fn directory(agent_socket: &Path, object_id: &str, user: Option<&Credentials>) -> PathBuf {
        match user {
            Some(_) => Path::new(FOR_OTHERS).join(object_id),
            None => agent_socket.parent().unwrap_or(Path::new("/")).join(DIRECTORY),
        }
    }

    /// Writes them, for `user` alone where that is another than ours. What an earlier run has left is removed, with or
    /// without secrets of this one.
    ///
    /// # Errors
    /// The disk's; nothing is left.
    pub(super) fn write(
        directory: PathBuf,
        secrets: &Secrets,
        user: Option<&Credentials>,
    ) -> io::Result<Option<Self>> {
        clear(&directory)?;
        if secrets.files.is_empty() {
            return Ok(None);
        }
        // Who may pass through, but not look around.
        let mode = if user.is_some() { 0o711 } else { 0o700 };
        if user.is_some() {
            make(Path::new(FOR_OTHERS), mode)?;
        }
        make(&directory, mode)?;
        let files = Self(directory);
        for (name, value) in &secrets.files {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o400)
                .open(files.0.join(name))?;
            file.write_all(value)?;
            give(&file, user)?;
        }
        Ok(Some(files))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next run.
        let _ = clear(&self.0);
    }
}

fn give(file: &File, user: Option<&Credentials>) -> io::Result<()> {
    // A file mode mask may have taken it away.
    file.set_permissions(Permissions::from_mode(0o400))?;
    match user {
        Some(user) => std::os::unix::fs::fchown(file, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// A directory of ours, made or found.
fn make(directory: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(directory) => {}
        made => made?,
    }
    fs::set_permissions(directory, Permissions::from_mode(mode))
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// Removes the directory, or all that is in it where something is mounted there.
fn clear(directory: &Path) -> io::Result<()> {
    if !is_directory(directory) {
        return match fs::remove_file(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        removed => removed,
    }
}
