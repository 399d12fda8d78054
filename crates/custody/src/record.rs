//! Records that whoever holds an object makes while nobody runs it: each has one maker, whoever needs it.

use suijuris_core::lineage::{Body, Decision, Fired, Phase, Quarantined, Refused, Unsealed};
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::witness::Evidence;
use suijuris_store::{Draft, Sign, StageError, Ticket, Writer};

use crate::claim::in_words;

/// Stages a signed record; it is durable once the ticket says so.
///
/// # Errors
/// [`StageError`]: nothing was recorded.
pub fn stage(writer: &Writer, body: Body, at: Timestamp) -> Result<Ticket, StageError> {
    writer.stage(Draft {
        body,
        at,
        bundle: None,
        sign: Sign::Now,
    })
}

/// Makes a signed record; returns once it is durable.
///
/// # Errors
/// [`StageError`].
pub fn record(writer: &Writer, body: Body, at: Timestamp) -> Result<(), StageError> {
    Ok(stage(writer, body, at)?.wait()?)
}

/// Where what is decided outside a machine is decided.
pub const PLACE: &str = "door";

/// What is to be recorded of a proposal that was refused outside a machine, in full.
#[must_use]
pub fn refusal(decision: &Decision) -> Body {
    Body::Refused(Box::new(Refused {
        decision: decision.clone(),
        times: 1,
        window: Span(0),
        at: PLACE.to_owned(),
        fired: Fired::new(),
    }))
}

/// What is to be recorded of an activation that ended without the object's own act; nothing where it slept.
#[must_use]
pub fn crash(writer: &Writer) -> Option<Body> {
    writer.staged(|state| {
        let head = state.head();
        let unsealed = Unsealed {
            mutations: head.uncovered(),
            sealed: head.sealed,
        };
        (head.phase == Phase::Active).then_some(Body::Unsealed(unsealed))
    })
}

/// Records that the last activation ended without the object's own act, where it did: its key is gone with its process,
/// and nothing else can be written before. Whether it did.
///
/// # Errors
/// [`StageError`].
pub fn record_crash(writer: &Writer, at: Timestamp) -> Result<bool, StageError> {
    let Some(body) = crash(writer) else {
        return Ok(false);
    };
    record(writer, body, at)?;
    Ok(true)
}

/// Shuts a copy away that can never be the object again without its owners, so that it stays refused where no witness can
/// be asked. Once: one that is away already keeps its first reason.
///
/// # Errors
/// [`StageError`]; it is refused all the same, now and whenever the witness is asked.
pub fn quarantine(writer: &Writer, code: &str, evidence: &Evidence, at: Timestamp) -> Result<(), StageError> {
    shut_away(writer, format!("{code}: {}", in_words(evidence)), at)
}

/// As [`quarantine`], for this reason: its owners can restore it.
///
/// # Errors
/// As there.
pub fn shut_away(writer: &Writer, reason: String, at: Timestamp) -> Result<(), StageError> {
    record_crash(writer, at)?;
    if writer.staged(|state| matches!(state.head().phase, Phase::Quarantined | Phase::Terminated)) {
        return Ok(());
    }
    record(writer, Body::Quarantined(Quarantined { reason }), at)
}
