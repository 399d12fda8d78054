//! The beginning of an object on disk.

use std::io;
use std::path::PathBuf;

use suijuris_core::class::Instantiation;
use suijuris_core::id::ObjectId;
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::lineage::{ChainError, Checkpoint, Inception, Parent, State, Stored};
use suijuris_core::ticket::SignedTicket;
use suijuris_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::bundle_store::{self, BundleFiles, BundleStore};
use crate::disk::Together;
use crate::frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header};
use crate::object_dir::{ObjectDir, OpenError};
use crate::opening;
use crate::queue::FIRST_BYTES;

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
    begin(object_dir, creation, None, |_| {})
}

/// As [`create`]; `written` is told which object it is once all of it is written, and before any of it is durable.
///
/// # Errors
/// [`CreateError`].
pub fn create_telling(
    object_dir: &ObjectDir,
    creation: Creation,
    written: impl FnOnce(ObjectId),
) -> Result<ObjectId, CreateError> {
    begin(object_dir, creation, None, written)
}

/// As [`create`], by the word of its owners: name, definition, time and seed are those of `creation`, owners and nonce those of
/// the ticket.
///
/// # Errors
/// [`CreateError`]; [`CreateError::Chain`] where the ticket does not let it begin.
pub fn create_by_ticket(
    object_dir: &ObjectDir,
    creation: Creation,
    ticket: SignedTicket,
) -> Result<ObjectId, CreateError> {
    let creation = Creation {
        controllers: ticket.ticket.controllers.clone(),
        threshold: ticket.ticket.threshold,
        nonce: ticket.ticket.nonce.to_vec(),
        ..creation
    };
    begin(object_dir, creation, Some(ticket), |_| {})
}

fn begin(
    object_dir: &ObjectDir,
    creation: Creation,
    ticket: Option<SignedTicket>,
    written: impl FnOnce(ObjectId),
) -> Result<ObjectId, CreateError> {
    let failed = |path: PathBuf| move |source| CreateError::Disk { path, source };
    let here = || failed(object_dir.path().to_owned());
    let mut together = Together::on(&*object_dir.disk);
    together.dir(object_dir.path()).map_err(here())?;
    let vacant = || match object_dir.holds_object()? {
        true => Err(CreateError::Exists(object_dir.path().to_owned())),
        false => Ok(()),
    };
    vacant()?;
    let _held = object_dir.locked()?;
    vacant()?;
    let bundle = BundleStore::of(object_dir).put_together(&creation.bundle, &mut together)?;
    let waiting = SecretKey::from_seed(&creation.seed);
    together
        .file(&object_dir.next_key(), &*waiting.seed())
        .map_err(failed(object_dir.next_key()))?;
    let inception = Inception {
        name: creation.name,
        controllers: creation.controllers,
        threshold: creation.threshold,
        next: waiting.public().commitment(),
        nonce: creation.nonce,
        parent: creation.parent,
        class: creation.class,
        ticket,
    };
    let schema = std::sync::Arc::clone(bundle.schema());
    let (state, stored) = State::create(inception, creation.at, bundle.id(), schema, &waiting)?;
    let frame_bytes = (FRAME_BYTES + stored.bytes.len()) as u64;
    let position = opening::position(HEADER_BYTES as u64 + frame_bytes, frame_bytes);
    let checkpoint = Checkpoint::of(&state, position, &waiting).map_err(io::Error::other);
    let fresh = object_dir.checkpoint().with_extension("tmp");
    checkpoint
        .and_then(|bytes| together.file(&fresh, &bytes))
        .map_err(failed(object_dir.checkpoint()))?;
    let written = || written(state.head().object);
    write_first(object_dir, &state, &stored, together, written).map_err(failed(object_dir.lineage()))?;
    // Behind the birth, since what is born brings its own. Only a short cut: whether its name lasts does not matter.
    object_dir
        .disk
        .rename(&fresh, &object_dir.checkpoint())
        .map_err(failed(object_dir.checkpoint()))?;
    Ok(state.head().object)
}

/// The first segment gets its name once its record and all that is `together` with it is durable: that is the moment of birth.
fn write_first(
    object_dir: &ObjectDir,
    state: &State,
    stored: &Stored,
    mut together: Together<'_>,
    written: impl FnOnce(),
) -> io::Result<()> {
    let header = Header {
        object: state.head().object,
        first: 0,
        prev: Header::no_record(),
    };
    let mut bytes = header.encode();
    Frame::push(stored, 0, &mut bytes);
    // Zeros, as a writer allocates them.
    bytes.resize(bytes.len().max(FIRST_BYTES), 0);
    together.dir(&object_dir.lineage())?;
    together.file(&object_dir.unnamed_segment(0), &bytes)?;
    written();
    together.sync()?;
    object_dir
        .disk
        .rename(&object_dir.unnamed_segment(0), &object_dir.segment(0))?;
    object_dir.disk.sync_dir(&object_dir.lineage())
}
