//! The proof that a child carries of its parent: the parent's inception, and the record by which it forked the child.
//!
//! It shows that the controllers whom the parent's inception names approved exactly this child. Not here: the parent's
//! whole chain, which alone says where in its history the record stands.

use serde::{Deserialize, Serialize};

use super::approval::Statement;
use super::body::{Body, Inception};
use super::checks::{self, Fault};
use super::record::{self, Stored};
use crate::codec;
use crate::governance::Action;
use crate::id::{ObjectId, RecordId};
use crate::time::Timestamp;

/// Format version of proofs.
const VERSION: u32 = 1;

/// Size of an encoded proof at most, bytes: two records and their frame.
pub const MAX_PARENT_PROOF: usize = 2 * record::MAX_BYTES + 64;

/// Two records of the parent, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentProof {
    v: u32,
    #[serde(with = "serde_bytes")]
    inception: Vec<u8>,
    #[serde(with = "serde_bytes")]
    forked: Vec<u8>,
}

/// A parent that provably forked the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedParent {
    /// The parent.
    pub object: ObjectId,
    /// Its name for people, at its inception.
    pub name: String,
    /// Its head when the child was created.
    pub head: RecordId,
    /// The record that names the child, directly behind that head.
    pub forked: RecordId,
    /// Position of that record.
    pub seq: u64,
    /// Time of that record.
    pub at: Timestamp,
}

/// Why an object that names a parent is not its child.
#[derive(Debug, thiserror::Error)]
pub enum ParentProofError {
    /// There is no proof.
    #[error(
        "its inception names a parent, but there is no proof of it: a copy is not a fork; fork the parent with an owner's key"
    )]
    Missing,
    /// A proof, but no parent is named.
    #[error("there is proof of a parent that its inception does not name")]
    NoParent,
    /// Not the canonical bytes of a proof.
    #[error("the proof of its parent cannot be read")]
    Encoding(#[from] codec::Error),
    /// Of a later format.
    #[error(
        "the proof of its parent has version {0}, this program reads version {VERSION}; use a newer suijuris"
    )]
    Version(u32),
    /// The parent's inception is not sound.
    #[error("the parent's inception in the proof is not valid")]
    Inception(#[source] Fault),
    /// The inception of another object than the parent.
    #[error("the proof is of parent {0}, which its inception does not name")]
    OtherParent(ObjectId),
    /// The other record does not name the child, or is not the parent's.
    #[error("the parent's record in the proof does not name this child")]
    OtherChild,
    /// The record does not stand behind the head that the child names.
    #[error("the parent's record in the proof is at another position in its history than the child says")]
    OtherHead,
    /// Too few controllers, or the record's signature.
    #[error("the parent's record in the proof is not valid")]
    Forked(#[source] Fault),
}

impl ParentProof {
    /// The canonical bytes of the proof made of the parent's inception and its `forked` record.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn of(inception: &Stored, forked: &Stored) -> Result<Vec<u8>, codec::Error> {
        codec::encode(&Self {
            v: VERSION,
            inception: inception.bytes.clone(),
            forked: forked.bytes.clone(),
        })
    }

    /// What `proof` shows of the object that begins with `child`: nothing where its inception names no parent.
    ///
    /// The `forked` record's key is not traced back to the parent's chain; what carries the proof is the controllers'
    /// approval over the child's id, and that id is the child's whole inception, parent and head included.
    ///
    /// # Errors
    /// [`ParentProofError`].
    pub fn verify(proof: Option<&[u8]>, child: &Stored) -> Result<Option<VerifiedParent>, ParentProofError> {
        let parent = match &child.record.body {
            Body::Inception(inception) => inception.parent.as_ref(),
            _ => None,
        };
        let (proof, parent) = match (proof, parent) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(ParentProofError::NoParent),
            (None, Some(_)) => return Err(ParentProofError::Missing),
            (Some(proof), Some(parent)) => (proof, parent),
        };
        let proof: Self = codec::decode(proof, MAX_PARENT_PROOF)?;
        if proof.v != VERSION {
            return Err(ParentProofError::Version(proof.v));
        }
        let inception = Stored::decode(proof.inception)?;
        let controllers = born(&inception).map_err(ParentProofError::Inception)?;
        if ObjectId::from(inception.id) != parent.object {
            return Err(ParentProofError::OtherParent(inception.id.into()));
        }
        let forked = Stored::decode(proof.forked)?;
        let record = &forked.record;
        let child = ObjectId::from(child.id);
        let body = match &record.body {
            Body::Forked(body) if body.child == child && record.object == Some(parent.object) => body,
            _ => return Err(ParentProofError::OtherChild),
        };
        if record.prev != Some(parent.head) {
            return Err(ParentProofError::OtherHead);
        }
        let statement = Statement {
            object: parent.object,
            action: Action::Fork,
            content: *child.digest(),
        };
        checks::enough(
            &statement,
            &body.approvals,
            &controllers.controllers,
            controllers.threshold,
        )
        .map_err(ParentProofError::Forked)?;
        if !record.signature_holds() {
            return Err(ParentProofError::Forked(Fault::Signature));
        }
        Ok(Some(VerifiedParent {
            object: parent.object,
            name: controllers.name.clone(),
            head: parent.head,
            forked: forked.id,
            seq: record.seq,
            at: record.at,
        }))
    }
}

/// A sound inception's body.
fn born(inception: &Stored) -> Result<&Inception, Fault> {
    checks::version(&inception.record)?;
    checks::inception(&inception.record, inception.id)?;
    checks::signature(&inception.record)?;
    match &inception.record.body {
        Body::Inception(body) => Ok(body),
        _ => Err(Fault::Inception),
    }
}
