//! `[elsewhere."HOST"]`: where requests for other objects go.

use std::collections::BTreeMap;

use suijuris_core::manifest::Place;

use crate::fault::code;
use crate::section::Section;

/// The places by host; what they may be is checked with the manifest.
pub(super) fn read(root: &mut Section<'_>) -> BTreeMap<String, Place> {
    let Some((section, entries)) = root.entries("elsewhere") else {
        return BTreeMap::new();
    };
    let place = |(host, value): (crate::section::Found<&str>, _)| {
        let place = place(section.as_section(host.value, value)?)?;
        Some((host.value.to_owned(), place))
    };
    entries.into_iter().filter_map(place).collect()
}

fn place(mut section: Section<'_>) -> Option<Place> {
    let object = section.parsed("object");
    let text = |found: Option<crate::section::Found<&str>>| found.map(|found| found.value.to_owned());
    let (app, region, instance) = (
        section.text("app"),
        section.text("region"),
        section.text("instance"),
    );
    let json = section.flag("json").unwrap_or(false);
    if !section.has("object") {
        let help = "write object = \"…\", the id that `suijuris show` prints for the object there";
        let (faults, span) = (section.faults(), section.span());
        faults.error(
            code::MISSING_KEY,
            &span,
            "a place needs the `object` that lives there",
            help,
        );
    }
    section.finish();
    Some(Place {
        object: object?.value,
        app: text(app),
        region: text(region),
        instance: text(instance),
        json,
    })
}
