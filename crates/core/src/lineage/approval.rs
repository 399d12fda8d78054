//! Controllers' approvals: what an owner signs, and when enough of them did.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::body::Restored;
use super::state::Head;
use crate::codec;
use crate::governance::Action;
use crate::id::{Digest, ObjectId, RecordId};
use crate::key::{Domain, PublicKey, SecretKey, Signature};

/// What a controller signs. `content` binds the approval to one use: for `amend` it is [`super::Head::amendment`], for
/// `fork` the digest of the child's id, for `terminate` that of the object's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The object.
    pub object: ObjectId,
    /// What is approved.
    pub action: Action,
    /// Of what.
    pub content: Digest,
}

/// One controller's signature over a [`Statement`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The controller.
    pub key: PublicKey,
    /// Its signature.
    pub sig: Signature,
}

impl Statement {
    /// Signs this statement.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn approve(&self, key: &SecretKey) -> Result<Approval, codec::Error> {
        Ok(sign(&codec::encode(self)?, key))
    }

    /// How many different controllers signed this statement.
    #[must_use]
    pub fn approved_by(&self, approvals: &[Approval], controllers: &[PublicKey]) -> usize {
        codec::encode(self).map_or(0, |bytes| signers(&bytes, approvals, controllers).len())
    }

    /// The controllers who signed this statement, sorted.
    pub(crate) fn approving(&self, approvals: &[Approval], controllers: &[PublicKey]) -> Vec<PublicKey> {
        let signers = codec::encode(self).map(|bytes| signers(&bytes, approvals, controllers));
        signers.unwrap_or_default().into_iter().collect()
    }
}

/// What a controller signs to let an older history, or a quarantined one, be the object's again. It has other keys than
/// a [`Statement`], so that neither passes for the other, and says in full what is given up for what. The record that it
/// allows stands directly behind `head`; so it is spent by that record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restoration {
    action: Restore,
    /// The object.
    pub object: ObjectId,
    /// The last record of the history that goes on.
    pub head: RecordId,
    /// The newest record that a witness knew of the history that is given up.
    pub abandoned: RecordId,
    /// Its position.
    pub seq: u64,
    /// The newest epoch that a witness knew of it.
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Restore {
    Restore,
}

impl Restoration {
    /// The statement that lets the history of `head` go on in place of the one whose newest witnessed record is
    /// `abandoned`, at `seq`, in `epoch`.
    #[must_use]
    pub const fn of(head: &Head, abandoned: RecordId, seq: u64, epoch: u64) -> Self {
        Self {
            action: Restore::Restore,
            object: head.object,
            head: head.record,
            abandoned,
            seq,
            epoch,
        }
    }

    pub(super) const fn stated(head: &Head, body: &Restored) -> Self {
        Self::of(head, body.abandoned, body.seq, body.epoch)
    }

    /// Signs this statement.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn approve(&self, key: &SecretKey) -> Result<Approval, codec::Error> {
        Ok(sign(&codec::encode(self)?, key))
    }

    /// How many different controllers signed this statement.
    #[must_use]
    pub fn approved_by(&self, approvals: &[Approval], controllers: &[PublicKey]) -> usize {
        codec::encode(self).map_or(0, |bytes| signers(&bytes, approvals, controllers).len())
    }
}

fn sign(statement: &[u8], key: &SecretKey) -> Approval {
    Approval {
        key: key.public(),
        sig: key.sign(Domain::Approval, statement),
    }
}

fn signers(statement: &[u8], approvals: &[Approval], controllers: &[PublicKey]) -> BTreeSet<PublicKey> {
    let signed = |approval: &&Approval| {
        controllers.contains(&approval.key)
            && approval.key.verifies(Domain::Approval, statement, &approval.sig)
    };
    approvals
        .iter()
        .take(256)
        .filter(signed)
        .map(|approval| approval.key)
        .collect()
}
