//! Who asks, where an owner may: reaching a socket makes nobody an owner, a signature does.
//!
//! A command signs with the owner's key; whoever holds the object verifies here, and gets the principal that rules judge.
//! What nobody signed is asked by the host. Not here: nonces, which whoever is asked remembers
//! ([`suijuris_core::owner_request::Spent`]); approvals of amend, fork and restore.

use suijuris_api::Problem;
use suijuris_api::agent::Patch;
use suijuris_core::id::Digest;
use suijuris_core::inputs::Principal;
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::Head;
use suijuris_core::owner_request::{Ask, Expected, OwnerRequestError, SignedRequest};
use suijuris_core::time::Timestamp;

/// What whoever sends an owner's request is answered that is none.
#[must_use]
pub fn not_an_owner(error: &OwnerRequestError) -> Problem {
    let title = "The request is not signed by an owner";
    let problem = match error {
        OwnerRequestError::StaleHead => Problem::new(409, CODE_STALE_HEAD, title),
        _ => Problem::new(403, CODE_NOT_SIGNED, title),
    };
    problem.with_detail(error.to_string())
}

/// The object recorded something since the request was signed.
pub const CODE_STALE_HEAD: &str = "stale_head";
/// A request's signature does not make it an owner's.
pub const CODE_NOT_SIGNED: &str = "not_signed";

/// Digest of a write: of its canonical JSON, keys sorted.
#[must_use]
pub fn content_of(patch: &Patch) -> Digest {
    // Typed JSON in sorted maps: it has one form, and no value that cannot be written.
    Digest::of(&serde_json::to_vec(patch).unwrap_or_default())
}

/// Digest of a request that has nothing to say but what it asks.
#[must_use]
pub fn no_content() -> Digest {
    Digest::of(&[])
}

/// Something that is asked of an object, and what owners signed of it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What is asked.
    pub ask: Ask,
    /// Digest of its content: [`content_of`] a write, or [`no_content`].
    pub content: Digest,
    /// The request, where owners signed one.
    pub signed: Option<&'a SignedRequest>,
    /// The key of whoever is asked.
    pub server: PublicKey,
    /// When, by the clock of whoever is asked.
    pub now: Timestamp,
}

impl Asking<'_> {
    /// Whoever asks it of the object with this head: the owners who signed, or the host where nobody did.
    ///
    /// # Errors
    /// [`OwnerRequestError`]: a signature does not hold for just this. Nothing may be done then.
    pub fn principal(&self, head: &Head) -> Result<Principal, OwnerRequestError> {
        let Some(signed) = self.signed else {
            return Ok(Principal::Host);
        };
        let signers = signed.verify(&Expected {
            object: head.object,
            ask: self.ask,
            content: self.content,
            audience: self.server,
            head: head.record,
            controllers: &head.controllers,
            now: self.now,
        })?;
        Ok(Principal::controller(&signers))
    }
}
