//! Who asks for a sleeping object, and whether they are heard at all: before any rule is asked, the object must be the one
//! they mean, requests must be something that wakes it, and a token that they show must be good.
//!
//! The one place of these refusals for both kinds of door.

use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::governance::Vocabulary;
use suijuris_core::inputs::{Caller, Request};
use suijuris_core::time::Now;
use suijuris_gate::Refusal;
use suijuris_gate::head::Reject;

use crate::kept::Kept;
use crate::problems;
use crate::proposal::Proposal;

/// What is read of a request before it is heard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Knock<'a> {
    /// The identity that it asks for (`X-Suijuris-Object`), where it names one.
    pub wants: Option<&'a str>,
    /// The value of `Authorization`, where it has one.
    pub authorization: Option<&'a str>,
}

/// The proposal of whoever knocks for `object` at `now`; `request` reads what the rules' words ask for.
pub(crate) fn hear(
    kept: &Kept,
    object: ObjectId,
    now: Now,
    knock: Knock<'_>,
    request: impl FnOnce(&Vocabulary) -> Result<Request, Reject>,
) -> Result<Proposal, Problem> {
    if knock.wants.is_some_and(|wants| wants.parse() != Ok(object)) {
        return Err(problems::wrong_object(object));
    }
    if !kept.bundle().manifest.triggers.request {
        return Err(problems::asleep(object));
    }
    let caller = caller(kept, object, now, knock.authorization)?;
    let request = request(&kept.bundle().rules.vocabulary);
    let request = request.map_err(|reject| Refusal::from(reject).problem)?;
    Ok(Proposal::request(Arc::unwrap_or_clone(caller), request))
}

/// Who shows this value of `Authorization`: anonymous without one, and where the bundle pins no keys.
pub(crate) fn caller(
    kept: &Kept,
    object: ObjectId,
    now: Now,
    authorization: Option<&str>,
) -> Result<Arc<Caller>, Problem> {
    match authorization.filter(|_| !kept.keys().is_empty()) {
        Some(shown) => {
            let verified = kept.keys().verify(shown, &object.to_string(), now);
            verified.map_err(|error| problems::token(&error, object))
        }
        None => Ok(Arc::default()),
    }
}
