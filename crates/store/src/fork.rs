//! Forking: a child by the controllers' will, provable on both sides.
//!
//! 1. [`stage`] makes the child whole in its directory, durably, but for its name: it is no object yet. Its id is known
//!    then, and the controllers sign for it ([`Staged::statement`]).
//! 2. [`commit`] records `forked` in the parent, durably; then keeps the proof beside the child, durably; then gives the
//!    child its name.
//!
//! A crash before the record leaves no child; one behind it a child without name, which [`finish`] names. If that child's
//! directory is lost first, the parent's record speaks of a child that never was. At no time there is a child without
//! proof. Not here: whether the child's rules are narrower (`core::bundle::attenuation`), whether the rules permit it (core's
//! decisions); the caller asks both.

mod carry;

use std::path::PathBuf;

use suijuris_core::codec;
use suijuris_core::governance::Action;
use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::lineage::{
    self, Approval, Body, ChainError, Decision, Forked, Inception, MAX_PARENT_PROOF, Mutated, Outcome,
    Parent, ParentProof, ParentProofError, State, Statement, Stored, VerifiedParent,
};
use suijuris_core::memory::{Name, Value, Write};
use suijuris_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::bundle_store::{self, BundleFiles};
use crate::disk;
use crate::frame::{FRAME_BYTES, Frame, HEADER_BYTES};
use crate::keys;
use crate::lineage_reader::{Step, Walk};
use crate::object_dir::{ObjectDir, OpenError};
use crate::opening::Depth;
use crate::reader::Reader;
use crate::secrets;
use crate::staging::{self, Staging, StagingError};
use crate::writer::{Draft, Sign, Sizes, StageError, Writer};

/// What a child is made from. `seed` and `nonce` are fresh random bytes.
#[derive(Debug, Clone)]
pub struct ForkRequest {
    /// Name for people.
    pub name: String,
    /// Owners and how many of them must sign; the parent's where absent.
    pub controllers: Option<(Vec<PublicKey>, u32)>,
    /// Makes two children of one definition two.
    pub nonce: Vec<u8>,
    /// Its time of birth.
    pub at: Timestamp,
    /// Its definition.
    pub bundle: BundleFiles,
    /// Seed of its first epoch's key.
    pub seed: Zeroizing<[u8; 32]>,
    /// Whether it gets the parent's secrets.
    pub secrets: bool,
}

/// A child that is whole and durable but for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Its id once it is born.
    pub child: ObjectId,
    /// The parent, and the head it must still have when the child is born.
    pub parent: Parent,
}

impl Staged {
    /// What the parent's controllers sign.
    #[must_use]
    pub const fn statement(&self) -> Statement {
        Statement {
            object: self.parent.object,
            action: Action::Fork,
            content: *self.child.digest(),
        }
    }
}

