//! Who calls: bearer tokens verified offline against the keys that the bundle pins.
//!
//! A token is a JWT in compact form (RFC 7515, 7519). The key decides the algorithm, never the token's header; `none`
//! and shared secrets do not exist here. Time is the decision's own. What was verified is remembered by the token's
//! digest, with the object that it was shown to, until it expires, so that a caller's second request costs a hash and not a signature. Not here: what a
//! caller may do (the rules), fetching keys (they are pinned), tokens for others (the agent socket). [`IdentityToken`] reads what the
//! agent socket of another object issued; whose key signed it a depot shows. [`ProxyKey`] tells a proxy's word from a client's.
//!
//! A crate of its own because two processes verify tokens: the runtime for its gate, and doors, which may not link the
//! runtime. Called for each request with an `Authorization` header, when the bundle pins keys.

mod cache;
mod identity;
mod key;
mod proxied;
mod token;
#[cfg(test)]
mod wycheproof;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use suijuris_core::id::Digest;
use suijuris_core::inputs::Caller;
use suijuris_core::manifest::CallerKey;
use suijuris_core::memory::{Kind, Name};
use suijuris_core::time::{Now, Quality, Span, Timestamp};

use cache::Cache;
pub use identity::{IdentityToken, MAX_LIFE};
use key::Key;
pub use key::KeyError;
pub use proxied::ProxyKey;
use token::Payload;

/// Length of a token at most, bytes.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// How far the clocks of issuer and object may stand apart.
pub const LEEWAY: Span = Span(60_000);

/// Why a token proves nothing. None of the texts quotes the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another scheme of authentication.
    #[error("the Authorization header holds no bearer token")]
    NotBearer,
    /// More than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not a JWT in compact form.
    #[error("the token is not three base64url parts with JSON inside")]
    Malformed,
    /// An algorithm that no caller key can have.
    #[error("the token's algorithm is none of EdDSA, ES256 and RS256")]
    Algorithm,
    /// A critical extension; none is known.
    #[error("the token needs an extension (crit) that is not supported")]
    Critical,
    /// No pinned key fits its `kid` and algorithm.
    #[error("no pinned key has the token's key id and algorithm")]
    UnknownKey,
    /// No key that fits has signed it.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` is missing.
    #[error("the token never expires; issue it with exp")]
    NoExpiry,
    /// `exp` or `nbf` is no time that a calendar has.
    #[error("the token's exp or nbf lies behind the year 9999; issue it in seconds since 1970")]
    Date,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// The clock is known to be wrong, so that nobody knows whether the token has expired.
    #[error("the object's clock is wrong, so no token can be checked; set the machine's clock")]
    ClockUnknown,
    /// `iss` is not the key's.
    #[error("the token was issued by somebody else than its key's issuer")]
    Issuer,
    /// `aud` does not name us.
    #[error("the token is for another audience")]
    Audience,
    /// An object's token of a longer life than it may have.
    #[error("the token lives longer than five minutes; issue a new one for each use")]
    Life,
    /// A declared claim of another type.
    #[error("claim `{0}` is not of the type that the bundle declares")]
    Claim(Name),
}

impl TokenError {
    /// The word used in problems, events and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotBearer => "not_bearer",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Date => "date",
            Self::Algorithm => "algorithm",
            Self::Critical => "critical_extension",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::NoExpiry => "no_expiry",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::ClockUnknown => "clock_unknown",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Life => "life",
            Self::Claim(_) => "claim",
        }
    }

    /// The `error` of a `WWW-Authenticate: Bearer` challenge (RFC 6750 section 3.1); all of them go with a 401.
    #[must_use]
    pub const fn challenge(&self) -> &'static str {
        match self {
            Self::NotBearer => "invalid_request",
            _ => "invalid_token",
        }
    }
}

