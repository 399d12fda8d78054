//! The one amendment: a new definition is proposed to an object at rest, with what its owners signed; the object decides by
//! the rules in force, and what it refuses is recorded too. `up` and the supervisor call it.

use std::sync::Arc;

use suijuris_core::bundle::{self, Bundle};
use suijuris_core::decide::{Verdict, View, decide};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Host, Inputs, Principal};
use suijuris_core::lineage::{Amended, Approval, Body, Decision, Statement};
use suijuris_core::time::Now;
use suijuris_store::{BundleFiles, Draft, Sign, StageError, Ticket, Writer, bundle_store};

use crate::record;

/// Why an amendment is not decided about.
#[derive(Debug, thiserror::Error)]
pub enum AmendError {
    /// The files are no bundle.
    #[error("the definition is no bundle")]
    Bundle(#[from] bundle::Error),
    /// That in force cannot be read, or the new one not be kept.
    #[error("the definition cannot be used")]
    Kept(#[from] bundle_store::Error),
    /// Its history is closed.
    #[error("the object is {0}: this copy takes no other definition")]
    Closed(&'static str),
    /// A class is no object, nor an object a class.
    #[error("the definition is that of a {0}, the object's is not: add it as what it is")]
    Kind(&'static str),
    /// The store.
    #[error("the amendment was not recorded; the rules stay as they are")]
    Stage(#[from] StageError),
}

/// What became of an amendment. What is staged is told only once its ticket says that it is durable.
#[derive(Debug)]
#[must_use = "nothing is durable before its ticket says so"]
pub enum Amendment {
    /// This definition is in force already.
    InForce,
    /// The object takes it; the bundle that is in force then.
    Amended(Box<Decision>, Ticket, Arc<Bundle>),
    /// The object refuses it; that is recorded.
    Refused(Box<Decision>, Ticket),
    /// The object would take it, but too few owners signed: so many of so many.
    TooFew(Box<Decision>, usize, u32),
}

/// Proposes `files` to the object that `writer` has open, at `now`, on `host`.
///
/// # Errors
/// [`AmendError`]: nothing was decided or recorded.
pub fn propose(
    writer: &Writer,
    files: &BundleFiles,
    approvals: Vec<Approval>,
    now: Now,
    host: Host,
) -> Result<Amendment, AmendError> {
    let proposed = files.open()?;
    let phase = writer.staged(|state| state.head().phase);
    if phase.is_closed() {
        return Err(AmendError::Closed(phase.as_str()));
    }
    let in_force = writer.staged(|state| state.head().bundle);
    if in_force == proposed.id() {
        return Ok(Amendment::InForce);
    }
    let bundle = writer.bundles().bundle(&in_force)?;
    match (&bundle.manifest.class, &proposed.manifest.class) {
        (None, Some(_)) => return Err(AmendError::Kind("class")),
        (Some(_), None) => return Err(AmendError::Kind("single object")),
        _ => {}
    }
    let (verdict, found, threshold) = writer.staged(|state| {
        let head = state.head();
        let statement = Statement {
            object: head.object,
            action: Action::Amend,
            content: head.amendment(&proposed.id()),
        };
        let by = Principal::approving(&statement, &approvals, &head.controllers);
        let view = View::new(state, &bundle.rules);
        let verdict = decide(view, Action::Amend, head.object, Inputs::new(now, by, host));
        let found = statement.approved_by(&approvals, &head.controllers);
        (verdict, found, head.threshold)
    });
    let decision = match verdict {
        Verdict::Permit(_, decision) => decision,
        Verdict::Refuse(decision) => {
            let refused = record::refusal(&decision);
            let ticket = record::stage(writer, refused, now.at)?;
            return Ok(Amendment::Refused(decision, ticket));
        }
    };
    if u32::try_from(found).is_ok_and(|found| found < threshold) {
        return Ok(Amendment::TooFew(decision, found, threshold));
    }
    let bundle = writer.bundles().put(files)?;
    let body = Body::Amended(Amended {
        decision: (*decision).clone(),
        from: in_force,
        approvals,
    });
    let ticket = writer.stage(Draft {
        body,
        at: now.at,
        bundle: Some(bundle.id()),
        sign: Sign::Now,
    })?;
    Ok(Amendment::Amended(decision, ticket, bundle))
}
