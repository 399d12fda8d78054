//! The definition has changed: the object decides whether to take it, and enough of its owners must have approved.

use std::path::PathBuf;

use suijuris_bundle::Built;
use suijuris_core::governance::Action;
use suijuris_core::lineage::Approval;
use suijuris_core::time::{Ratchet, Reading};
use suijuris_custody::amend::{Amendment, propose};
use suijuris_custody::record::record_crash;
use suijuris_store::Writer;

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
    printer: &EventPrinter,
) -> anyhow::Result<bool> {
    record_crash(writer, reading.wall)?;
    let approvals = approvals(writer, built, papers)?;
    let now = Ratchet::new(writer.published().head().at).observe(reading);
    let detail = format!("bundle {}", built.id.short());
    printer.proposal(Action::Amend, "controller", None, &detail);
    match propose(writer, &files(built), approvals, now, here::host())? {
        Amendment::InForce => Ok(true),
        Amendment::Amended(decision, ticket, _) => {
            printer.verdict(&decision, "door");
            ticket.wait()?;
            Ok(true)
        }
        Amendment::Refused(decision, ticket) => {
            printer.verdict(&decision, "door");
            ticket.wait()?;
            Ok(false)
        }
        Amendment::TooFew(decision, found, needed) => {
            printer.verdict(&decision, "door");
            let message = format!(
                "{found} of the {needed} owners needed approved this definition: have each of them run `suijuris approve DIR -o FILE`, \
                 and start `suijuris up DIR --approval FILE` with their files"
            );
            printer.error(CODE_APPROVALS, &message);
            Ok(false)
        }
    }
}

/// Those in files, and that of the owner here, where there is one.
fn approvals(writer: &Writer, built: &Built, papers: &[PathBuf]) -> anyhow::Result<Vec<Approval>> {
    let state = writer.published();
    let key = owner::existing_key()?;
    approval::gather(&Matter::Amend(built.id), state.head(), papers, key.as_ref())
}
