//! Who asks for a sleeping object, and whether the rules are asked at all: first the object must be the one
//! they mean, requests must be something that wakes it, and a token that they show must be good.
//!
//! The one place of these refusals for both kinds of door.

use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_auth::IdentityToken;
use suijuris_core::ObjectId;
use suijuris_core::governance::Vocabulary;
use suijuris_core::inputs::{Caller, Request};
use suijuris_core::time::Now;
use suijuris_gate::Refusal;
use suijuris_gate::head::Reject;

use crate::prepared::PreparedBundle;
use crate::problems;
use crate::proposal::Proposal;

/// What is read of a request to find out who asks, and for which object.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The identity that it asks for (`X-Suijuris-Object`), where it names one.
    pub wants: Option<&'a str>,
    /// The value of `Authorization`, where it has one.
    pub authorization: Option<&'a str>,
}

/// The proposal of whoever asks for `object` at `now`; `request` reads what the rules' words ask for.
pub(crate) fn proposal(
    prepared: &PreparedBundle,
    object: ObjectId,
    now: Now,
    credentials: Credentials<'_>,
    request: impl FnOnce(&Vocabulary) -> Result<Request, Reject>,
) -> Result<Proposal, Problem> {
    meant(object, credentials)?;
    if !prepared.bundle().manifest.triggers.request {
        return Err(problems::asleep(object));
    }
    let caller = caller(prepared, object, now, credentials.authorization)?;
    let request = request(&prepared.bundle().rules.vocabulary);
    let request = request.map_err(|reject| Refusal::from(reject).problem)?;
    Ok(Proposal::request(Arc::unwrap_or_clone(caller), request))
}

/// Who showed a good token.
#[derive(Debug)]
pub enum Shown {
    /// A caller; anonymous without a token.
    Caller(Arc<Caller>),
    /// An object that a depot has to know.
    Object(IdentityToken),
}

/// Who shows these credentials to `object`: a caller, or another object.
pub(crate) fn shown(
    prepared: &PreparedBundle,
    object: ObjectId,
    now: Now,
    credentials: Credentials<'_>,
) -> Result<Shown, Problem> {
    meant(object, credentials)?;
    if let Some(token) = credentials.authorization.and_then(IdentityToken::read) {
        let good = token.and_then(|token| token.check(&object.to_string(), now).map(|()| token));
        return good
            .map(Shown::Object)
            .map_err(|error| problems::token(&error, object));
    }
    caller(prepared, object, now, credentials.authorization).map(Shown::Caller)
}

/// Whether `object` is the one that they mean.
pub(crate) fn meant(object: ObjectId, credentials: Credentials<'_>) -> Result<(), Problem> {
    if credentials.wants.is_some_and(|wants| wants.parse() != Ok(object)) {
        return Err(problems::wrong_object());
    }
    Ok(())
}

/// Who shows this value of `Authorization`: anonymous without one, and where the bundle pins no keys.
pub(crate) fn caller(
    prepared: &PreparedBundle,
    object: ObjectId,
    now: Now,
    authorization: Option<&str>,
) -> Result<Arc<Caller>, Problem> {
    match authorization.filter(|_| !prepared.keys().is_empty()) {
        Some(shown) => {
            let verified = prepared.keys().verify(shown, &object.to_string(), now);
            verified.map_err(|error| problems::token(&error, object))
        }
        None => Ok(Arc::default()),
    }
}
