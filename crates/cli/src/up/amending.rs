//! The definition has changed: the object decides whether to take it, and enough of its owners must have approved.

use std::path::PathBuf;

use anyhow::Context as _;
use suijuris_bundle::Built;
use suijuris_core::decide::{Verdict, View, decide};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::{Amended, Approval, Body};
use suijuris_core::time::{Ratchet, Reading};
use suijuris_custody::record::record_crash;
use suijuris_store::{Draft, Sign, Writer};

use super::creation::files;
use crate::approval::Matter;
use crate::event_printer::EventPrinter;
use crate::{approval, here, owner};

/// Too few owners approved.
const CODE_APPROVALS: &str = "approvals_missing";

/// Proposes the new definition to the object, with the approvals in `papers` and that of the owner here; whether it is
/// in force now.
pub(super) fn amend(
    writer: &Writer,
    built: &Built,
    papers: &[PathBuf],
    reading: Reading,
    say: &EventPrinter,
) -> anyhow::Result<bool> {
    record_crash(writer, reading.wall)?;
    let approvals = approvals(writer, built, papers)?;
    let (decision, from) = {
        let state = writer.published();
        let head = state.head();
        let bundle = writer.bundles().bundle(&head.bundle)?;
        let now = Ratchet::new(head.at).observe(reading);
        let detail = format!("bundle {}", built.id.short());
        say.proposal(Action::Amend, "controller", None, &detail);
        let view = View::new(&state, &bundle.rules);
        let statement = Matter::Amend(built.id)
            .statement(head)
            .context("nothing is stated")?;
        let by = Principal::approving(&statement, &approvals, &head.controllers);
        let inputs = Inputs::new(now, by, here::host());
        let verdict = decide(view, Action::Amend, head.object, inputs);
        say.verdict(verdict.decision(), "door");
        match verdict {
            Verdict::Permit(_, decision) => (decision, head.bundle),
            Verdict::Refuse(_) => return Ok(false),
        }
    };
    if !are_enough(writer, built, &approvals, say) {
        return Ok(false);
    }
    writer.bundles().put(&files(built))?;
    let body = Body::Amended(Amended {
        decision: *decision,
        from,
        approvals,
    });
    let draft = Draft {
        body,
        at: reading.wall,
        bundle: Some(built.id),
        sign: Sign::Now,
    };
    let ticket = writer
        .stage(draft)
        .context("the amendment was not recorded; the rules stay as they are")?;
    ticket.wait()?;
    Ok(true)
}

/// Those in files, and that of the owner here, where there is one.
fn approvals(writer: &Writer, built: &Built, papers: &[PathBuf]) -> anyhow::Result<Vec<Approval>> {
    let state = writer.published();
    let key = owner::existing_key()?;
    approval::gather(&Matter::Amend(built.id), state.head(), papers, key.as_ref())
}

fn are_enough(writer: &Writer, built: &Built, approvals: &[Approval], say: &EventPrinter) -> bool {
    let state = writer.published();
    let head = state.head();
    let enough = approval::enough(&Matter::Amend(built.id), head, approvals);
    if let Err(found) = enough {
        let message = format!(
            "{found} of the {} owners needed approved this definition: have each of them run `suijuris approve DIR -o FILE`, \
             and start `suijuris up DIR --approval FILE` with their files",
            head.threshold
        );
        say.error(CODE_APPROVALS, &message);
    }
    enough.is_ok()
}
