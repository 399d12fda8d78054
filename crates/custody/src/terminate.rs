//! The one end: owners propose it, with what they signed, or the object itself where a rule that names it permits; the
//! object decides by the rules in force. Ended, it never wakes, and its history stays. `up`, the supervisor and the command
//! do it here to an object at rest; the runtime decides here too, and records it in place of a sleep.

use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{Permit, Verdict, View, decide, own_proposal};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Host, Inputs, Principal};
use suijuris_core::lineage::{Approval, Body, Decision, Phase, State, Statement, Terminated};
use suijuris_core::time::Now;
use suijuris_store::{StageError, Ticket, Writer, bundle_store};

use crate::record::{record_crash, refusal, stage};

/// Why an end is not decided about.
#[derive(Debug, thiserror::Error)]
pub enum TerminateError {
    /// The definition in force.
    #[error("the definition in force cannot be read")]
    Bundle(#[from] bundle_store::Error),
    /// The store.
    #[error("the end was not recorded; the object goes on")]
    Stage(#[from] StageError),
}

/// What becomes of a proposal to end.
#[derive(Debug)]
pub enum Judged {
    /// The object ends once this is recorded.
    Permitted(Permit, Box<Decision>),
    /// It would, but too few owners signed: so many of so many.
    TooFew(Box<Decision>, usize, u32),
    /// It does not.
    Refused(Box<Decision>),
}

/// What became of it. What is staged is told only once its ticket says that it is durable.
#[derive(Debug)]
#[must_use = "nothing is durable before its ticket says so"]
pub enum Termination {
    /// It has ended before.
    Over,
    /// It has ended.
    Ended(Box<Decision>, Ticket),
    /// It refuses; that is recorded, unless it has departed.
    Refused(Box<Decision>, Option<Ticket>),
    /// Too few owners signed: so many of so many.
    TooFew(Box<Decision>, usize, u32),
}

/// What owners of this object sign to end it.
#[must_use]
pub fn statement(object: suijuris_core::ObjectId) -> Statement {
    Statement {
        object,
        action: Action::Terminate,
        content: *object.digest(),
    }
}

/// Decides whether the object ends because `approvals` say so; `inputs` makes the facts of whoever signed.
pub fn judge(
    state: &State,
    bundle: &Bundle,
    approvals: &[Approval],
    inputs: impl FnOnce(Principal) -> Inputs,
) -> Judged {
    let head = state.head();
    let statement = statement(head.object);
    let by = Principal::approving(&statement, approvals, &head.controllers);
    let view = View::new(state, &bundle.rules);
    match decide(view, Action::Terminate, head.object, inputs(by)) {
        Verdict::Refuse(decision) => Judged::Refused(decision),
        Verdict::Permit(permit, decision) => {
            let found = statement.approved_by(approvals, &head.controllers);
            if u32::try_from(found).is_ok_and(|found| found < head.threshold) {
                return Judged::TooFew(decision, found, head.threshold);
            }
            Judged::Permitted(permit, decision)
        }
    }
}

/// Proposes to the object that `writer` has open that it ends, at `now`, on `host`.
///
/// # Errors
/// [`TerminateError`]: nothing was decided or recorded.
pub fn propose(
    writer: &Writer,
    approvals: Vec<Approval>,
    now: Now,
    host: Host,
) -> Result<Termination, TerminateError> {
    if writer.staged(|state| state.head().phase == Phase::Terminated) {
        return Ok(Termination::Over);
    }
    record_crash(writer, now.at)?;
    let in_force = writer.staged(|state| state.head().bundle);
    let bundle = writer.bundles().bundle(&in_force)?;
    let judged = writer.staged(|state| judge(state, &bundle, &approvals, |by| Inputs::new(now, by, host)));
    Ok(match judged {
        Judged::Permitted(_, decision) => {
            let ticket = stage(writer, body(&decision, approvals), now.at)?;
            Termination::Ended(decision, ticket)
        }
        Judged::TooFew(decision, found, needed) => Termination::TooFew(decision, found, needed),
        Judged::Refused(decision) => {
            let refused = refusal(&decision);
            let closed = writer.staged(|state| state.head().phase.is_closed());
            let record = || stage(writer, refused, now.at);
            Termination::Refused(decision, (!closed).then(record).transpose()?)
        }
    })
}

/// Ends the object that `writer` has open where it proposes that itself; nothing where it does not.
///
/// # Errors
/// [`StageError`]: nothing was recorded.
pub fn of_itself(
    writer: &Writer,
    bundle: &Bundle,
    inputs: Inputs,
) -> Result<Option<(Box<Decision>, Ticket)>, StageError> {
    let at = inputs.now.at;
    let proposed =
        writer.staged(|state| own_proposal(View::new(state, &bundle.rules), Action::Terminate, inputs));
    let Some((_, decision)) = proposed else {
        return Ok(None);
    };
    let ticket = stage(writer, body(&decision, Vec::new()), at)?;
    Ok(Some((decision, ticket)))
}

/// The record of the end.
#[must_use]
pub fn body(decision: &Decision, approvals: Vec<Approval>) -> Body {
    Body::Terminated(Terminated {
        decision: decision.clone(),
        approvals,
    })
}
