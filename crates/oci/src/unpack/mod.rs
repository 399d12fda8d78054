//! A layer into a directory, without trusting it and without root.
//!
//! What a layer may be, and what becomes of it:
//!
//! - **Paths** lead down from the directory or the layer is refused: `..`, names too long, ways through symbolic links or
//!   files. A leading `/` means the root of the layer. See [`EntryPath`] and `tree.rs`, which is safe by construction.
//! - **Symbolic links** say what they like; nobody follows them here.
//! - **Hard links** lead to what the same layer has, in any order; else the layer is refused.
//! - **Whiteouts and opaque directories** apply to lower layers only, wherever in the layer they stand. They are kept as
//!   overlayfs has them (a character device 0/0, `user.overlay.opaque`), which Linux since 5.8 lets everybody make.
//! - **Owners, devices, pipes, capabilities, set-user and set-group bits**: as root all are made as the layer says, so the
//!   directory above must be closed to others. Otherwise files are ours, readable to us, without those bits; devices and
//!   pipes are left out. [`Entries`] hold all of it either way, and [`Report`] counts what is only there.
//! - **Attributes** of overlayfs and of security modules are never set: a layer could steer the host by them.
//! - **The device 0/0** is left out too, since overlayfs takes it for a whiteout.
//! - **Bombs** are stopped while they grow: see [`Limits`].

mod end;
mod entry;
mod fill;
mod member;
mod metadata;
mod path;
mod pour;
mod stream;
mod tree;

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use entry::{Entries, Entry, Kind};
pub use member::TarError;
pub use path::{EntryPath, MAX_DEPTH, MAX_PATH_BYTES, NotAnEntryPath};
pub use stream::Bomb;
pub use tree::TreeError;

pub(crate) use entry::{read as read_entries, write as write_entries};
pub(crate) use member::{MemberKind, Members};
pub(crate) use metadata::Kept;
pub(crate) use tree::Tree;

use crate::descriptor::ContentDigest;

/// How large a layer may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members at most.
    pub entries: u64,
    /// Bytes of the uncompressed archive at most; what headers declare counts before it is written.
    pub bytes: u64,
    /// How many times larger than its blob, once it has more than 64 MiB.
    pub ratio: u64,
    /// Bytes of paths, links and attributes at most, which are held in memory.
    pub name_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            bytes: 32 << 30,
            ratio: 200,
            name_bytes: 256 << 20,
        }
    }
}

/// What a layer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Digest of the blob.
    pub digest: ContentDigest,
    /// Size of the blob, bytes.
    pub size: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: ContentDigest,
}

/// What was done with a layer. What is counted as kept holds in the entries only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Plain files.
    pub files: u64,
    /// Directories, also those that the layer only implies.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub links: u64,
    /// Whiteouts and opaque directories.
    pub whiteouts: u64,
    /// Bytes in plain files.
    pub bytes: u64,
    /// Devices and pipes that were not made.
    pub devices_kept: u64,
    /// The first of them.
    pub devices: Vec<EntryPath>,
    /// Owners that files could not be given.
    pub owners_kept: u64,
    /// Files without the special bits that they should have.
    pub special_bits_kept: u64,
    /// Files without extended attributes that they should have.
    pub xattrs_kept: u64,
    /// Whether overlayfs can take the directory as it is: no, where the file system has neither whiteouts nor attributes
    /// for opaque directories.
    pub overlay: bool,
    /// Whether the layer hides all that is below it.
    pub opaque_root: bool,
}

/// A layer in its directory.
#[derive(Debug)]
pub struct Unpacked {
    /// All that the layer says of its files.
    pub entries: Entries,
    /// What was done.
    pub report: Report,
}

