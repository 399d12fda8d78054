//! What of a lineage was verified whole, told by its files: whoever finds them as they were need not read them again.
//!
//! The system changes the time of change of a file with each write, and nobody sets it. It vouches for what happened on this
//! machine since: not for a disk that was away, and not across a virtual machine's edge.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use crate::object_dir::{ObjectDir, OpenError};
use crate::reader::Reader;

/// Segments at most that are told of: beyond 4 TiB of history the whole is read.
const MAX_SEGMENTS: usize = 65_536;

/// The files of a lineage at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamps(Vec<Stamp>);

/// One segment: its first position; the file's device, number and size; when it last changed, in seconds and nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, u64, u64, u64, i64, i64);

impl Stamps {
    /// The lineage's files as they are now.
    ///
    /// # Errors
    /// The system's, or there is no lineage.
    pub fn of(object_dir: &ObjectDir) -> io::Result<Self> {
        let segments = object_dir.segments().map_err(io::Error::other)?;
        if segments.is_empty() || segments.len() > MAX_SEGMENTS {
            return Err(io::ErrorKind::NotFound.into());
        }
        let stamp = |first| {
            let file = std::fs::metadata(object_dir.segment(first))?;
            let change = (file.ctime(), file.ctime_nsec());
            Ok(Stamp(
                first,
                file.dev(),
                file.ino(),
                file.len(),
                change.0,
                change.1,
            ))
        };
        segments
            .into_iter()
            .map(stamp)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Verifies the whole lineage; its files as they were before and after, nothing where somebody wrote meanwhile.
    ///
    /// # Errors
    /// [`OpenError`]: the first bad record.
    pub fn verify(object_dir: &ObjectDir) -> Result<Option<Self>, OpenError> {
        let before = Self::of(object_dir).ok();
        Reader::verify(object_dir, |_| {})?;
        Ok(before.filter(|before| before.still_hold(object_dir)))
    }

    /// Whether nothing has changed since.
    #[must_use]
    pub fn still_hold(&self, object_dir: &ObjectDir) -> bool {
        Self::of(object_dir).is_ok_and(|now| now == *self)
    }
}
