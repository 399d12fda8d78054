//! `verify`: a whole history, offline: every record, every signature, every bundle compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use suijuris_bundle::Files;
use suijuris_core::id::BundleId;
use suijuris_core::lineage::Body;
use suijuris_store::capsule::{self, CapsuleError};
use suijuris_store::fork::{self, ParentError};
use suijuris_store::{BundleFiles, BundleStore, ObjectDir, OpenError, Position, Reader, Verified};

use crate::Answer;
use crate::object_paths::ObjectArg;
use crate::progress::Progress;
use crate::terminal::{self, Screen, Tone};

/// Bytes of a capsule read at once.
const READ_BYTES: usize = 256 << 10;

/// Bundles of a capsule, each with what does not hold of it.
type Bundles = BTreeMap<BundleId, Option<String>>;

/// Verify a history offline: every record, every signature, every rule
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads the whole chain from inception; needs no service and no key. A copy of the data directory
will do, and so will a capsule, as `export` writes it.

Exit codes: 0 verified, 1 not verified, 3 there is no object or it cannot be read.

Example:
  suijuris verify hello
  suijuris verify hello.sui")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `verify --json` prints.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    verified: bool,
    object: Option<String>,
    /// Records that hold.
    records: u64,
    head: Option<String>,
    /// Records at the end that no signature covers yet.
    uncovered: u64,
    bundles: Vec<String>,
    /// What does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
}

#[derive(Debug, Serialize)]
struct Fault {
    /// Position of the first bad record.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// Its file, in the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Byte in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    message: String,
}

impl Fault {
    fn at(place: Position, message: String) -> Self {
        Self {
            seq: Some(place.seq),
            file: Some(format!("lineage/{:020}.seg", place.segment)),
            offset: Some(place.offset),
            message,
        }
    }

    const fn whole(message: String) -> Self {
        Self {
            seq: None,
            file: None,
            offset: None,
            message,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let outcome = match args.at.dir.as_deref().filter(|path| path.is_file()) {
        Some(file) => verify_capsule(file)?,
        None => verify(&args.at.locate()?.home())?,
    };
    if args.json {
        terminal::print_json(&outcome)?;
    } else {
        terminal::print(&text(&outcome, Screen::stdout()))?;
    }
    Ok(if outcome.verified { Answer::Yes } else { Answer::No })
}

fn verify(home: &ObjectDir) -> anyhow::Result<Outcome> {
    let mut last = None;
    let read = {
        let progress = Progress::of(None, "verified");
        Reader::verify(home, |verified: Verified| {
            progress.at(verified.records);
            last = Some(verified);
        })
    };
    let records = last.map_or(0, |verified| verified.records);
    let reader = match read {
        Ok(reader) => reader,
        Err(error) => {
            let fault = fault(error)?;
            return Ok(Outcome {
                records,
                fault: Some(fault),
                ..Outcome::default()
            });
        }
    };
    let head = reader.state().head();
    let bundles = bundles(&reader)?;
    let unsound = bundles.iter().find_map(|id| check_bundle(home, id).err());
    let misfounded = instance(&reader)?;
    let torn = || last.filter(|_| reader.is_torn()).map(|last| torn(last.place));
    let orphaned = match fork::parent_of(home) {
        Ok(_) => None,
        Err(ParentError::Proof(error)) => {
            let error = ParentError::Proof(error);
            Some(Fault::whole(suijuris_custody::chain(&error)))
        }
        Err(ParentError::Open(error)) => Some(fault(error)?),
    };
    let fault = orphaned.or(unsound).or(misfounded).or_else(torn);
    Ok(Outcome {
        verified: fault.is_none(),
        object: Some(head.object.to_string()),
        records,
        head: Some(head.record.to_string()),
        uncovered: head.uncovered(),
        bundles: bundles.iter().map(ToString::to_string).collect(),
        fault,
    })
}

/// What does not hold of how an instance of a class was founded, by the bundle that its inception names.
fn instance(reader: &Reader) -> anyhow::Result<Option<Fault>> {
    let Some(first) = reader.records(0..1)?.next().transpose()? else {
        return Ok(None);
    };
    let Body::Inception(inception) = &first.record.body else {
        return Ok(None);
    };
    let (Some(class), Ok(bundle)) = (&inception.class, reader.bundle(&first.record.bundle)) else {
        return Ok(None);
    };
    let checked = class.check(&inception.name, &bundle);
    Ok(checked.err().map(|error| Fault {
        seq: Some(0),
        ..Fault::whole(suijuris_custody::chain(&error))
    }))
}

/// Verifies a capsule: every section, record and signature, and that each bundle's text compiles to its program.
fn verify_capsule(path: &Path) -> anyhow::Result<Outcome> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("`{shown}` cannot be read"))?;
    let progress = Progress::of(None, "verified");
    let mut records = 0;
    let mut bundles = Bundles::new();
    let verified = capsule::verify_with(
        BufReader::with_capacity(READ_BYTES, file),
        |at| {
            records = at.records;
            progress.at(at.records);
        },
        |id, files| {
            let sound = compiles(files).err();
            bundles.insert(
                *id,
                sound.map(|error| format!("bundle {id} is not valid: {error:#}")),
            );
        },
    );
    drop(progress);
    let names = bundles.keys().map(ToString::to_string).collect();
    match verified {
        Ok(verified) => {
            let fault = bundles.into_values().flatten().next().map(Fault::whole);
            Ok(Outcome {
                verified: fault.is_none(),
                object: Some(verified.object().to_string()),
                records: verified.records,
                head: Some(verified.head().to_string()),
                uncovered: verified.state.head().uncovered(),
                bundles: names,
                fault,
            })
        }
        Err(CapsuleError::Bad { spot, fault }) => Ok(Outcome {
            records,
            bundles: names,
            fault: Some(Fault {
                seq: Some(spot.seq),
                file: Some(shown.to_string()),
                offset: Some(spot.offset),
                message: suijuris_custody::chain(&fault),
            }),
            ..Outcome::default()
        }),
        Err(error @ CapsuleError::Read(_)) => Err(error.into()),
    }
}

