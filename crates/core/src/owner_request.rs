//! What an owner asks of a running object, signed: reaching a socket makes nobody an owner, a signature does.
//!
//! A command signs with the owner's key, whoever holds the object verifies. Each request is bound to its object, to what
//! is asked and of what, to whoever is asked, and to a time; and it is used once. A write names the head that it stands
//! on, so that the record spends it; everything else carries a nonce that is remembered until it expires ([`Spent`]).
//! Not here: approvals of amend, fork and terminate, which stand in records ([`crate::lineage::Statement`]).
//! Who calls: the command line signs, custody and the supervisor verify.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::{Digest, ObjectId, RecordId};
use crate::key::{Domain, PublicKey, SecretKey, Signature};
use crate::time::{Span, Timestamp};

/// How long a request may be good for at most, from when it is looked at.
pub const MAX_LIFETIME: Span = Span(60_000);

/// Signatures on one request at most.
pub const MAX_SIGNATURES: usize = 32;

/// Nonces that are remembered at most; a further request is refused until some have expired.
pub const MAX_SPENT: usize = 100_000;

/// Size of an encoded request at most, bytes.
pub const MAX_BYTES: usize = 16 << 10;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Wake.
    Wake,
    /// Fall asleep.
    Sleep,
    /// Write memory.
    Write,
    /// Take the definition in the content.
    Amend,
    /// Take or drop messages.
    Messages,
    /// Leave this server.
    Remove,
    /// Move to another place.
    Migrate,
    /// End for good.
    Terminate,
}

/// What makes a request good for one use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Once {
    /// The last record it stands on; whatever is recorded spends it.
    Head(RecordId),
    /// A number drawn for it.
    Nonce(#[serde(with = "serde_bytes")] [u8; 16]),
}

/// What an owner signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerRequest {
    /// The object.
    pub object: ObjectId,
    /// What is asked.
    pub ask: Ask,
    /// Digest of what is asked of it: of a write its canonical bytes; [`Digest::of`] nothing where there is nothing to say.
    pub content: Digest,
    /// Whoever is asked: the public key of a server, or [`nobody`] where the command itself holds the object.
    pub audience: PublicKey,
    /// What makes it good for one use.
    pub once: Once,
    /// Until when it is good, at most [`MAX_LIFETIME`] ahead.
    pub expires: Timestamp,
}

/// The audience of a request that a command makes of an object which it holds itself.
#[must_use]
pub const fn nobody() -> PublicKey {
    PublicKey([0; 32])
}

/// One owner's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The owner.
    pub key: PublicKey,
    /// Its signature over the request's canonical bytes.
    pub sig: Signature,
}

/// A request and who signed it, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRequest {
    /// The request.
    pub request: OwnerRequest,
    /// Signatures, one or more, each of another key.
    pub signatures: Vec<Signed>,
}

/// What whoever is asked knows of the request it expects.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The object it holds.
    pub object: ObjectId,
    /// What is asked.
    pub ask: Ask,
    /// Digest of what came beside the request.
    pub content: Digest,
    /// Its own key.
    pub audience: PublicKey,
    /// The object's last record.
    pub head: RecordId,
    /// The object's owners.
    pub controllers: &'a [PublicKey],
    /// Now.
    pub now: Timestamp,
}

/// Why a request is not an owner's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnerRequestError {
    /// Longer than a request may be, or not in canonical form.
    #[error("the request is not readable: use a command of the same version as the server")]
    Unreadable,
    /// Meant for another object.
    #[error("the request is signed for another object")]
    WrongObject,
    /// Signed for another act.
    #[error("the request asks for something else than was signed")]
    WrongAsk,
    /// Signed over other content.
    #[error("the request's content is not what was signed")]
    WrongContent,
    /// Meant for another server.
    #[error("the request is signed for another server")]
    WrongAudience,
    /// Too late.
    #[error("the request expired: send it again; check that both clocks agree")]
    Expired,
    /// Good for too long.
    #[error("the request is good for more than 60 s: check that both clocks agree")]
    TooLong,
    /// The object went on since.
    #[error("the object has changed since the request was signed: read it again and repeat the request")]
    StaleHead,
    /// A write without the head it stands on.
    #[error("a write must be signed over the record it follows")]
    NoHead,
    /// Used before.
    #[error("the request was used already: sign a new one")]
    Replayed,
    /// Too many requests are remembered.
    #[error("too many owners' requests within a minute: wait and repeat it")]
    TooMany,
    /// No signature, too many, or one key twice.
    #[error("the request has no signature, more than 32, or two of one key")]
    Signatures,
    /// A signature that does not verify.
    #[error("the signature of {0} is not valid")]
    BadSignature(PublicKey),
    /// A key that is no owner's.
    #[error("{0} is not an owner of this object: sign with an owner's key (SUIJURIS_OWNER_KEY)")]
    NotAnOwner(PublicKey),
}

