//! The one move: a copy departs, by its rules and by a record, and another copy of the same history arrives. Between the
//! two nobody is the object. Both are written by the key that waits, so what keeps them from being two is the witness:
//! who arrives claims the mark first, and only where it names nothing behind the departure.

use suijuris_core::ObjectId;
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{Verdict, View, decide, own_proposal};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Host, Inputs, Principal};
use suijuris_core::lineage::{Arrived, Body, Decision, Departed, Head, Phase};
use suijuris_core::time::Now;
use suijuris_depot::Depot;
use suijuris_store::{StageError, Ticket, Writer, bundle_store};

use crate::record::{record_crash, refusal, stage};

/// Why a move is not decided about.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The definition in force.
    #[error("the definition in force cannot be read")]
    Bundle(#[from] bundle_store::Error),
    /// The store.
    #[error("the departure was not recorded; the object stays")]
    Stage(#[from] StageError),
}

/// Where an object goes.
#[derive(Debug, Clone)]
pub struct Destination {
    /// As rules see it.
    pub host: Host,
    /// For people, in the record.
    pub place: String,
}

/// What became of a proposal to move. What is staged is told only once its ticket says that it is durable.
#[derive(Debug)]
#[must_use = "nothing is durable before its ticket says so"]
pub enum Departure {
    /// It has left before, and nobody has arrived as far as is known here.
    Left,
    /// It leaves.
    Leaves(Box<Decision>, Ticket),
    /// It refuses; that is recorded.
    Refused(Box<Decision>, Ticket),
    /// It has ended for good.
    Terminated,
}

/// Proposes to the object that `writer` has open that it moves, at `now`, from `host`.
///
/// # Errors
/// [`MigrateError`]: nothing was decided or recorded.
pub fn depart(
    writer: &Writer,
    by: Principal,
    to: Destination,
    now: Now,
    host: Host,
) -> Result<Departure, MigrateError> {
    match writer.staged(|state| state.head().phase) {
        Phase::Departed => return Ok(Departure::Left),
        Phase::Terminated => return Ok(Departure::Terminated),
        _ => {}
    }
    record_crash(writer, now.at)?;
    let in_force = writer.staged(|state| state.head().bundle);
    let bundle = writer.bundles().bundle(&in_force)?;
    let mut inputs = Inputs::new(now, by, host);
    inputs.to = Some(to.host);
    let verdict = writer.staged(|state| {
        let view = View::new(state, &bundle.rules);
        decide(view, Action::Migrate, state.head().object, inputs)
    });
    Ok(match verdict {
        Verdict::Permit(_, decision) => {
            let body = Body::Departed(Departed {
                decision: (*decision).clone(),
                to: to.place,
            });
            Departure::Leaves(decision, stage(writer, body, now.at)?)
        }
        Verdict::Refuse(decision) => {
            let body = refusal(&decision);
            Departure::Refused(decision, stage(writer, body, now.at)?)
        }
    })
}

/// Lets the object that `writer` has open depart for the place of `inputs` where it proposes that itself; nothing where it does not.
///
/// # Errors
/// [`StageError`]: nothing was recorded.
pub fn of_itself(
    writer: &Writer,
    bundle: &Bundle,
    inputs: Inputs,
    place: String,
) -> Result<Option<(Box<Decision>, Ticket)>, StageError> {
    let at = inputs.now.at;
    let proposed =
        writer.staged(|state| own_proposal(View::new(state, &bundle.rules), Action::Migrate, inputs));
    let Some((_, decision)) = proposed else {
        return Ok(None);
    };
    let body = Body::Departed(Departed {
        decision: (*decision).clone(),
        to: place,
    });
    let ticket = stage(writer, body, at)?;
    Ok(Some((decision, ticket)))
}

/// Whether `depot` has a mark of the object, and none behind this departure: whoever arrives anywhere else could be one of
/// two. Whether it is a mark of this history, the claim finds out; it stands before the departure where whoever left was
/// killed before it followed.
///
/// # Errors
/// The depot's answer.
pub async fn is_marked(depot: &dyn Depot, head: &Head) -> Result<bool, suijuris_depot::Error> {
    let mark = depot.mark(head.object).await?;
    Ok(mark.is_some_and(|(mark, _)| mark.seq <= head.seq))
}

/// Records that the departed object in `writer`, whose claim was won, is here, on `host`; nothing where it had not departed.
///
/// # Errors
/// [`StageError`]: nothing was recorded.
pub fn arrive(writer: &Writer, now: Now, host: Host) -> Result<Option<Ticket>, StageError> {
    if writer.staged(|state| state.head().phase != Phase::Departed) {
        return Ok(None);
    }
    let inputs = Inputs::new(now, Principal::Host, host);
    stage(writer, Body::Arrived(Arrived { inputs }), now.at).map(Some)
}

/// What an owner signs to move `object` to `place`.
#[must_use]
pub fn content(object: ObjectId, place: &str) -> suijuris_core::id::Digest {
    suijuris_core::id::Digest::of_parts(&[&object.digest().0, place.as_bytes()])
}
