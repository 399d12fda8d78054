//! The doors' own refusals as problem documents. What an object's rules refuse is worded where everybody words it, in
//! `words::verdict`.

use std::time::Duration;

use suijuris_api::Problem;
use suijuris_auth::TokenError;
use suijuris_core::ObjectId;
use suijuris_core::lineage::Decision;
use suijuris_core::refusals::RefusalId;
use suijuris_words::verdict::{self, Circumstances};

use crate::prepared::PreparedBundle;
use crate::{events, ext_authz, heads};

/// Seconds after which a depot that did not answer may do so.
const DEPOT_AGAIN_S: u64 = 5;

/// Seconds after which an inbox may have room.
const INBOX_AGAIN_S: u64 = 10;

fn of(object: ObjectId, mut problem: Problem, detail: impl Into<String>, again_s: Option<u64>) -> Problem {
    problem.object = object.to_string();
    problem.retry_after = again_s;
    problem.with_detail(detail)
}

/// What the object's rules refuse, as a caller reads it.
pub(crate) fn refused(
    prepared: &PreparedBundle,
    object: ObjectId,
    decision: &Decision,
    id: &RefusalId,
) -> Problem {
    let bundle = prepared.bundle();
    let circumstances = Circumstances {
        object: &object.to_string(),
        id,
        token_helps: !prepared.keys().is_empty() && bundle.rules.program.watches(decision.action).caller,
    };
    verdict::public(decision, circumstances)
}

pub(crate) fn unknown(object: ObjectId) -> Problem {
    let problem = Problem::new(404, "unknown_object", "The door does not know this object");
    of(
        object,
        problem,
        "the depot has neither a mark nor an announcement of it",
        None,
    )
}

pub(crate) fn head(error: &heads::Error, object: ObjectId) -> Problem {
    if error.is_unreachable() {
        let problem = Problem::new(503, "depot_unreachable", "The depot does not answer");
        return of(object, problem, "try again", Some(DEPOT_AGAIN_S));
    }
    let problem = Problem::new(503, "head_refused", "The object's head is not trusted");
    // What is wrong with the head says nothing of rules, memory or the depot's address.
    let detail = match error {
        heads::Error::Depot(_) => "the depot gives answers that cannot be used".to_owned(),
        _ => error.in_full(),
    };
    of(object, problem, detail, None)
}

pub(crate) fn slow(object: ObjectId) -> Problem {
    let problem = Problem::new(503, "depot_unreachable", "The depot does not answer");
    let detail = "whether the message is stored is not known; send it again with the same id and source";
    of(object, problem, detail, Some(DEPOT_AGAIN_S))
}

/// Messages that could not be counted for the rules that look at them: nothing is decided on a number that is not known.
pub(crate) fn not_counted(error: Option<suijuris_depot::Error>, object: ObjectId) -> Problem {
    let error = error.map_or(heads::Error::Slow, heads::Error::from);
    match error {
        heads::Error::Depot(ref wrong) if !error.is_unreachable() => depot(wrong, object),
        error => head(&error, object),
    }
}

/// A depot that did not store.
#[must_use]
pub fn depot(error: &suijuris_depot::Error, object: ObjectId) -> Problem {
    use suijuris_depot::Error;
    let (problem, again) = match error {
        Error::Unreachable(..) => {
            return of(
                object,
                slow(object),
                "a message sent again is stored once",
                Some(DEPOT_AGAIN_S),
            );
        }
        Error::InboxFull => (
            Problem::new(429, "inbox_full", "Too many messages wait for the object"),
            Some(INBOX_AGAIN_S),
        ),
        Error::Full(_) => (
            Problem::new(507, "depot_full", "The depot is full"),
            Some(DEPOT_AGAIN_S),
        ),
        Error::ReadOnly(..) => (
            Problem::new(503, "depot_read_only", "The depot takes no writes"),
            None,
        ),
        Error::NotAllowed(_) => (
            Problem::new(400, "bad_event", "The message cannot be taken"),
            None,
        ),
        Error::Garbage { .. } | Error::Different(_) | Error::Url { .. } => (
            Problem::new(
                502,
                "depot_unusable",
                "The depot gives answers that cannot be used",
            ),
            None,
        ),
    };
    let detail = match error {
        // Written by the sender.
        Error::NotAllowed(_) | Error::InboxFull => error.to_string(),
        _ => "the owner can see the cause in the door's events".to_owned(),
    };
    of(object, problem, detail, again)
}

