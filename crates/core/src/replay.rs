//! The `state` of a replay: who sends a request to another machine says which object it is for, and the machine that gets it
//! serves it only if that object lives there. An id is public and proves nothing, so it is signed; the key is that of the apps
//! of one owner. What carries requests takes it as opaque text.
//!
//! ```text
//! v1.OBJECT.SEQ-RECORD.EXPIRES.SIGNATURE    EXPIRES in ms since 1970; `SEQ-RECORD`: `-` where the sender knows no head
//! ```

use crate::id::{ObjectId, RecordId};
use crate::key::{Domain, PublicKey, SecretKey, Signature};
use crate::time::{Span, Timestamp};

/// How long one counts at most.
pub const MAX_LIFETIME: Span = Span(60_000);

/// How far two clocks may differ.
const LEEWAY: Span = Span(5_000);

/// Length of the text at most, bytes.
pub const MAX_BYTES: usize = 512;

const VERSION: &str = "v1";

/// What a sender says of the object that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// The object.
    pub target: ObjectId,
    /// Its newest record that the sender knows of, with its position; none where it knows none.
    pub head: Option<(u64, RecordId)>,
    /// Until when it counts.
    pub expires: Timestamp,
}

/// Why it counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It is no text of this form.
    #[error("the replay does not say which object it is for")]
    Unreadable,
    /// Not signed with this key.
    #[error("the replay is not signed by an app of the same owner")]
    Forged,
    /// Too late, or from a clock that is ahead.
    #[error("the replay came too late: send the request again")]
    Expired,
}

impl Replayed {
    /// As text of letters, digits and `.-_`, signed with `key`.
    #[must_use]
    pub fn sign(&self, key: &SecretKey) -> String {
        let text = self.unsigned();
        let signature = key.sign(Domain::Replay, text.as_bytes());
        format!("{text}.{}", signature)
    }

    fn unsigned(&self) -> String {
        let head = self
            .head
            .map_or_else(|| "-".to_owned(), |(seq, record)| format!("{seq}-{record}"));
        format!("{VERSION}.{}.{head}.{}", self.target, self.expires.0)
    }

    /// Reads what was signed with the secret part of `key` and counts at `now`.
    ///
    /// # Errors
    /// [`ReplayError`], the first thing found wrong.
    pub fn read(text: &str, key: &PublicKey, now: Timestamp) -> Result<Self, ReplayError> {
        let (unsigned, signature) = text
            .rsplit_once('.')
            .filter(|_| text.len() <= MAX_BYTES)
            .ok_or(ReplayError::Unreadable)?;
        let read = Self::fields(unsigned).ok_or(ReplayError::Unreadable)?;
        let signature: Signature = signature.parse().map_err(|_none| ReplayError::Forged)?;
        if read.unsigned() != unsigned || !key.verifies(Domain::Replay, unsigned.as_bytes(), &signature) {
            return Err(ReplayError::Forged);
        }
        let latest = now.saturating_add(MAX_LIFETIME).saturating_add(LEEWAY);
        if now >= read.expires || read.expires > latest {
            return Err(ReplayError::Expired);
        }
        Ok(read)
    }

    fn fields(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        if parts.next() != Some(VERSION) {
            return None;
        }
        let (target, head, expires) = (parts.next()?, parts.next()?, parts.next()?);
        let head = match head {
            "-" => None,
            head => {
                let (seq, record) = head.split_once('-')?;
                Some((seq.parse().ok()?, record.parse().ok()?))
            }
        };
        parts.next().is_none().then_some(Self {
            target: target.parse().ok()?,
            head,
            expires: Timestamp(expires.parse().ok()?),
        })
    }
}

/// The fuzz body of what a stranger may send as `state`.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(read) = Replayed::fields(text)
    {
        assert!(read.unsigned().len() <= MAX_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_counts_for_what_was_signed_and_for_a_minute() {
        let key = SecretKey::from_seed(&[7; 32]);
        let now = Timestamp(1_000_000);
        for head in [None, Some((7, RecordId::of(b"record")))] {
            let said = Replayed {
                target: ObjectId::of(b"object"),
                head,
                expires: now.saturating_add(MAX_LIFETIME),
            };
            let text = said.sign(&key);
            assert!(
                text.len() <= MAX_BYTES
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            );
            let read = |text: &str, at: Timestamp| Replayed::read(text, &key.public(), at);
            assert_eq!(read(&text, now), Ok(said));
            assert_eq!(read(&text, said.expires), Err(ReplayError::Expired));
            assert_eq!(read(&text, Timestamp(900_000)), Err(ReplayError::Expired));
            let other = SecretKey::from_seed(&[8; 32]).public();
            assert_eq!(Replayed::read(&text, &other, now), Err(ReplayError::Forged));
            for at in 0..text.len() {
                assert!(read(&text[..at], now).is_err(), "{at}");
                let mut changed = text.clone().into_bytes();
                changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
                let changed = String::from_utf8(changed).unwrap();
                assert!(read(&changed, now).is_err(), "{changed}");
            }
        }
    }
}
