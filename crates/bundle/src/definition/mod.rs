//! `object.toml` read into the parts of a manifest.
//!
//! A reader for each table. A wrong value is reported and replaced by its default, so that one run reports everything;
//! bounds are those of [`Manifest::faults`], told here at the place they concern. `docs/object-toml.md` is the
//! reference for people.

mod callers;
mod class;
mod elsewhere;
mod gate;
mod lineage;
mod machine;
mod memory;
mod rates;
mod secrets;
mod timers;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use suijuris_core::BlobId;
use suijuris_core::key::PublicKey;
use suijuris_core::manifest::{self, Manifest, SleepMode, VERSION};
use suijuris_core::memory::{Name, Schema};
use suijuris_core::trigger::{ScheduleError, Triggers};
use toml::Spanned;
use toml::de::DeTable;

use crate::fault::{Faults, code};
use crate::pins::Pins;
use crate::section::{Found, Section, locate};

/// The owners that `object.toml` names. They enter the inception record and not the bundle, so that an amended bundle
/// cannot change its own judges.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Controllers {
    /// Public keys, at least one.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign, from 1 to their number.
    pub threshold: u32,
}

/// What `object.toml` says.
pub(crate) struct Definition {
    /// The manifest, its program still to be compiled.
    pub(crate) manifest: Manifest,
    /// Owners, if named.
    pub(crate) controllers: Option<Controllers>,
    /// Whether every memory field, claim and header was understood, so that rules can be checked against them.
    pub(crate) vocabulary_whole: bool,
}

/// Reads the document; files that it names lie in `dir`.
pub(crate) fn read(
    document: &Spanned<DeTable<'_>>,
    faults: &Faults<'_>,
    dir: &Path,
    governance: BlobId,
) -> Definition {
    let table = document.get_ref();
    let mut root = Section::document(table, faults);
    let name = root.text("name");
    if !root.has("name") {
        root.missing(
            "name",
            "write name = \"…\" in the first line: lower-case letters, digits and hyphens",
        );
    }
    let pins = Pins::read(dir).unwrap_or_else(|error| {
        let help = "remove it and run `suijuris images pull` in this directory";
        faults.error(code::FILE, &(0..0), error.to_string(), help);
        Pins::default()
    });
    let mut workload = workload::read(&mut root, &pins);
    let (gate, by_request, headers_whole) = gate::read(&mut root);
    workload::ready_without_port(&mut workload, gate.protocol, table, faults);
    let (fields, fields_whole) = memory::read(&mut root);
    let timers = timers::read(&mut root);
    let topics = topics(&mut root);
    let callers = callers::read(&mut root, dir);
    let (rates, rates_whole) = rates::read(&mut root);
    let elsewhere = elsewhere::read(&mut root);
    let sleep = sleep(&mut root);
    let (records, witness) = lineage::read(&mut root, sleep);
    let controllers = callers::controllers(&mut root);
    let class = class::read(&mut root, gate.protocol);
    root.finish();

    let manifest = Manifest {
        v: VERSION,
        name: name
            .as_ref()
            .map_or_else(String::new, |name| name.value.to_owned()),
        workload,
        gate,
        memory: Schema::try_from(fields).unwrap_or_else(|error| {
            faults.error(code::BAD_TYPE, &locate(table, "memory"), error, "");
            Schema::default()
        }),
        governance,
        program: BlobId::of(&[]),
        triggers: Triggers {
            request: by_request,
            topics,
            timers,
        },
        callers: callers.keys,
        claims: callers.claims,
        rates,
        sleep,
        witness: witness.strength,
        lease: witness.lease,
        grace: witness.grace,
        class: class.section,
        elsewhere,
        warm_forks: records.warm_forks,
        seal_within: records.seal_within,
    };
    if fields_whole {
        secrets::check(&manifest, table, faults);
    }
    report_bounds(&manifest, table, faults);
    Definition {
        manifest,
        controllers,
        vocabulary_whole: fields_whole && headers_whole && callers.claims_whole && rates_whole && class.whole,
    }
}

/// Tells the manifest's own faults at the places they concern, except where the reader has already told one.
fn report_bounds(manifest: &Manifest, table: &DeTable<'_>, faults: &Faults<'_>) {
    for fault in manifest.faults() {
        let (path, code, help) = match &fault {
            manifest::Error::Part { part: "name", why } => ("name".to_owned(), code::BAD_NAME, why.clone()),
            manifest::Error::Part {
                part: part @ ("class.from" | "class.paths"),
                why,
            } => ((*part).to_owned(), code::BAD_VALUE, why.clone()),
            manifest::Error::Part { part, why } => ((*part).to_owned(), code::OUT_OF_BOUNDS, why.clone()),
            manifest::Error::Timer(name, error) => {
                (timer_path(name, error), code::BAD_TIMER, error.to_string())
            }
            other => (String::new(), code::BAD_VALUE, other.to_string()),
        };
        let span = locate(table, &path);
        if faults.touches(&span) {
            continue;
        }
        let message = match code {
            code::BAD_NAME => format!("`{}` is not a name for an object", manifest.name),
            code::BAD_TIMER | code::BAD_VALUE => format!("`{path}` cannot be used"),
            _ => format!("`{path}` is out of bounds"),
        };
        faults.error(code, &span, message, help);
    }
}

fn timer_path(name: &Name, error: &ScheduleError) -> String {
    let key = match error {
        ScheduleError::Cron { .. } => "cron",
        ScheduleError::Zone(_) => "zone",
        ScheduleError::TooShort(_) => "every",
    };
    format!("timers.{name}.{key}")
}

/// Topics at most: as many as timers.
const MAX_TOPICS: usize = 256;

fn topics(root: &mut Section<'_>) -> BTreeSet<String> {
    let Some(mut messages) = root.section("messages") else {
        return BTreeSet::new();
    };
    let mut topics = messages.texts("topics").unwrap_or_default();
    if let Some(excess) = topics.get(MAX_TOPICS) {
        let message = format!("{} topics; at most {MAX_TOPICS} can wake an object", topics.len());
        let help = "use fewer topics, and tell messages apart by their content";
        messages
            .faults()
            .error(code::OUT_OF_BOUNDS, &excess.span, message, help);
        topics.truncate(MAX_TOPICS);
    }
    messages.finish();
    topics.into_iter().map(|topic| topic.value.to_owned()).collect()
}

fn sleep(root: &mut Section<'_>) -> SleepMode {
    let modes = [("stop", SleepMode::Stop), ("suspend", SleepMode::Suspend)];
    let Some(mut section) = root.section("sleep") else {
        return SleepMode::Stop;
    };
    let mode = section.word("mode", &modes);
    section.finish();
    mode.unwrap_or(SleepMode::Stop)
}

/// `found` as a [`Name`], reported where it is none.
fn name(found: &Found<&str>, faults: &Faults<'_>) -> Option<Name> {
    match Name::new(found.value) {
        Ok(name) => Some(name),
        Err(error) => {
            let help = "use lower-case letters, digits and `_`, start with a letter, at most 64 characters";
            let message = error.to_string();
            let message = message.split(':').next().unwrap_or_default();
            faults.error(code::BAD_NAME, &found.span, message, help);
            None
        }
    }
}

/// Collects what `read` makes of each entry, by name; and whether all of them could be read.
fn by_name<T>(entries: Vec<Option<(Name, T)>>) -> (BTreeMap<Name, T>, bool) {
    let all = entries.len();
    let read: BTreeMap<_, _> = entries.into_iter().flatten().collect();
    let whole = read.len() == all;
    (read, whole)
}