/// Who asks for another object learns nothing of the one that lives here.
pub(crate) fn wrong_object() -> Problem {
    let problem = Problem::new(421, "wrong_object", "Another object lives here");
    problem.with_detail("look up where that object lives now")
}

pub(crate) fn asleep(object: ObjectId) -> Problem {
    let problem = Problem::new(503, "asleep", "The object sleeps");
    let detail = "requests do not wake it; it wakes for what its bundle declares";
    of(object, problem, detail, None)
}

pub(crate) fn token(error: &TokenError, object: ObjectId) -> Problem {
    let problem = Problem::new(401, "invalid_token", "The caller's token is not valid");
    of(object, problem, error.to_string(), None)
}

pub(crate) fn moving(object: ObjectId) -> Problem {
    let problem = Problem::new(503, "object_moving", "The object is falling asleep or waking");
    of(
        object,
        problem,
        "it changed while it was decided for; try again",
        Some(1),
    )
}

/// The object failed or refused to wake, and is not tried again before this time is over.
#[must_use]
pub fn backing_off(object: ObjectId, left: Duration) -> Problem {
    let problem = Problem::new(
        503,
        "wake_paused",
        "The object failed or refused to wake a moment ago",
    );
    let detail = "its machine is not started again before the pause is over";
    of(object, problem, detail, Some(left.as_secs().max(1)))
}

pub(crate) fn full(object: ObjectId) -> Problem {
    let problem = Problem::new(
        503,
        "too_many_wakes",
        "Too many objects are waking or waiting to be retried",
    );
    of(
        object,
        problem,
        "the door has no room to wake one more",
        Some(DEPOT_AGAIN_S),
    )
}

pub(crate) fn refused_inside(object: ObjectId) -> Problem {
    let problem = Problem::new(503, "wake_refused", "The object refuses to wake");
    let detail = "its machine was started, and the object refused there; its lineage has the reason";
    let mut problem = of(object, problem, detail, Some(1));
    "wake".clone_into(&mut problem.action);
    problem
}

/// Why is for the door's events alone.
pub(crate) fn not_started(object: ObjectId) -> Problem {
    let problem = Problem::new(503, "wake_failed", "The object's machine cannot be started");
    of(
        object,
        problem,
        "the owner can see the cause in the door's events",
        Some(1),
    )
}

pub(crate) fn leaving(object: ObjectId) -> Problem {
    let problem = Problem::new(503, "door_leaving", "The door is closing");
    of(object, problem, "ask the next one", Some(1))
}

pub(crate) fn not_asked(error: &ext_authz::Error) -> Problem {
    let problem = match error {
        ext_authz::Error::TwoObjects(_) => return wrong_object(),
        ext_authz::Error::Canonical(reject) => return suijuris_gate::Refusal::from(*reject).problem,
        ext_authz::Error::NoObject => {
            Problem::new(404, "unknown_object", "The door does not know this object")
        }
        _ => Problem::new(400, "not_asked", "The check request does not say what was asked"),
    };
    problem.with_detail(error.to_string())
}

/// Why a message is not taken.
#[must_use]
pub fn event(error: &events::Error, object: ObjectId) -> Problem {
    let problem = match error.status() {
        413 => too_large(),
        415 => Problem::new(415, "bad_event", "The message cannot be taken"),
        _ => Problem::new(400, "bad_event", "The message cannot be taken"),
    };
    of(object, problem, error.to_string(), None)
}

pub(crate) fn too_large() -> Problem {
    Problem::new(413, "body_too_large", "The body is too large")
}

pub(crate) fn no_route(path: &str) -> Problem {
    let shown: String = path.chars().take(80).collect();
    let problem = Problem::new(404, "no_such_route", "There is nothing here");
    problem.with_detail(format!(
        "`{shown}` is none of /ext_authz, /objects/ID, /objects/ID/messages, /metrics, /healthz"
    ))
}

pub(crate) fn method(allowed: &str) -> Problem {
    let problem = Problem::new(405, "method_not_allowed", "Not with this method");
    problem.with_detail(format!("{allowed} is understood here"))
}

pub(crate) fn no_id(text: &str) -> Problem {
    let shown: String = text.chars().take(80).collect();
    let problem = Problem::new(404, "unknown_object", "The door does not know this object");
    problem.with_detail(format!("`{shown}` is not an object id"))
}
