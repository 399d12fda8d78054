//! Another definition in the image than the one in force: proposed to the object when its machine starts, with what its owners
//! signed of it, and decided by the rules in force. What they refuse, or nobody signed, changes nothing: the object goes on as
//! it is.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use suijuris_api::Event;
use suijuris_core::bundle::{Bundle, Files};
use suijuris_core::codec;
use suijuris_core::inputs::Host;
use suijuris_core::lineage::Approval;
use suijuris_core::time::Now;
use suijuris_custody::amend::{Amendment, propose};
use suijuris_words::verdict;

use crate::lineage_writer::LineageWriter;
use crate::report::Reports;

/// Variable with the owners' approvals: base64url of their canonical bytes.
pub(crate) const APPROVALS: &str = "SUIJURIS_AMEND";

/// Size of approvals at most, bytes.
const MAX_BYTES: usize = 16 << 10;

/// The definition of the image does not come into force.
const CODE_NOT_AMENDED: &str = "not_amended";

/// In an object's directory: the approvals that were dealt with last, so that who proposed knows when to look.
const DEALT_WITH: &str = "proposed";

/// The approvals that the object in this directory has dealt with last, as they were given.
pub(crate) fn dealt_with(object: &Path) -> Option<String> {
    let file = std::fs::File::open(object.join(DEALT_WITH)).ok()?;
    let mut text = String::new();
    let most = u64::try_from(MAX_BYTES).unwrap_or_default().saturating_mul(2);
    file.take(most).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The bundle in force, once `files` was proposed with these approvals.
pub(crate) async fn amended(
    lineage: &LineageWriter,
    in_force: Arc<Bundle>,
    (files, approvals): (&Files, &str),
    at: (Now, Host),
    reports: &Reports,
) -> Arc<Bundle> {
    let bundle = decided(lineage, in_force, (files, approvals), at, reports).await;
    let object = lineage.writer().object_dir().path();
    let new = object.join(DEALT_WITH).with_extension("new");
    let kept = std::fs::write(&new, approvals).and_then(|()| std::fs::rename(&new, object.join(DEALT_WITH)));
    if let Err(error) = kept {
        reports.error(CODE_NOT_AMENDED, &error);
    }
    bundle
}

async fn decided(
    lineage: &LineageWriter,
    in_force: Arc<Bundle>,
    (files, approvals): (&Files, &str),
    (now, host): (Now, Host),
    reports: &Reports,
) -> Arc<Bundle> {
    let not_amended = |message: String| {
        let code = CODE_NOT_AMENDED.to_owned();
        reports.event(Event::Error { code, message });
    };
    let bytes = URL_SAFE_NO_PAD.decode(approvals.trim()).unwrap_or_default();
    let Ok(approvals) = codec::decode::<Vec<Approval>>(&bytes, MAX_BYTES) else {
        not_amended("SUIJURIS_AMEND has no approvals that can be read: deploy again".to_owned());
        return in_force;
    };
    let (decision, ticket, bundle) = match propose(lineage.writer(), files, approvals, now, host) {
        Ok(Amendment::InForce) => return in_force,
        Ok(Amendment::Amended(decision, ticket, bundle)) => (decision, ticket, bundle),
        Ok(Amendment::Refused(decision, ticket)) => (decision, ticket, in_force.clone()),
        Ok(Amendment::TooFew(_, found, needed)) => {
            not_amended(format!(
                "{found} of the {needed} owners needed approved the definition in the image"
            ));
            return in_force;
        }
        Err(error) => {
            reports.error(CODE_NOT_AMENDED, &error);
            return in_force;
        }
    };
    if let Err(error) = ticket.await {
        reports.error(CODE_NOT_AMENDED, &error);
        return in_force;
    }
    reports.event(Event::Verdict(verdict::verdict(&decision, "runtime")));
    bundle
}
