//! Identity tokens of other objects, as the agent socket issues them: who the object is that shows one. The token names the
//! key that signed it; whether that is the key of the epoch which its object is in, a depot shows, and whoever asks it.

use std::collections::BTreeSet;

use suijuris_core::ObjectId;
use suijuris_core::key::{Domain, PublicKey, Signature};
use suijuris_core::manifest::Algorithm;
use suijuris_core::time::{Now, Quality, Span, Timestamp};

use super::token::Parts;
use super::{LEEWAY, TokenError, bearer};

/// Life of an identity token at most: an object that was copied, restored or put to sleep speaks for itself no longer.
pub const MAX_LIFE: Span = Span(300_000);

/// A token that an object issued for itself. Its signature is by the key that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityToken {
    /// The object.
    pub object: ObjectId,
    /// The epoch that it says it is in.
    pub epoch: u64,
    /// The key that signed.
    pub key: PublicKey,
    audience: BTreeSet<String>,
    issued: Timestamp,
    expires: Timestamp,
}

impl IdentityToken {
    /// Reads the value of an `Authorization` header; none where it is no object's identity token, but perhaps a caller's.
    ///
    /// # Errors
    /// [`TokenError`]: it is one, and proves nothing.
    #[must_use]
    pub fn read(authorization: &str) -> Option<Result<Self, TokenError>> {
        let token = bearer(authorization).ok()?;
        let parts = Parts::split(token).ok()?;
        let (algorithm, kid) = parts.header().ok()?;
        let key: PublicKey = kid?.parse().ok().filter(|_| algorithm == Algorithm::EdDsa)?;
        // Nothing of the payload is read before its signature holds. A caller's key may have an id that looks like one of
        // ours: then the signature is another's, and the token is not for us to judge.
        let signature = Signature(parts.signature().try_into().ok()?);
        if !key.verifies(Domain::IdentityToken, parts.signed(), &signature) {
            return None;
        }
        let payload = parts.identity().ok()?;
        let object: ObjectId = payload.iss.parse().ok().filter(|_| payload.iss == payload.sub)?;
        let life = payload.exp.checked_sub(payload.iat);
        let at = |seconds: i64| Timestamp(seconds.saturating_mul(1_000));
        if !life.is_some_and(|life| (1..=MAX_LIFE.0 / 1_000).contains(&life)) {
            return Some(Err(TokenError::Life));
        }
        Some(Ok(Self {
            object,
            epoch: payload.epoch,
            key,
            audience: payload.aud.into_set(),
            issued: at(payload.iat),
            expires: at(payload.exp),
        }))
    }

    /// Whether it is for `audience` and good at `now`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn check(&self, audience: &str, now: Now) -> Result<(), TokenError> {
        if now.quality == Quality::Unknown {
            return Err(TokenError::ClockUnknown);
        }
        if !self.audience.contains(audience) {
            return Err(TokenError::Audience);
        }
        if now.at >= self.expires.saturating_add(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if now.at.saturating_add(LEEWAY) < self.issued {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }
}
