//! The beginning of an object on disk.

use std::io;
use std::path::PathBuf;

use suijuris_core::id::ObjectId;
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::lineage::{Broken, Checkpoint, Inception, Parent, State, Stored};
use suijuris_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::disk::{self, How};
use crate::frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header};
use crate::home::{Home, OpenError};
use crate::opening;
use crate::shelf::{self, BundleFiles, Shelf};

/// What a new object is made from. `seed` and `nonce` are fresh random bytes.
#[derive(Debug, Clone)]
pub struct Founding {
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
    /// Its time of birth.
    pub at: Timestamp,
    /// Its definition.
    pub bundle: BundleFiles,
    /// Seed of its first epoch's key.
    pub seed: Zeroizing<[u8; 32]>,
}

/// Why no object was founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// There is one already.
    #[error("{0} holds an object already; choose another directory")]
    Exists(PathBuf),
    /// The inception is not sound.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The bundle.
    #[error("the bundle cannot be kept")]
    Bundle(#[from] shelf::Error),
    /// The directory.
    #[error(transparent)]
    Home(#[from] OpenError),
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

/// Founds an object in `home`, whose parent directory must exist. Everything is durable when it returns; a founding that
/// was cut short leaves no object, and can be done again.
///
/// # Errors
/// [`FoundError`].
pub fn found(home: &Home, founding: Founding) -> Result<ObjectId, FoundError> {
    let failed = |path: PathBuf| move |source| FoundError::Disk { path, source };
    let here = || failed(home.path().to_owned());
    let parent = home
        .path()
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    home.disk.create_dir(home.path()).map_err(here())?;
    home.disk
        .sync_dir(parent.unwrap_or_else(|| std::path::Path::new(".")))
        .map_err(here())?;
    let vacant = || match home.holds_object()? {
        true => Err(FoundError::Exists(home.path().to_owned())),
        false => Ok(()),
    };
    vacant()?;
    let _held = home.locked()?;
    vacant()?;
    let bundle = Shelf::of(home).put(&founding.bundle)?;
    let waiting = SecretKey::from_seed(&founding.seed);
    disk::replace(&*home.disk, &home.next_key(), &*waiting.seed()).map_err(failed(home.next_key()))?;
    let inception = Inception {
        name: founding.name,
        controllers: founding.controllers,
        threshold: founding.threshold,
        next: waiting.public().commitment(),
        nonce: founding.nonce,
        parent: founding.parent,
    };
    let schema = std::sync::Arc::clone(bundle.schema());
    let (state, stored) = State::found(inception, founding.at, bundle.id(), schema, &waiting)?;
    write_first(home, &state, &stored).map_err(failed(home.lineage()))?;
    let frame_bytes = (FRAME_BYTES + stored.bytes.len()) as u64;
    let position = opening::position(HEADER_BYTES as u64 + frame_bytes, frame_bytes);
    let checkpoint = Checkpoint::of(&state, position, &waiting).map_err(io::Error::other);
    checkpoint
        .and_then(|bytes| disk::replace(&*home.disk, &home.checkpoint(), &bytes))
        .map_err(failed(home.checkpoint()))?;
    Ok(state.head().object)
}

/// The first segment gets its name once its record is durable: that is the moment of birth.
fn write_first(home: &Home, state: &State, stored: &Stored) -> io::Result<()> {
    let header = Header {
        object: state.head().object,
        first: 0,
        prev: Header::no_record(),
    };
    let mut bytes = header.encode();
    Frame::push(stored, 0, &mut bytes);
    home.disk.create_dir(&home.lineage())?;
    home.disk.sync_dir(home.path())?;
    let file = home.disk.open(&home.unnamed_segment(0), How::Create)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    home.disk.rename(&home.unnamed_segment(0), &home.segment(0))?;
    home.disk.sync_dir(&home.lineage())
}
