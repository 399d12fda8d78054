//! Why a history from elsewhere is not put into a directory.

use std::io;
use std::path::{Path, PathBuf};

use suijuris_core::id::{BundleId, ObjectId};

use crate::bundle_store;
use crate::object_dir::OpenError;

/// Why a history is not put into a directory. The directory's object, if it has one, is as before.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// Something else is there.
    #[error("{dir} is not empty: it holds `{name}`; choose another directory")]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// What was found first.
        name: String,
    },
    /// Another object is there.
    #[error("{dir} holds another object, {there}; choose another directory")]
    OtherObject {
        /// The directory.
        dir: PathBuf,
        /// The object in it.
        there: ObjectId,
    },
    /// The object is there, with another history.
    #[error(
        "{dir} holds this object with another history from record {seq} on: two copies were written; keep both and see which one a witness knows"
    )]
    Diverged {
        /// The directory.
        dir: PathBuf,
        /// The first record that differs.
        seq: u64,
    },
    /// The object is there, with a longer history.
    #[error(
        "{dir} holds this object up to record {ours}, which is newer than record {theirs}; nothing was changed"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Last record in the directory.
        ours: u64,
        /// Last record of what was to be put there.
        theirs: u64,
    },
    /// The directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A bundle.
    #[error("bundle {id} cannot be kept")]
    Bundle {
        /// The bundle.
        id: BundleId,
        /// Why.
        #[source]
        source: bundle_store::Error,
    },
    /// The disk.
    #[error("cannot write {path}")]
    Disk {
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

pub(super) fn failed<'a>(path: &'a Path) -> impl Fn(io::Error) -> StagingError + 'a {
    move |source| StagingError::Disk {
        path: path.to_owned(),
        source,
    }
}
