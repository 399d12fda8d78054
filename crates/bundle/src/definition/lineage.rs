//! `[lineage]` and `[witness]`: when records are signed, and how much the object relies on what remembers its head.

use suijuris_core::manifest::{LEASE, Witness};
use suijuris_core::time::Span;

use crate::defaults;
use crate::fault::code;
use crate::section::{Found, Section};

/// What is asked of a witness.
pub(super) struct Terms {
    pub(super) strength: Witness,
    pub(super) lease: Span,
    pub(super) grace: Span,
}

/// Reads both tables. The strength may stand in either, as `lineage.witness` or `witness.strength`.
pub(super) fn read(root: &mut Section<'_>) -> (Span, Terms) {
    let (seal_within, short) = match root.section("lineage") {
        Some(mut lineage) => {
            let read = (lineage.length("seal_within"), strength(&mut lineage, "witness"));
            lineage.finish();
            read
        }
        None => (None, None),
    };
    let (mut lease, mut grace, mut long) = (None, None, None);
    if let Some(mut witness) = root.section("witness") {
        long = strength(&mut witness, "strength");
        lease = witness.length("lease");
        grace = witness.length("grace");
        if let (Some(_), Some(twice)) = (&short, &long) {
            let help = "leave out `lineage.witness`, which is the short form of it";
            let faults = witness.faults();
            faults.error(
                code::BAD_VALUE,
                &twice.span,
                "`witness.strength` is said twice",
                help,
            );
        }
        witness.finish();
    }
    let strength = long.or(short).map_or(Witness::Optional, |found| found.value);
    let terms = Terms {
        strength,
        lease: lease.unwrap_or(LEASE),
        grace: grace.unwrap_or_default(),
    };
    (seal_within.unwrap_or(defaults::SEAL_WITHIN), terms)
}

fn strength(section: &mut Section<'_>, key: &'static str) -> Option<Found<Witness>> {
    let words = [("optional", Witness::Optional), ("required", Witness::Required)];
    let span = section.value(key)?.span();
    let value = section.word(key, &words)?;
    Some(Found { value, span })
}
