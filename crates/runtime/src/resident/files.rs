//! What of ours lies in an image that carries its object: written by `suijuris build`, read by the runtime in it.
//!
//! ```text
//! /.suijuris/suijuris-init the runtime, which is what the image starts
//! /.suijuris/bundle/       the definition: manifest, governance.cedar, program
//! /.suijuris/image         what the image that it is built on says of its program; only where the workload has one
//! /.suijuris/base/         that image's manifest and config, byte for byte
//! /.suijuris/object/       the object's directory, of which `{object}` speaks
//! ```

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use suijuris_core::bundle::{Files, MAX_GOVERNANCE_BYTES};
use suijuris_core::{codec, manifest};
use suijuris_link::launch::Image;

/// Where all of it lies.
pub const DIRECTORY: &str = "/.suijuris";
/// The runtime.
pub const INIT: &str = "suijuris-init";
/// The files of the bundle.
pub const BUNDLE: &str = "bundle";
/// What the workload's image says.
pub const IMAGE: &str = "image";
/// The documents of the image that it is built on.
pub const BASE: &str = "base";
/// The object's directory.
pub const OBJECT: &str = "object";
/// Names of the files of a bundle: as the store has them.
pub const BUNDLE_FILES: [&str; 3] = ["manifest", "governance.cedar", "program"];

/// Size of a program at most, bytes.
const MAX_PROGRAM: usize = 16 << 20;
/// Size of what an image says at most, bytes.
const MAX_IMAGE: usize = 4 << 20;

/// Why what the image carries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file.
    #[error("`{0}` cannot be read: build the image again with `suijuris build`")]
    Read(PathBuf, #[source] io::Error),
    /// Too long.
    #[error("`{0}` is longer than it may be: build the image again with `suijuris build`")]
    TooLong(PathBuf),
    /// What the workload's image says.
    #[error(
        "`{0}` is of another version of suijuris: build the image again, with the `suijuris` of this runtime"
    )]
    Image(PathBuf, #[source] codec::Error),
}

/// The bundle that lies in `directory`; it is checked by whoever opens it.
///
/// # Errors
/// [`FilesError`].
pub fn bundle(directory: &Path) -> Result<Files, FilesError> {
    let [manifest, governance, program] = BUNDLE_FILES.map(|name| directory.join(BUNDLE).join(name));
    Ok(Files {
        manifest: read(&manifest, manifest::MAX_BYTES)?,
        governance: read(&governance, MAX_GOVERNANCE_BYTES)?,
        program: read(&program, MAX_PROGRAM)?,
    })
}

/// What the workload's image says of its program; none where the workload has no image of its own.
///
/// # Errors
/// [`FilesError`].
pub fn image(directory: &Path) -> Result<Option<Image>, FilesError> {
    let path = directory.join(IMAGE);
    match read(&path, MAX_IMAGE) {
        Ok(bytes) => codec::decode(&bytes, MAX_IMAGE)
            .map(Some)
            .map_err(|error| FilesError::Image(path, error)),
        Err(FilesError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(path: &Path, max: usize) -> Result<Vec<u8>, FilesError> {
    let failed = |error| FilesError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        return Err(FilesError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}
