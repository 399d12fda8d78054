//! Reading a plain file of bounded length. Called for layouts, Docker's configuration, and definitions of objects.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Why a file cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system says so.
    #[error("`{path}` cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// A directory, device or pipe.
    #[error("`{0}` is not a plain file; give a plain file")]
    NotPlain(PathBuf),
    /// Longer than allowed; nothing more was read.
    #[error("`{path}` is longer than {max} bytes; make it shorter")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        max: usize,
    },
}

/// Reads a plain file of at most `max` bytes.
///
/// # Errors
/// [`FileError`]; of a longer file `max + 1` bytes were read.
pub fn bytes(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    // Asked before it is opened: opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FileError::NotPlain(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let file = File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        return Err(FileError::TooLong {
            path: path.to_owned(),
            max,
        });
    }
    Ok(bytes)
}