/// Owners whose signatures over one request were verified. Only [`SignedRequest::verify`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers(Vec<PublicKey>);

impl Signers {
    /// Their keys, sorted; never empty.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }
}

impl OwnerRequest {
    /// Signs this request.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn sign(&self, key: &SecretKey) -> Result<Signed, codec::Error> {
        Ok(Signed {
            key: key.public(),
            sig: key.sign(Domain::OwnerRequest, &codec::encode(self)?),
        })
    }
}

impl SignedRequest {
    /// Reads a request from its canonical bytes.
    ///
    /// # Errors
    /// [`OwnerRequestError::Unreadable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, OwnerRequestError> {
        codec::decode(bytes, MAX_BYTES).map_err(|_unreadable| OwnerRequestError::Unreadable)
    }

    /// Whether owners ask for just this, now. Whoever calls spends the nonce ([`Spent::spend`]) before it acts.
    ///
    /// # Errors
    /// [`OwnerRequestError`], the first thing found wrong; nothing was done.
    pub fn verify(&self, expected: &Expected<'_>) -> Result<Signers, OwnerRequestError> {
        use OwnerRequestError as Wrong;
        let request = &self.request;
        let holds = |holds: bool, wrong: Wrong| if holds { Ok(()) } else { Err(wrong) };
        holds(request.object == expected.object, Wrong::WrongObject)?;
        holds(request.ask == expected.ask, Wrong::WrongAsk)?;
        holds(request.content == expected.content, Wrong::WrongContent)?;
        holds(request.audience == expected.audience, Wrong::WrongAudience)?;
        holds(request.expires > expected.now, Wrong::Expired)?;
        let latest = expected.now.saturating_add(MAX_LIFETIME);
        holds(request.expires <= latest, Wrong::TooLong)?;
        match request.once {
            Once::Head(head) => holds(head == expected.head, Wrong::StaleHead)?,
            Once::Nonce(_) => holds(request.ask != Ask::Write, Wrong::NoHead)?,
        }
        self.signers(expected.controllers)
    }

    fn signers(&self, controllers: &[PublicKey]) -> Result<Signers, OwnerRequestError> {
        let keys: BTreeSet<PublicKey> = self.signatures.iter().map(|signed| signed.key).collect();
        let count = self.signatures.len();
        if count == 0 || count > MAX_SIGNATURES || keys.len() != count {
            return Err(OwnerRequestError::Signatures);
        }
        let bytes = codec::encode(&self.request).map_err(|_unreadable| OwnerRequestError::Unreadable)?;
        for Signed { key, sig } in &self.signatures {
            if !controllers.contains(key) {
                return Err(OwnerRequestError::NotAnOwner(*key));
            }
            if !key.verifies(Domain::OwnerRequest, &bytes, sig) {
                return Err(OwnerRequestError::BadSignature(*key));
            }
        }
        Ok(Signers(keys.into_iter().collect()))
    }
}

/// Nonces of requests that were used and have not expired. Whoever restarts keeps it: encode it as any value of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    until: BTreeMap<String, Timestamp>,
}

impl Spent {
    /// Spends a verified request's nonce; a head needs no remembering. Forgets what has expired.
    ///
    /// # Errors
    /// [`OwnerRequestError::Replayed`], [`OwnerRequestError::TooMany`].
    pub fn spend(&mut self, request: &OwnerRequest, now: Timestamp) -> Result<(), OwnerRequestError> {
        let Once::Nonce(nonce) = request.once else {
            return Ok(());
        };
        self.until.retain(|_, until| *until > now);
        // A nonce is its object's alone: what another object's owner used says nothing about this one.
        let name = Digest::of_parts(&[request.object.digest().0.as_slice(), &nonce]).hex();
        if self.until.contains_key(&name) {
            return Err(OwnerRequestError::Replayed);
        }
        if self.until.len() >= MAX_SPENT {
            return Err(OwnerRequestError::TooMany);
        }
        self.until.insert(name, request.expires);
        Ok(())
    }

