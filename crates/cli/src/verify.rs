//! `verify`: a whole history, offline: every record, every signature, every bundle compiled again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context as _;
use suijuris_api::history::{Fault, Verification};
use suijuris_core::id::BundleId;
use suijuris_store::capsule::{self, CapsuleError};

use crate::Answer;
use crate::carrier::compiles;
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

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let outcome = match args.at.dir.as_deref().filter(|path| path.is_file()) {
        Some(file) => verify_capsule(file)?,
        None => args.at.carrier()?.verify()?,
    };
    if args.json {
        terminal::print_json(&outcome)?;
    } else {
        terminal::print(&text(&outcome, Screen::stdout()))?;
    }
    Ok(if outcome.verified { Answer::Yes } else { Answer::No })
}

/// Why a capsule is not taken.
#[derive(Debug, thiserror::Error)]
#[error("{0}; `suijuris verify` says the same of it")]
pub(crate) struct NotVerified(String);

/// Verifies a capsule before anything of it is kept: what `verify` refuses is imported by nobody.
///
/// # Errors
/// [`NotVerified`], or that it cannot be read.
pub(crate) fn ensure_verified(path: &Path) -> anyhow::Result<()> {
    match verify_capsule(path)?.fault {
        None => Ok(()),
        Some(fault) => Err(NotVerified(fault.message).into()),
    }
}

/// Verifies a capsule: every section, record and signature, and that each bundle's text compiles to its program.
fn verify_capsule(path: &Path) -> anyhow::Result<Verification> {
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
            bundles.insert(*id, sound.map(|why| format!("bundle {id} is not valid: {why}")));
        },
    );
    drop(progress);
    let names = bundles.keys().map(ToString::to_string).collect();
    match verified {
        Ok(verified) => {
            let fault = bundles.into_values().flatten().next().map(|message| Fault {
                seq: None,
                file: None,
                offset: None,
                message,
            });
            Ok(Verification {
                verified: fault.is_none(),
                object: Some(verified.object().to_string()),
                records: verified.records,
                head: Some(verified.head().to_string()),
                uncovered: verified.state.head().uncovered(),
                bundles: names,
                fault,
            })
        }
        Err(CapsuleError::Bad { spot, fault }) => Ok(Verification {
            records,
            bundles: names,
            fault: Some(Fault {
                seq: Some(spot.seq),
                file: Some(shown.to_string()),
                offset: Some(spot.offset),
                message: suijuris_custody::chain(&fault),
            }),
            ..Verification::default()
        }),
        Err(error @ CapsuleError::Read(_)) => Err(error.into()),
    }
}

fn text(outcome: &Verification, terminal: Screen) -> String {
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
