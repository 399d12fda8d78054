//! `[class]`: what makes a bundle a template of which objects are founded.

use suijuris_core::class::{Class, FOUNDINGS_PER_CLASS, FOUNDINGS_PER_PEER, Keys, Source, SourceError};
use suijuris_core::manifest::Protocol;

use crate::fault::{code, nearest};
use crate::section::{Found, Section};

/// Sources that are one word.
const WORDS: [&str; 5] = ["host", "path", "sni", "client_cert", "port"];

/// Number of instances that stands in for one that is missing.
const UNKNOWN: u64 = 1;

/// What `[class]` says.
#[derive(Default)]
pub(super) struct Read {
    pub(super) section: Option<Class>,
    /// Whether rules can be checked: whether there is a class is known.
    pub(super) whole: bool,
}

pub(super) fn read(root: &mut Section<'_>, protocol: Protocol) -> Read {
    let declared = root.has("class");
    let Some(mut section) = root.section("class") else {
        return Read {
            section: None,
            whole: !declared,
        };
    };
    let max_instances = section.integer("max_instances").map(|found| found.value);
    if !section.has("max_instances") {
        section.missing(
            "max_instances",
            "say how many objects there may be, as in max_instances = 1000",
        );
    }
    let rate = |found: Option<Found<u32>>, default| found.map_or(default, |found| found.value);
    let class = Class {
        key: keys(&mut section),
        from: sources(&mut section).unwrap_or_else(|| default_sources(protocol)),
        max_instances: max_instances.unwrap_or(UNKNOWN),
        archive_after: section.length("archive_after"),
        paths: section.flag("paths").unwrap_or(false),
        per_peer: rate(section.integer("per_peer"), FOUNDINGS_PER_PEER),
        per_class: rate(section.integer("per_class"), FOUNDINGS_PER_CLASS),
    };
    section.finish();
    Read {
        section: Some(class),
        whole: true,
    }
}

fn default_sources(protocol: Protocol) -> Vec<Source> {
    match protocol {
        Protocol::Http | Protocol::H2c => vec![Source::Host, Source::Path],
        Protocol::Tcp | Protocol::FdPassing => vec![Source::Port],
    }
}

fn keys(section: &mut Section<'_>) -> Keys {
    let Some(found) = section.text("key") else {
        return Keys::Label;
    };
    if found.value == "digest" {
        return Keys::Digest;
    }
    match found.value.parse() {
        Ok(pattern) => Keys::Pattern(pattern),
        Err(error) => {
            let help = format!("{error}; or key = \"digest\"");
            section
                .faults()
                .error(code::BAD_VALUE, &found.span, "`class.key` is not a pattern", help);
            Keys::Label
        }
    }
}

fn sources(section: &mut Section<'_>) -> Option<Vec<Source>> {
    let wanted = section.texts("from")?;
    let mut sources = Vec::new();
    for found in wanted {
        let faults = section.faults();
        let source: Result<Source, SourceError> = found.value.parse();
        match source {
            Ok(source) if sources.contains(&source) => {
                let message = format!("`{source}` appears twice");
                faults.error(code::TWICE, &found.span, message, "leave one out");
            }
            Ok(source) => sources.push(source),
            Err(error) => {
                let message = format!("no key can come from `{}`", found.value.escape_debug());
                let help = match nearest(found.value, WORDS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => error.to_string(),
                };
                faults.error(code::BAD_VALUE, &found.span, message, help);
            }
        }
    }
    Some(sources)
}
