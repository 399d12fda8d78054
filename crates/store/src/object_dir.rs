//! An object's directory: where its files are, who may write, and the faults that its readers and writers share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use suijuris_core::codec;
use suijuris_core::id::{BundleId, ObjectId};
use suijuris_core::lineage::{ChainError, CheckpointError};

use crate::bundle_store;
use crate::disk::{self, Disk, Lock, Real};
use crate::frame::HeaderFault;

/// Stands in a directory while its newest state is on a virtual machine's disk; put there and removed by whoever runs that.
const IN_MACHINE: &str = "in-machine";

/// An object's directory on some disk. Holding one opens nothing.
#[derive(Debug, Clone)]
pub struct ObjectDir {
    pub(crate) disk: Arc<dyn Disk>,
    path: PathBuf,
}

/// A place in the lineage's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The segment file, by the position of its first record.
    pub segment: u64,
    /// Byte in the file.
    pub offset: u64,
    /// Position of the record that stands or would stand there.
    pub seq: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { segment, offset, seq } = self;
        write!(f, "record {seq} (lineage/{segment:020}.seg, byte {offset})")
    }
}

/// What is wrong at a [`Position`].
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The segment's header.
    #[error("the segment file is not usable")]
    Header(#[from] HeaderFault),
    /// The segment of another object.
    #[error("the segment file belongs to object {0}")]
    OtherObject(ObjectId),
    /// The segment's header names another beginning than where the history stands.
    #[error("the segment file does not continue the history here: one is missing, swapped or cut")]
    OtherPlace,
    /// The bytes are not those that were written.
    #[error("its bytes are damaged")]
    Altered,
    /// Something other than zeros behind the last record.
    #[error("there are bytes after the end of the records")]
    Trailing,
    /// An intact record that does not continue the chain.
    #[error("it does not fit the history before it")]
    Chain(#[from] ChainError),
    /// An intact frame whose content is no record.
    #[error("it is not a record")]
    Encoding(#[from] codec::Error),
    /// The history ends before a position that a checkpoint proves.
    #[error("the history ends here, but a checkpoint proves records up to {0}: the end was cut off")]
    Cut(u64),
    /// The checkpoint stands for another history.
    #[error("the checkpoint is not of this history")]
    OtherCheckpoint,
}

/// Why an object cannot be opened. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No object is there.
    #[error("{0} holds no object; create one with `suijuris up`, or name another directory")]
    NotAnObject(PathBuf),
    /// A writer is at work.
    #[error("{path} is in use by {holder}; stop it first, or only read")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// `process <pid>`.
        holder: String,
    },
    /// The newest state is elsewhere.
    #[error(
        "the newest state of {0} is on a virtual machine's disk: end whoever runs that machine; where nobody does, `suijuris up` brings it back"
    )]
    InMachine(PathBuf),
    /// The history is not sound.
    #[error("the history is damaged at {place}; restore the directory from a copy; nothing was changed")]
    Damaged {
        /// Where.
        place: Position,
        /// What.
        #[source]
        damage: Damage,
    },
    /// The checkpoint file.
    #[error("the checkpoint cannot be used; move it away to have the whole history read instead")]
    Checkpoint(#[from] CheckpointError),
    /// A bundle that the history names.
    #[error("bundle {id} cannot be used; put the bundle's own files back")]
    Bundle {
        /// The bundle.
        id: BundleId,
        /// Why.
        #[source]
        source: bundle_store::Error,
    },
    /// Neither waiting key is the one that the history commits to.
    #[error(
        "the waiting key is not the one the history commits to: records are missing at the end, or the key file is \
         another object's; restore both from one copy"
    )]
    Key,
    /// There is no waiting key.
    #[error(
        "the waiting key is missing: without `next.key` the object can be read and verified, but not woken; import \
         it with its key, or restore the key from a copy"
    )]
    NoKey,
    /// The disk.
    #[error("cannot {what} {path}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn disk<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::Disk {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