    /// Forgets what has expired; whether nothing is left.
    pub fn forget(&mut self, now: Timestamp) -> bool {
        self.until.retain(|_, until| *until > now);
        self.until.is_empty()
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn request() -> OwnerRequest {
        OwnerRequest {
            object: ObjectId::of(b"object"),
            ask: Ask::Write,
            content: Digest::of(b"budget=5"),
            audience: key(9).public(),
            once: Once::Head(RecordId::of(b"head")),
            expires: NOW.saturating_add(Span(30_000)),
        }
    }

    fn signed(request: OwnerRequest, keys: &[u8]) -> SignedRequest {
        let signatures = keys
            .iter()
            .map(|seed| request.sign(&key(*seed)).unwrap())
            .collect();
        SignedRequest { request, signatures }
    }

    /// What verifying says of `signed` where owners 1 and 2 are expected to write `budget=5`.
    fn verified(signed: &SignedRequest) -> Result<Vec<PublicKey>, OwnerRequestError> {
        let controllers = [key(1).public(), key(2).public()];
        let expected = Expected {
            object: ObjectId::of(b"object"),
            ask: Ask::Write,
            content: Digest::of(b"budget=5"),
            audience: key(9).public(),
            head: RecordId::of(b"head"),
            controllers: &controllers,
            now: NOW,
        };
        signed.verify(&expected).map(|signers| signers.keys().to_vec())
    }

    #[test]
    fn who_signed_is_who_asks_and_nobody_else() {
        assert_eq!(verified(&signed(request(), &[2])), Ok(vec![key(2).public()]));
        let mut both = vec![key(1).public(), key(2).public()];
        both.sort();
        assert_eq!(verified(&signed(request(), &[2, 1])), Ok(both));
    }

    #[test]
    fn a_request_holds_for_one_use_only() {
        use OwnerRequestError as Wrong;
        let change = |change: fn(&mut OwnerRequest)| {
            let mut request = request();
            change(&mut request);
            verified(&signed(request, &[1])).unwrap_err()
        };
        let cases = [
            (change(|r| r.object = ObjectId::of(b"other")), Wrong::WrongObject),
            (change(|r| r.ask = Ask::Wake), Wrong::WrongAsk),
            (
                change(|r| r.content = Digest::of(b"budget=6")),
                Wrong::WrongContent,
            ),
            (change(|r| r.audience = nobody()), Wrong::WrongAudience),
            (change(|r| r.expires = NOW), Wrong::Expired),
            (
                change(|r| r.expires = NOW.saturating_add(Span(60_001))),
                Wrong::TooLong,
            ),
            (
                change(|r| r.once = Once::Head(RecordId::of(b"older"))),
                Wrong::StaleHead,
            ),
            (change(|r| r.once = Once::Nonce([1; 16])), Wrong::NoHead),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn signatures_that_prove_nothing_are_refused() {
        use OwnerRequestError as Wrong;
        assert_eq!(verified(&signed(request(), &[])), Err(Wrong::Signatures));
        assert_eq!(verified(&signed(request(), &[1, 1])), Err(Wrong::Signatures));
        assert_eq!(
            verified(&signed(request(), &[3])),
            Err(Wrong::NotAnOwner(key(3).public()))
        );
        let mut forged = signed(request(), &[1]);
        forged.signatures[0].key = key(2).public();
        assert_eq!(verified(&forged), Err(Wrong::BadSignature(key(2).public())));
        let mut altered = signed(request(), &[1]);
        altered.request.expires = NOW.saturating_add(Span(31_000));
        assert_eq!(verified(&altered), Err(Wrong::BadSignature(key(1).public())));
        // One stranger's signature beside an owner's is not passed over.
        assert!(verified(&signed(request(), &[1, 3])).is_err());
    }

    #[test]
    fn a_nonce_is_spent_until_it_expires_also_across_a_restart() {
        let wake = OwnerRequest {
            ask: Ask::Wake,
            once: Once::Nonce([7; 16]),
            ..request()
        };
        let mut spent = Spent::default();
        assert_eq!(spent.spend(&wake, NOW), Ok(()));
        let bytes = codec::encode(&spent).unwrap();
        let mut kept: Spent = codec::decode(&bytes, 1 << 20).unwrap();
        assert_eq!(kept.spend(&wake, NOW), Err(OwnerRequestError::Replayed));
        let elsewhere = OwnerRequest {
            object: ObjectId::of(b"other"),
            ..wake.clone()
        };
        assert_eq!(kept.spend(&elsewhere, NOW), Ok(()));
        assert_eq!(kept.spend(&request(), NOW), Ok(()), "a head needs no remembering");
        assert_eq!(kept.len(), 2);
        let later = wake.expires;
        assert_eq!(kept.spend(&wake, later), Ok(()), "by then verifying refuses it");
        assert_eq!(kept.len(), 1);
    }

    #[test]
    fn a_request_reads_back_from_its_bytes_and_nothing_else_does() {
        let signed = signed(request(), &[1]);
        let bytes = codec::encode(&signed).unwrap();
        assert_eq!(SignedRequest::decode(&bytes), Ok(signed));
        for cut in 0..bytes.len() {
            assert!(SignedRequest::decode(&bytes[..cut]).is_err());
        }
        assert!(SignedRequest::decode(&vec![0x80; MAX_BYTES + 1]).is_err());
    }
}