/// The pinned keys of a bundle, the declared claims, and the tokens verified lately; shared by all objects of the bundle.
pub struct Keys {
    keys: Vec<Key>,
    claims: BTreeMap<Name, Kind>,
    cache: Mutex<Cache>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// The keys of one object.
#[derive(Debug)]
pub struct Callers {
    keys: Keys,
    object: String,
}

/// A caller and when the token that names it is good.
#[derive(Clone)]
struct Verified {
    caller: Arc<Caller>,
    not_before: Timestamp,
    expires: Timestamp,
}

impl Verified {
    /// The caller, if the token is good at `now`, with [`LEEWAY`] both ways.
    fn at(&self, now: Timestamp) -> Result<Arc<Caller>, TokenError> {
        if now >= self.expires.saturating_add(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if now.saturating_add(LEEWAY) < self.not_before {
            return Err(TokenError::NotYet);
        }
        Ok(Arc::clone(&self.caller))
    }
}

impl Callers {
    /// Reads the keys. `object` is the audience of keys that name none.
    ///
    /// # Errors
    /// [`KeyError`] for the first key that is none, with its place in the manifest.
    pub fn new(keys: &[CallerKey], claims: &BTreeMap<Name, Kind>, object: &str) -> Result<Self, KeyError> {
        Ok(Self {
            keys: Keys::new(keys, claims)?,
            object: object.to_owned(),
        })
    }

    /// Whether no key is pinned: then no token is ours to check, and `Authorization` is the workload's own affair.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who shows this value of an `Authorization` header.
    ///
    /// # Errors
    /// [`TokenError`]: answer 401. A request without the header is anonymous: [`Caller::default`].
    pub fn verify(&self, authorization: &str, now: Now) -> Result<Arc<Caller>, TokenError> {
        self.keys.verify(authorization, &self.object, now)
    }
}

impl Keys {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`KeyError`] for the first key that is none, with its place in the manifest.
    pub fn new(keys: &[CallerKey], claims: &BTreeMap<Name, Kind>) -> Result<Self, KeyError> {
        let read = |(place, key)| Key::new(place, key);
        Ok(Self {
            keys: keys.iter().enumerate().map(read).collect::<Result<_, _>>()?,
            claims: claims.clone(),
            cache: Mutex::default(),
        })
    }

    /// Whether no key is pinned.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who shows this value of an `Authorization` header to `object`, whose id is the audience of keys that name none.
    ///
    /// # Errors
    /// [`TokenError`]: answer 401.
    pub fn verify(&self, authorization: &str, object: &str, now: Now) -> Result<Arc<Caller>, TokenError> {
        let token = bearer(authorization)?;
        if now.quality == Quality::Unknown {
            return Err(TokenError::ClockUnknown);
        }
        // Without the length, a token could borrow bytes from the object's id.
        let length = u64::try_from(token.len()).unwrap_or(u64::MAX).to_be_bytes();
        let digest = Digest::of_parts(&[&length, token.as_bytes(), object.as_bytes()]);
        let known = self.cache().find(&digest);
        if let Some(verified) = known {
            return verified.at(now.at);
        }
        let verified = self.verify_token(token, object)?;
        let caller = verified.at(now.at)?;
        self.cache().keep(digest, verified, token.len(), now.at);
        Ok(caller)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that does not change with time.
    fn verify_token(&self, token: &str, object: &str) -> Result<Verified, TokenError> {
        let parts = token::Parts::split(token)?;
        let (algorithm, kid) = parts.header()?;
        let fits = |key: &&Key| key.algorithm() == algorithm && key.answers_to(kid.as_deref());
        let mut fitting = self.keys.iter().filter(fits).peekable();
        if fitting.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut signers = fitting
            .filter(|key| key.signed(parts.signed(), parts.signature()))
            .peekable();
        if signers.peek().is_none() {
            return Err(TokenError::Signature);
        }
        // Nothing of the payload is read before its signature holds.
        let payload = parts.payload(&self.claims)?;
        let mut wrong = TokenError::Signature;
        for key in signers {
            match key.accepts(&payload, object) {
                Ok(()) => return verified(payload),
                Err(error) => wrong = error,
            }
        }
        Err(wrong)
    }
}

/// The token of a bearer scheme (RFC 6750 section 2.1); the scheme's name in any letter case.
fn bearer(authorization: &str) -> Result<&str, TokenError> {
    let (scheme, token) = authorization
        .trim()
        .split_once(' ')
        .ok_or(TokenError::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(TokenError::NotBearer);
    }
    let token = token.trim_start();
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    Ok(token)
}

fn verified(payload: Payload) -> Result<Verified, TokenError> {
    Ok(Verified {
        expires: payload.expires.ok_or(TokenError::NoExpiry)?,
        not_before: payload.not_before.unwrap_or(Timestamp(i64::MIN)),
        caller: Arc::new(Caller {
            authenticated: true,
            subject: payload.subject,
            issuer: payload.issuer,
            audience: payload.audience,
            scopes: payload.scopes,
            claims: payload.claims,
        }),
    })
}