impl ObjectDir {
    /// The directory at `path` of the machine's own disk.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::on(Arc::new(Real), path)
    }

    /// The directory at `path` of `disk`.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Self {
        Self {
            disk,
            path: path.into(),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where sockets of a running object stand.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(crate) fn lineage(&self) -> PathBuf {
        self.path.join("lineage")
    }

    pub(crate) fn segment(&self, first: u64) -> PathBuf {
        self.lineage().join(format!("{first:020}.seg"))
    }

    /// A segment that gets its name once its first group is durable.
    pub(crate) fn unnamed_segment(&self, first: u64) -> PathBuf {
        self.lineage().join(format!("{first:020}.tmp"))
    }

    /// Removes segments that never got their name.
    pub(crate) fn remove_unnamed(&self) -> Result<(), OpenError> {
        self.remove_files(&self.lineage(), |name| name.ends_with(".tmp"))
    }

    /// Where a lineage is made that comes from elsewhere, until it gets its name.
    pub(crate) fn staged_lineage(&self) -> PathBuf {
        self.path.join("lineage.tmp")
    }

    pub(crate) fn staged_segment(&self, first: u64) -> PathBuf {
        self.staged_lineage().join(format!("{first:020}.seg"))
    }

    /// Removes what a cut short import left.
    pub(crate) fn clear_staged(&self) -> Result<(), OpenError> {
        self.refuse_links()?;
        self.remove_files(&self.staged_lineage(), |_| true)
    }

    /// What this directory's own folders are made of, replaced or removed is ours; behind a link it would be another's.
    pub(crate) fn refuse_links(&self) -> Result<(), OpenError> {
        for folder in ["lineage", "lineage.tmp", "bundles", "secrets"] {
            let path = self.path.join(folder);
            if self
                .disk
                .is_link(&path)
                .map_err(OpenError::disk("look at", &path))?
            {
                let why = "it is a link, and must be a directory of its own: remove it";
                let error = io::Error::new(io::ErrorKind::InvalidInput, why);
                return Err(OpenError::disk("use", &path)(error));
            }
        }
        Ok(())
    }

    fn remove_files(&self, dir: &Path, gone: impl Fn(&str) -> bool) -> Result<(), OpenError> {
        let names = disk::optional(self.disk.list(dir)).map_err(OpenError::disk("list", dir))?;
        for name in names.unwrap_or_default().iter().filter(|name| gone(name)) {
            let path = dir.join(name);
            self.disk
                .remove(&path)
                .map_err(OpenError::disk("remove", &path))?;
        }
        Ok(())
    }

    /// Proof that the object's parent forked it.
    pub(crate) fn parent_proof(&self) -> PathBuf {
        self.path.join("parent.proof")
    }

    /// The announcement that came with a capsule whose key did not.
    pub(crate) fn announcement(&self) -> PathBuf {
        self.path.join("announcement")
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    pub(crate) fn next_key(&self) -> PathBuf {
        self.path.join("next.key")
    }

    pub(crate) fn new_key(&self) -> PathBuf {
        self.path.join("next.key.new")
    }

    pub(crate) fn kept_key(&self) -> PathBuf {
        self.path.join("kept.key")
    }

    pub(crate) fn spare_key(&self) -> PathBuf {
        self.path.join("spare.key")
    }

    pub(crate) fn bundles(&self) -> PathBuf {
        self.path.join("bundles")
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Whether the directory holds an object.
    ///
    /// # Errors
    /// [`OpenError::Disk`].
    pub fn holds_object(&self) -> Result<bool, OpenError> {
        Ok(!self.segments()?.is_empty())
    }

    /// Whether a writer is at work.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.disk.is_locked(&self.lock_path()).unwrap_or(false)
    }

    /// First positions of the segments, in order.
    pub(crate) fn segments(&self) -> Result<Vec<u64>, OpenError> {
        let dir = self.lineage();
        let listed = disk::optional(self.disk.list(&dir)).map_err(OpenError::disk("list", &dir))?;
        let first = |name: &String| {
            name.strip_suffix(".seg")
                .filter(|digits| digits.len() == 20)?
                .parse()
                .ok()
        };
        let mut segments: Vec<u64> = listed.unwrap_or_default().iter().filter_map(first).collect();
        segments.sort_unstable();
        Ok(segments)
    }

    pub(crate) fn locked(&self) -> Result<WriterLock, OpenError> {
        if self.path.join(IN_MACHINE).symlink_metadata().is_ok() {
            return Err(OpenError::InMachine(self.path.clone()));
        }
        let path = self.lock_path();
        let whoami = format!("process {}", std::process::id());
        // A reader that looks whether somebody writes holds the lock for some microseconds.
        for _ in 0..20 {
            match self
                .disk
                .lock(&path, &whoami)
                .map_err(OpenError::disk("lock", &path))?
            {
                Lock::Held(guard) => return Ok(WriterLock(guard)),
                Lock::Taken(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
        match self
            .disk
            .lock(&path, &whoami)
            .map_err(OpenError::disk("lock", &path))?
        {
            Lock::Held(guard) => Ok(WriterLock(guard)),
            Lock::Taken(holder) => Err(OpenError::Locked {
                path: self.path.clone(),
                holder: if holder.is_empty() {
                    "another process".to_owned()
                } else {
                    holder
                },
            }),
        }
    }
}

/// The right to write, until dropped.
#[derive(Debug)]
pub(crate) struct WriterLock(
    #[expect(dead_code, reason = "held for its drop")] Box<dyn std::any::Any + Send + Sync>,
);
