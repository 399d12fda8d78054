//! Content out of the stream into a file, and whose fault it is where that fails.

use std::fs::File;
use std::io::{self, Read, Write as _};

use super::member::{Members, TarError};
use super::stream::Bomb;
use super::{Step, UnpackError, Watch};

/// Bytes copied between two looks at whether to go on.
const PIECE_BYTES: usize = 256 << 10;

/// What reading a layer reports, with bombs told apart.
pub(super) fn read_error(error: io::Error) -> UnpackError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Bomb>()) {
        Some(bomb) => UnpackError::Bomb(*bomb),
        None => UnpackError::Read(error),
    }
}

pub(super) fn archive_error(error: TarError) -> UnpackError {
    match error {
        TarError::Read(error) => read_error(error),
        other => UnpackError::Archive(other),
    }
}

/// The content of the current member into a file, looking now and then whether to go on.
pub(super) fn pour<R: Read>(
    content: &mut Members<R>,
    file: &mut File,
    step: &mut Step,
    watch: &mut Watch<'_>,
    stream_error: &mut Option<UnpackError>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let stop = || io::Error::other("stopped");
    loop {
        let piece = match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                *stream_error = Some(read_error(error));
                return Err(stop());
            }
        };
        file.write_all(piece)?;
        step.bytes = step.bytes.saturating_add(piece.len() as u64);
        if watch(*step).is_break() {
            *stream_error = Some(UnpackError::Cancelled);
            return Err(stop());
        }
    }
}
