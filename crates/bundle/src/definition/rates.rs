//! `[rates.<name>]`: how often somebody asks, for rules.

use std::collections::BTreeMap;

use suijuris_core::memory::Name;
use suijuris_core::rates::{Per, Rate};

use super::{by_name, name};
use crate::fault::code;
use crate::section::Section;

const PER: [(&str, Per); 3] = [
    ("caller", Per::Caller),
    ("peer", Per::Peer),
    ("object", Per::Object),
];

/// The rates, and whether all of them could be read.
pub(super) fn read(root: &mut Section<'_>) -> (BTreeMap<Name, Rate>, bool) {
    let Some((section, entries)) = root.entries("rates") else {
        return (BTreeMap::new(), true);
    };
    let rate = |(key, value)| -> Option<(Name, Rate)> {
        let key: crate::section::Found<&str> = key;
        let rate = rate(section.as_section(key.value, value)?);
        Some((name(&key, section.faults())?, rate?))
    };
    by_name(entries.into_iter().map(rate).collect())
}

fn rate(mut section: Section<'_>) -> Option<Rate> {
    let (per, window) = (section.word("per", &PER), section.length("window"));
    if !section.has("per") || !section.has("window") {
        let help = "write per = \"caller\", \"peer\" or \"object\", and window = \"1m\"";
        let (faults, span) = (section.faults(), section.span());
        faults.error(code::MISSING_KEY, &span, "a rate needs `per` and `window`", help);
    }
    section.finish();
    Some(Rate {
        per: per?,
        window: window?,
    })
}
