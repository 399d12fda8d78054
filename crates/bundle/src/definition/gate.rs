//! `[gate]`: what stands between callers and the workload.

use suijuris_core::governance::Vocabulary;
use suijuris_core::manifest::{Gate, Protocol};

use crate::defaults;
use crate::fault::code;
use crate::section::Section;

const PROTOCOLS: [(&str, Protocol); 4] = [
    ("http", Protocol::Http),
    ("h2c", Protocol::H2c),
    ("tcp", Protocol::Tcp),
    ("handover", Protocol::FdPassing),
];

/// The gate, whether a request proposes `wake`, and whether every header was understood.
pub(super) fn read(root: &mut Section<'_>) -> (Gate, bool, bool) {
    let Some(mut section) = root.section("gate") else {
        return (gate(Protocol::Http), true, true);
    };
    let protocol = section.word("protocol", &PROTOCOLS).unwrap_or(Protocol::Http);
    let by_request = section.flag("wakes").unwrap_or(true);
    let (headers, whole) = headers(&mut section);
    let default = gate(protocol);
    let number =
        |found: Option<crate::section::Found<u32>>, default| found.map_or(default, |found| found.value);
    let gate = Gate {
        headers,
        max_held: number(section.integer("max_held"), default.max_held),
        hold: section.length("hold").unwrap_or(default.hold),
        max_connections: number(section.integer("max_connections"), default.max_connections),
        drain: section.length("drain").unwrap_or(default.drain),
        linger: section.length("linger").unwrap_or(default.linger),
        api: section.flag("api").unwrap_or(default.api),
        cors: cors(&mut section),
        ..default
    };
    section.finish();
    (gate, by_request, whole)
}

const fn gate(protocol: Protocol) -> Gate {
    Gate {
        protocol,
        headers: Vec::new(),
        max_held: defaults::MAX_HELD,
        hold: defaults::HOLD,
        max_connections: defaults::MAX_CONNECTIONS,
        drain: defaults::DRAIN,
        linger: defaults::LINGER,
        api: false,
        cors: Vec::new(),
    }
}

/// What an origin may be is checked with the manifest.
fn cors(section: &mut Section<'_>) -> Vec<String> {
    let origins = section.texts("cors").unwrap_or_default();
    let mut origins: Vec<String> = origins
        .into_iter()
        .map(|origin| origin.value.to_owned())
        .collect();
    origins.sort_unstable();
    origins.dedup();
    origins
}

fn headers(section: &mut Section<'_>) -> (Vec<String>, bool) {
    let wanted = section.texts("headers").unwrap_or_default();
    let all = wanted.len();
    let mut headers: Vec<String> = Vec::new();
    for header in wanted {
        let one = Vocabulary {
            headers: vec![header.value.to_owned()],
            ..Vocabulary::default()
        };
        let faults = section.faults();
        if headers.iter().any(|have| have == header.value) {
            let message = format!("header `{}` appears twice", header.value);
            faults.error(code::TWICE, &header.span, message, "leave one out");
        } else if one.check().is_err() {
            let message = format!("`{}` is not the name of a header", header.value);
            let help = "use lower-case letters, digits and `-`, as in x-tenant";
            faults.error(code::BAD_NAME, &header.span, message, help);
        } else {
            headers.push(header.value.to_owned());
        }
    }
    // Rules speak of headers by position: in one order, however the author listed them.
    headers.sort_unstable();
    let whole = headers.len() == all;
    (headers, whole)
}