/// Why a layer was not unpacked. What was written until then is the caller's to remove.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A path that is none.
    #[error("the layer has the path `{path}`, which is refused: {why}; do not use this image")]
    Path {
        /// The path, escaped.
        path: String,
        /// What is wrong.
        why: NotAnEntryPath,
    },
    /// A whiteout of nothing, or of the directory itself.
    #[error("the layer hides `{0}`, which is no name; do not use this image")]
    Whiteout(String),
    /// The root of the layer is something else than a directory.
    #[error("the layer has something else than a directory as its root; do not use this image")]
    Root,
    /// Something cannot be made where the layer wants it.
    #[error("`{path}` of the layer cannot be made")]
    Tree {
        /// The path.
        path: EntryPath,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// A hard link to nothing, to a directory or to itself.
    #[error(
        "`{path}` of the layer is a link to `{target}`, which is no file of the same layer; do not use this image"
    )]
    Link {
        /// The link.
        path: EntryPath,
        /// Where it leads.
        target: EntryPath,
    },
    /// Not a tar archive that we take.
    #[error("the layer cannot be read; build or push the image again")]
    Archive(#[source] TarError),
    /// The blob cannot be read or decompressed.
    #[error("the layer cannot be read or decompressed; pull again")]
    Read(#[source] std::io::Error),
    /// It grows beyond bounds.
    #[error("{0}; raise the limit if you trust the image")]
    Bomb(Bomb),
    /// Too many members.
    #[error("the layer has more than {0} entries; raise the limit if you trust the image")]
    Entries(u64),
    /// Too much to remember of them.
    #[error(
        "the layer's names and attributes have more than {0} bytes; raise the limit if you trust the image"
    )]
    Names(u64),
    /// Not the blob that was named.
    #[error(
        "the layer is not the one that is named: {found} of {found_size} bytes instead of {wanted} of {wanted_size}; pull again"
    )]
    Digest {
        /// What it is.
        found: ContentDigest,
        /// Its size, bytes.
        found_size: u64,
        /// What it should be.
        wanted: ContentDigest,
        /// Its size, bytes.
        wanted_size: u64,
    },
    /// The right blob, with something else in it than the config says.
    #[error("the layer's archive is {found}, its image says {wanted}; do not use this image")]
    DiffId {
        /// What it is.
        found: ContentDigest,
        /// What it should be.
        wanted: ContentDigest,
    },
    /// The caller ended it.
    #[error("unpacking was ended on request")]
    Cancelled,
}

impl UnpackError {
    /// Whether the layer is at fault, so that it will be so next time; else the disk, or whoever ended it.
    #[must_use]
    pub const fn is_of_layer(&self) -> bool {
        !matches!(
            self,
            Self::Cancelled
                | Self::Tree {
                    source: TreeError::System(_),
                    ..
                }
        )
    }
}

/// How far unpacking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Members so far.
    pub entries: u64,
    /// Bytes of files so far.
    pub bytes: u64,
}

/// Told how far unpacking is, at each member and each quarter MiB; `Break` ends it.
pub type Watch<'a> = dyn FnMut(Step) -> ControlFlow<()> + 'a;

/// Whether this process is root, and so gives files the owners that layers say.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Unpacks a layer (plain, gzip or zstd) into the empty directory `into`, and holds it to what is expected of it. Nothing
/// outside the directory is touched. The content is not synced.
///
/// `as_root`: see the head of this module; [`is_root`] is the usual answer.
///
/// # Errors
/// See [`UnpackError`].
pub fn layer(
    input: impl Read,
    expected: &Expected,
    into: &Path,
    as_root: bool,
    limits: Limits,
    watch: &mut Watch<'_>,
) -> Result<Unpacked, UnpackError> {
    let mut blob = stream::Blob::new(input, expected.size);
    let plain = stream::Plain::new(&mut blob, limits).map_err(pour::read_error)?;
    let mut members = Members::new(plain);
    let unpacked = fill::fill(&mut members, into, as_root, limits, watch)?;
    // Behind the end of the archive may be padding, which counts for both digests.
    let (diff_id, _) = members.into_inner().end().map_err(pour::read_error)?;
    let (digest, size) = blob.end().map_err(pour::read_error)?;
    if (digest, size) != (expected.digest, expected.size) {
        return Err(UnpackError::Digest {
            found: digest,
            found_size: size,
            wanted: expected.digest,
            wanted_size: expected.size,
        });
    }
    if diff_id != expected.diff_id {
        return Err(UnpackError::DiffId {
            found: diff_id,
            wanted: expected.diff_id,
        });
    }
    Ok(unpacked)
}