/// A staged child, and what it does not know of its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The child.
    pub staged: Staged,
    /// Fields that the parent had written and the child does not get: secrets that were not asked for, fields with
    /// `fresh_for` (a carried write would make them as fresh as new), and those that its schema lacks or has otherwise.
    pub left_out: Vec<Name>,
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The child's directory holds an object.
    #[error("{0} already holds an object; choose another directory")]
    Exists(PathBuf),
    /// The child's directory.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The parent's directory, or the child's.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The child's bundle.
    #[error("the child's bundle cannot be used")]
    Bundle(#[from] suijuris_core::bundle::Error),
    /// A bundle in the child's store.
    #[error("the child's bundle cannot be kept")]
    Store(#[from] bundle_store::Error),
    /// The child's first records.
    #[error("the child's first record is not valid")]
    Chain(#[from] ChainError),
    /// A secret of the parent.
    #[error("a secret of the parent cannot be given to the child")]
    Secret(#[from] secrets::Error),
    /// Something cannot be encoded.
    #[error("the child cannot be encoded")]
    Encoding(#[from] codec::Error),
    /// The rules refused.
    #[error("the parent's rules refuse to fork")]
    Refused,
    /// Nothing is staged.
    #[error("no child is staged in {0}; stage one first")]
    NothingStaged(PathBuf),
    /// The parent moved on.
    #[error("the parent has changed since the child was staged; stage it again and sign for its new id")]
    ParentMoved,
    /// The parent's record: too few approvals, a full disk.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The proof.
    #[error("the child cannot be proved")]
    Proof(#[from] ParentProofError),
}

/// Why an object's parent is not known.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// The object's directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The proof.
    #[error("the object is not the fork it claims to be")]
    Proof(#[from] ParentProofError),
}

/// The parent that provably forked the object in `object_dir`; nothing where its inception names none.
///
/// # Errors
/// [`ParentError::Proof`] where it names one without a proof that holds: it is a copy, not a fork.
pub fn parent_of(object_dir: &ObjectDir) -> Result<Option<VerifiedParent>, ParentError> {
    let mut walk = Walk::from_start(object_dir)?;
    let Step::Record(_, inception) = walk.step()? else {
        return Err(OpenError::NotAnObject(object_dir.path().to_owned()).into());
    };
    // Whatever lies beside an object that names no parent proves nothing and harms nothing.
    let names_parent = matches!(&inception.record.body, Body::Inception(body) if body.parent.is_some());
    let proof = if names_parent { proof(object_dir)? } else { None };
    Ok(ParentProof::verify(proof.as_deref(), &inception)?)
}

/// The proof of the parent that lies in `object_dir`.
pub(crate) fn proof(object_dir: &ObjectDir) -> Result<Option<Vec<u8>>, OpenError> {
    let path = object_dir.parent_proof();
    let read = disk::optional(disk::read(&*object_dir.disk, &path, MAX_PARENT_PROOF as u64));
    read.map_err(OpenError::disk("read", &path))
}

/// Makes a child of `parent` in `object_dir`, whose parent directory must exist, up to its name. What was staged there
/// before is replaced. The child begins with the parent's memory, written anew at its birth.
///
/// # Errors
/// [`ForkError`]; nothing is staged then.
pub fn stage(parent: &Writer, object_dir: &ObjectDir, request: ForkRequest) -> Result<Prepared, ForkError> {
    let origin = parent.staged(Clone::clone);
    let mut staging = Staging::begin(object_dir, Sizes::default())?;
    if !staging.is_bare() {
        return Err(ForkError::Exists(object_dir.path().to_owned()));
    }
    let waiting = SecretKey::from_seed(&request.seed);
    let bundle = request.bundle.open()?;
    staging.bundle(bundle.id(), &request.bundle)?;
    let head = origin.head();
    let (controllers, threshold) = request
        .controllers
        .unwrap_or_else(|| (head.controllers.clone(), head.threshold));
    let staged = Parent {
        object: head.object,
        head: head.record,
    };
    let inception = Inception {
        name: request.name,
        controllers,
        threshold,
        next: waiting.public().commitment(),
        nonce: request.nonce,
        parent: Some(staged.clone()),
        class: None,
        ticket: None,
    };
    let schema = std::sync::Arc::clone(bundle.schema());
    let (mut child, first) = State::create(inception, request.at, bundle.id(), schema, &waiting)?;
    staging.check(&child)?;
    let mut known = staging.known(object_dir)?;
    staging.record(&first, &mut known)?;
    let carry = carry::carry(origin.memory(), child.memory(), request.secrets)?;
    for change in carry.changes {
        for write in change.values() {
            if let Write::Set(Value::Commitment(commitment)) = write {
                staging.keep_secret(&parent.object_dir().secret(commitment)?)?;
            }
        }
        let body = Body::Mutated(Mutated {
            by: "controller".to_owned(),
            principal: None,
            change,
        });
        let stored = child.extend(body, request.at, None, Some(&waiting), staging.bundles())?;
        staging.record(&stored, &mut known)?;
    }
    staging.keep(object_dir.new_key(), &*waiting.seed())?;
    staging.keep_staged()?;
    Ok(Prepared {
        staged: Staged {
            child: first.id.into(),
            parent: staged,
        },
        left_out: carry.left_out,
    })
}

/// The child that is staged in `object_dir`, if one is.
///
/// # Errors
/// [`ForkError::Open`].
pub fn staged(object_dir: &ObjectDir) -> Result<Option<Staged>, ForkError> {
    Ok(staged_inception(object_dir)?.and_then(|first| of_inception(&first)))
}

fn of_inception(first: &Stored) -> Option<Staged> {
    match &first.record.body {
        Body::Inception(body) => Some(Staged {
            child: first.id.into(),
            parent: body.parent.clone()?,
        }),
        _ => None,
    }
}

fn staged_inception(object_dir: &ObjectDir) -> Result<Option<Stored>, OpenError> {
    let path = object_dir.staged_segment(0);
    let file = disk::optional(object_dir.disk.open(&path, disk::How::Read))
        .map_err(OpenError::disk("open", &path))?;
    let Some(file) = file else { return Ok(None) };
    let mut bytes = vec![0; FRAME_BYTES + lineage::MAX_BYTES];
    let read = file
        .read_at(&mut bytes, HEADER_BYTES as u64)
        .map_err(OpenError::disk("read", &path))?;
    bytes.truncate(read);
    Ok(first_record(&bytes))
}

/// The record in the first frame of `bytes`, if there is one.
fn first_record(bytes: &[u8]) -> Option<Stored> {
    let frame = Frame::decode(bytes)?;
    let record = bytes.get(FRAME_BYTES..)?.get(..frame.record_bytes())?;
    let fits = frame.fits(RecordId::of(record).digest());
    Stored::decode(record.to_vec()).ok().filter(|_| fits)
}

/// Lets the child that is staged in `object_dir` be born: `parent` records it, by `decision` and the controllers'
/// `approvals` of [`Staged::statement`]. Everything is durable when it returns. After an error with the parent's record
/// made (the parent's history says so), [`finish`] ends it.
///
/// # Errors
/// [`ForkError`].
pub fn commit(
    parent: &Writer,
    object_dir: &ObjectDir,
    decision: Decision,
    approvals: Vec<Approval>,
    at: Timestamp,
) -> Result<VerifiedParent, ForkError> {
    if decision.action != Action::Fork || decision.outcome != Outcome::Permit {
        return Err(ForkError::Refused);
    }
    let nothing = || ForkError::NothingStaged(object_dir.path().to_owned());
    let staged = staged(object_dir)?.ok_or_else(nothing)?;
    let ticket = parent.stage_with(|state| {
        let head = state.head();
        if (head.object, head.record) != (staged.parent.object, staged.parent.head) {
            return Err(ForkError::ParentMoved);
        }
        let body = Body::Forked(Forked {
            decision,
            child: staged.child,
            approvals,
        });
        Ok(Draft {
            body,
            at,
            bundle: None,
            sign: Sign::Now,
        })
    })?;
    ticket.wait().map_err(StageError::from)?;
    let first = staged_inception(object_dir)?.ok_or_else(nothing)?;
    complete(parent.object_dir(), object_dir, &first, ticket.seq())?.ok_or_else(nothing)
}

/// Names the child that is staged in `object_dir` if the object in `parent` has recorded it, and returns the parent as it is
/// proved; nothing where there is no such record: then the child can still be born by [`commit`]. A child that has its
/// name already is only verified.
///
/// # Errors
/// [`ForkError`].
pub fn finish(parent: &ObjectDir, object_dir: &ObjectDir) -> Result<Option<VerifiedParent>, ForkError> {
    let Some(first) = staged_inception(object_dir)? else {
        return match object_dir.holds_object()? {
            true => parent_of(object_dir).map_err(|error| match error {
                ParentError::Open(error) => ForkError::Open(error),
                ParentError::Proof(error) => ForkError::Proof(error),
            }),
            false => Ok(None),
        };
    };
    complete(parent, object_dir, &first, 1)
}

/// Names the staged child if the parent has recorded it at `from` or behind.
fn complete(
    parent: &ObjectDir,
    object_dir: &ObjectDir,
    first: &Stored,
    from: u64,
) -> Result<Option<VerifiedParent>, ForkError> {
    let child = ObjectId::from(first.id);
    let reader = Reader::open(parent, Depth::Tail)?;
    let names = |item: &Result<Stored, OpenError>| match item {
        Ok(stored) => matches!(&stored.record.body, Body::Forked(body) if body.child == child),
        Err(_) => true,
    };
    let Some(forked) = reader.records(from..u64::MAX)?.find(names).transpose()? else {
        return Ok(None);
    };
    let inception = reader.records(0..1)?.next().transpose()?;
    let inception = inception.ok_or_else(|| OpenError::NotAnObject(parent.path().to_owned()))?;
    let proof = ParentProof::of(&inception, &forked)?;
    let verified = ParentProof::verify(Some(&proof), first)?;
    let _lock = object_dir.locked()?;
    let path = object_dir.parent_proof();
    disk::replace(&*object_dir.disk, &path, &proof).map_err(OpenError::disk("write", &path))?;
    staging::activate(object_dir)?;
    keys::adopt(object_dir, &object_dir.new_key())
        .map_err(OpenError::disk("adopt", &object_dir.next_key()))?;
    Ok(verified)
}
