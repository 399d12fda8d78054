//! `[lineage]` and `[witness]`: when records are signed, and how much the object relies on what remembers its head.

use suijuris_core::manifest::{LEASE, SleepMode, Witness};
use suijuris_core::time::Span;

use crate::defaults;
use crate::fault::code;
use crate::section::{Found, Section};

/// What is asked of the records.
pub(super) struct Records {
    pub(super) seal_within: Span,
    pub(super) warm_forks: bool,
}

/// What is asked of a witness.
pub(super) struct Terms {
    pub(super) strength: Witness,
    pub(super) lease: Span,
    pub(super) grace: Span,
}

/// Reads both tables. The strength may stand in either, as `lineage.witness` or `witness.strength`.
pub(super) fn read(root: &mut Section<'_>, sleep: SleepMode) -> (Records, Terms) {
    let (seal_within, warm_forks, short) = match root.section("lineage") {
        Some(mut lineage) => {
            let seal_within = lineage.length("seal_within");
            let warm_forks = warm_forks(&mut lineage, sleep);
            let short = strength(&mut lineage, "witness");
            lineage.finish();
            (seal_within, warm_forks, short)
        }
        None => (None, false, None),
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
    let records = Records {
        seal_within: seal_within.unwrap_or(defaults::SEAL_WITHIN),
        warm_forks,
    };
    (records, terms)
}

/// Whether children may begin with the memory of its suspended machine: of one that is never suspended there is none.
fn warm_forks(lineage: &mut Section<'_>, sleep: SleepMode) -> bool {
    let span = lineage.value("warm_forks").map(|value| value.span());
    let asked = lineage.flag("warm_forks").unwrap_or(false);
    if let (true, SleepMode::Stop, Some(span)) = (asked, sleep, span) {
        lineage.faults().error(
            code::BAD_VALUE,
            &span,
            "`lineage.warm_forks` needs a machine that is suspended",
            "set `mode = \"suspend\"` in [sleep], or leave it out",
        );
    }
    asked
}

fn strength(section: &mut Section<'_>, key: &'static str) -> Option<Found<Witness>> {
    let words = [("optional", Witness::Optional), ("required", Witness::Required)];
    let span = section.value(key)?.span();
    let value = section.word(key, &words)?;
    Some(Found { value, span })
}
