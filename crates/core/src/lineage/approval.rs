//! Controllers' approvals: what an owner signs, and when enough of them did.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::governance::Action;
use crate::id::{Digest, ObjectId};
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
        let bytes = codec::encode(self)?;
        Ok(Approval {
            key: key.public(),
            sig: key.sign(Domain::Approval, &bytes),
        })
    }

    /// How many different controllers signed this statement.
    #[must_use]
    pub fn approved_by(&self, approvals: &[Approval], controllers: &[PublicKey]) -> usize {
        let Ok(bytes) = codec::encode(self) else { return 0 };
        let signed = |approval: &&Approval| {
            controllers.contains(&approval.key)
                && approval.key.verifies(Domain::Approval, &bytes, &approval.sig)
        };
        approvals
            .iter()
            .take(256)
            .filter(signed)
            .map(|approval| approval.key)
            .collect::<BTreeSet<_>>()
            .len()
    }
}