/// What does not hold; an error where the question could not be asked.
fn fault(error: OpenError) -> anyhow::Result<Fault> {
    match error {
        OpenError::Damaged { place, damage } => Ok(Fault::at(place, suijuris_custody::chain(&damage))),
        OpenError::Checkpoint(_) | OpenError::Bundle { .. } => {
            Ok(Fault::whole(suijuris_custody::chain(&error)))
        }
        other => Err(other.into()),
    }
}

fn torn(last: Position) -> Fault {
    let message = "the record after this one is incomplete: a writer that died while writing leaves this, and so does damage to \
                   the end; the next start removes it";
    Fault::at(last, message.to_owned())
}

/// Bundles that the history names, in order of their ids.
fn bundles(reader: &Reader) -> anyhow::Result<BTreeSet<BundleId>> {
    reader
        .records(0..u64::MAX)?
        .map(|stored| Ok(stored?.record.bundle))
        .collect()
}

/// Holds a bundle's parts to each other: the text compiles to the very program that decides.
fn compiles(files: BundleFiles) -> anyhow::Result<()> {
    let governance = String::from_utf8(files.governance).context("its rules are not text")?;
    Files {
        manifest: files.manifest,
        governance,
        program: files.program,
    }
    .verify()?;
    Ok(())
}

fn check_bundle(home: &ObjectDir, id: &BundleId) -> Result<(), Fault> {
    let check = || compiles(BundleStore::of(home).files(id)?);
    check().map_err(|error| Fault::whole(format!("bundle {id} is not valid: {error:#}")))
}

fn text(outcome: &Outcome, terminal: Screen) -> String {
    let mut text = match &outcome.fault {
        None => format!(
            "{}  {}\n",
            terminal.paint(Tone::Good, "verified"),
            terminal::count(outcome.records, "record")
        ),
        Some(fault) => {
            let place = match (fault.seq, &fault.file, fault.offset) {
                (Some(seq), Some(file), Some(offset)) => format!("  record {seq}, {file}, byte {offset}"),
                _ => String::new(),
            };
            format!(
                "{}{place}\n  {}\n",
                terminal.paint(Tone::Bad, "not verified"),
                terminal::clean(&fault.message)
            )
        }
    };
    for (word, id) in [("object", &outcome.object), ("head", &outcome.head)] {
        if let Some(id) = id {
            text += &format!("  {word:7} {id}\n");
        }
    }
    for id in &outcome.bundles {
        text += &format!("  bundle  {id}\n");
    }
    if outcome.uncovered > 0 {
        text += &format!(
            "  not signed yet: {} at the end\n",
            terminal::count(outcome.uncovered, "record")
        );
    }
    text
}
