//! The beginning of an object on disk.

use std::io;
use std::path::PathBuf;

use suijuris_core::class::Instantiation;
use suijuris_core::id::ObjectId;
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::lineage::{ChainError, Checkpoint, Inception, Parent, State, Stored};
use suijuris_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::bundle_store::{self, BundleFiles, BundleStore};
use crate::disk::{self, How};
use crate::frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header};
use crate::object_dir::{ObjectDir, OpenError};
use crate::opening;

/// What a new object is made from. `seed` and `nonce` are fresh random bytes.
#[derive(Debug, Clone)]
pub struct Creation {
    /// Name for people.
    pub name: String,
    /// Owners.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
    /// Makes two objects of one definition two.
    pub nonce: Vec<u8>,
    /// The object that this one was forked from.
    pub parent: Option<Parent>,
    /// The class that it is an instance of, and the verdict that permits it.
    pub class: Option<Instantiation>,
    /// Its time of birth.
    pub at: Timestamp,
    /// Its definition.
    pub bundle: BundleFiles,
    /// Seed of its first epoch's key.
    pub seed: Zeroizing<[u8; 32]>,
}

/// Why no object was created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one already.
    #[error("{0} already holds an object; choose another directory")]
    Exists(PathBuf),
    /// The inception is not sound.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The bundle.
    #[error("the bundle cannot be kept")]
    Bundle(#[from] bundle_store::Error),
    /// The directory.
    #[error(transparent)]
    Open(#[from] OpenError),
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

/// Creates an object in `object_dir`, whose parent directory must exist. Everything is durable when it returns; a
/// creation that was cut short leaves no object, and can be done again.
///
/// # Errors
/// [`CreateError`].
pub fn create(object_dir: &ObjectDir, creation: Creation) -> Result<ObjectId, CreateError> {
    let failed = |path: PathBuf| move |source| CreateError::Disk { path, source };
    let here = || failed(object_dir.path().to_owned());
    let parent = object_dir
        .path()
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    object_dir.disk.create_dir(object_dir.path()).map_err(here())?;
    object_dir
        .disk
        .sync_dir(parent.unwrap_or_else(|| std::path::Path::new(".")))
        .map_err(here())?;
    let vacant = || match object_dir.holds_object()? {
        true => Err(CreateError::Exists(object_dir.path().to_owned())),
        false => Ok(()),
    };
    vacant()?;
    let _held = object_dir.locked()?;
    vacant()?;
    let bundle = BundleStore::of(object_dir).put(&creation.bundle)?;
    let waiting = SecretKey::from_seed(&creation.seed);
    disk::replace(&*object_dir.disk, &object_dir.next_key(), &*waiting.seed())
        .map_err(failed(object_dir.next_key()))?;
    let inception = Inception {
        name: creation.name,
        controllers: creation.controllers,
        threshold: creation.threshold,
        next: waiting.public().commitment(),
        nonce: creation.nonce,
        parent: creation.parent,
        class: creation.class,
    };
    let schema = std::sync::Arc::clone(bundle.schema());
    let (state, stored) = State::create(inception, creation.at, bundle.id(), schema, &waiting)?;
    write_first(object_dir, &state, &stored).map_err(failed(object_dir.lineage()))?;
    let frame_bytes = (FRAME_BYTES + stored.bytes.len()) as u64;
    let position = opening::position(HEADER_BYTES as u64 + frame_bytes, frame_bytes);
    let checkpoint = Checkpoint::of(&state, position, &waiting).map_err(io::Error::other);
    checkpoint
        .and_then(|bytes| disk::replace(&*object_dir.disk, &object_dir.checkpoint(), &bytes))
        .map_err(failed(object_dir.checkpoint()))?;
    Ok(state.head().object)
}

/// The first segment gets its name once its record is durable: that is the moment of birth.
fn write_first(object_dir: &ObjectDir, state: &State, stored: &Stored) -> io::Result<()> {
    let header = Header {
        object: state.head().object,
        first: 0,
        prev: Header::no_record(),
    };
    let mut bytes = header.encode();
    Frame::push(stored, 0, &mut bytes);
    object_dir.disk.create_dir(&object_dir.lineage())?;
    object_dir.disk.sync_dir(object_dir.path())?;
    let file = object_dir
        .disk
        .open(&object_dir.unnamed_segment(0), How::Create)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    object_dir
        .disk
        .rename(&object_dir.unnamed_segment(0), &object_dir.segment(0))?;
    object_dir.disk.sync_dir(&object_dir.lineage())
}
