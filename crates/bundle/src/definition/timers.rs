//! `[timers.<name>]`: when time proposes a wake.

use std::collections::BTreeMap;

use suijuris_core::memory::Name;
use suijuris_core::time::Timestamp;
use suijuris_core::trigger::{Missed, Schedule, Timer};
use toml::de::DeValue;

use super::{by_name, name};
use crate::defaults;
use crate::fault::code;
use crate::section::Section;

const MISSED: [(&str, Missed); 3] = [
    ("once", Missed::Once),
    ("all", Missed::All),
    ("skip", Missed::Skip),
];

pub(super) fn read(root: &mut Section<'_>) -> BTreeMap<Name, Timer> {
    let Some((section, entries)) = root.entries("timers") else {
        return BTreeMap::new();
    };
    let timer = |(key, value)| -> Option<(Name, Timer)> {
        let key: crate::section::Found<&str> = key;
        let inner = section.as_section(key.value, value)?;
        let timer = timer(inner);
        Some((name(&key, section.faults())?, timer?))
    };
    by_name(entries.into_iter().map(timer).collect()).0
}

fn timer(mut section: Section<'_>) -> Option<Timer> {
    let at = instant(&mut section).map(Schedule::At);
    let every = section.length("every").map(Schedule::Every);
    let zone = section.text("zone");
    let cron = section.text("cron").map(|expression| Schedule::Cron {
        expression: expression.value.to_owned(),
        zone: zone.as_ref().map_or(defaults::ZONE, |zone| zone.value).to_owned(),
    });
    let missed = section.word("missed", &MISSED).unwrap_or_default();
    let declared = ["at", "every", "cron"].map(|key| section.has(key));
    let faults = section.faults();
    let span = section.span();
    if declared.iter().filter(|has| **has).count() != 1 {
        let help = "write one of cron = \"0 3 * * *\", every = \"1h\" or at = \"2026-12-24T18:00:00Z\"";
        faults.error(code::BAD_TIMER, &span, "a timer needs exactly one schedule", help);
    }
    if let Some(zone) = zone.filter(|_| !section.has("cron")) {
        let help = "leave it out: only cron follows the civil time of a zone";
        faults.error(code::BAD_TIMER, &zone.span, "`zone` belongs to `cron`", help);
    }
    section.finish();
    Some(Timer {
        schedule: at.or(every).or(cron)?,
        missed,
    })
}

/// An instant, as text or as TOML's own date-time with its offset.
fn instant(section: &mut Section<'_>) -> Option<Timestamp> {
    let value = section.value("at")?;
    let DeValue::Datetime(datetime) = value.get_ref() else {
        return section.parsed("at").map(|found| found.value);
    };
    let instant = datetime.to_string().parse();
    if instant.is_err() {
        let help = "write it with its offset, as in 2026-12-24T18:00:00Z";
        let message = "`at` is not a timestamp: it has no offset from UTC";
        section
            .faults()
            .error(code::BAD_VALUE, &value.span(), message, help);
    }
    instant.ok()
}
