//! Owners' approvals of an amendment, as files that travel between them; `approve` writes one, `up --approval` takes
//! them in. An approval is for one object, one bundle and the rules now in force: it cannot be used for anything else,
//! nor a second time.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use suijuris_bundle::{Built, Style, build};
use suijuris_core::governance::Action;
use suijuris_core::id::BundleId;
use suijuris_core::key::{PublicKey, Signature};
use suijuris_core::lineage::{Approval, Head, Statement};

use crate::place::Where;
use crate::{Answer, history, owner, screen, sealing};

/// Size of an approval's file at most, bytes.
const MAX_BYTES: u64 = 4_096;

/// Approve the amendment of an object by the definition in its directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For an object with several owners: each approves the definition that is to come into force, and one of them starts
`suijuris up DIR --approval FILE…`. Reads the history, takes no lock and records nothing; a copy of the data directory
will do. The approval holds for this definition and the rules now in force only.

Exit codes: 0 approved, 1 nothing to approve, or the key is none of the object's owners, 3 broken input.

Example:
  suijuris approve hello -o alice.approval
  suijuris approve hello --key bob.key -o bob.approval
  suijuris up hello --approval alice.approval --approval bob.approval")]
pub(crate) struct Args {
    #[command(flatten)]
    at: Where,
    /// The owner's key [default: as for founding an object]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File to write; standard output where absent
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Print the owner's public key, as `[controllers]` takes it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Makes the key where there is none.

Example:
  suijuris key")]
pub(crate) struct KeyArgs {
    /// The owner's key [default: as for founding an object]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Print the age recipient that belongs to it instead, for others' `export --to`
    #[arg(long)]
    recipient: bool,
}

/// What the file holds, as JSON. Only `key` and `sig` are believed; the rest says what a signature that does not fit
/// was meant for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paper {
    object: String,
    action: String,
    /// The bundle that is approved.
    bundle: String,
    /// What binds the approval to the rules now in force, hexadecimal.
    content: String,
    key: PublicKey,
    sig: Signature,
}

/// What owners sign to amend the object to `bundle`.
pub(crate) fn statement(head: &Head, bundle: &BundleId) -> Statement {
    Statement {
        object: head.object,
        action: Action::Amend,
        content: head.amendment(bundle),
    }
}

/// Reads an approval and verifies it.
///
/// # Errors
/// Which words are not true of it, and what to do.
pub(crate) fn read(path: &Path, head: &Head, bundle: &BundleId) -> anyhow::Result<Approval> {
    let file =
        File::open(path).with_context(|| format!("the approval `{}` cannot be read", path.display()))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    check(&bytes, head, bundle)
        .with_context(|| format!("`{}` does not approve this amendment", path.display()))
}

fn check(bytes: &[u8], head: &Head, bundle: &BundleId) -> anyhow::Result<Approval> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        bail!("it is longer than {MAX_BYTES} bytes: name a file that `suijuris approve` wrote");
    }
    let paper: Paper = serde_json::from_slice(bytes)
        .context("it is no approval: name a file that `suijuris approve` wrote")?;
    let statement = statement(head, bundle);
    if paper.object != head.object.to_string() {
        bail!("it is for the object {}", screen::clean(&paper.object));
    }
    if paper.bundle != bundle.to_string() {
        bail!(
            "it is for the definition {}, and the one here is {bundle}: approve again, or restore the definition",
            screen::clean(&paper.bundle)
        );
    }
    if paper.action != Action::Amend.as_str() || paper.content != statement.content.hex() {
        bail!("the rules have been amended since: approve again");
    }
    let approval = Approval {
        key: paper.key,
        sig: paper.sig,
    };
    if !head.controllers.contains(&approval.key) {
        bail!("its key {} is none of the object's owners", approval.key);
    }
    if statement.approved_by(std::slice::from_ref(&approval), &head.controllers) != 1 {
        bail!("its signature does not hold: it was altered");
    }
    Ok(approval)
}

pub(crate) fn key(args: &KeyArgs) -> anyhow::Result<Answer> {
    let key = owner::key(args.key.as_deref())?;
    let text = if args.recipient {
        sealing::recipient_of(&key)?
    } else {
        key.public().to_string()
    };
    screen::print(&format!("{text}\n"))?;
    Ok(Answer::Yes)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let Some(dir) = &place.object_dir else {
        bail!("name the object's directory, with the definition to approve; its data with --data");
    };
    let built = built(dir)?;
    let reader = history::open(&place)?;
    let head = reader.state().head();
    if built.id == head.bundle {
        screen::note("nothing to approve: the definition is the one in force");
        return Ok(Answer::No);
    }
    let key = owner::key(args.key.as_deref())?;
    if !head.controllers.contains(&key.public()) {
        screen::note(&format!(
            "the key {} is none of the object's owners; name theirs with --key",
            key.public()
        ));
        return Ok(Answer::No);
    }
    let statement = statement(head, &built.id);
    let approval = statement.approve(&key)?;
    let paper = Paper {
        object: head.object.to_string(),
        action: Action::Amend.to_string(),
        bundle: built.id.to_string(),
        content: statement.content.hex(),
        key: approval.key,
        sig: approval.sig,
    };
    let text = format!("{}\n", serde_json::to_string(&paper)?);
    match &args.output {
        None => screen::print(&text)?,
        Some(path) => File::create(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write `{}`", path.display()))?,
    }
    screen::note(&format!(
        "approved {} for `{}`; {} of {} owners must",
        built.id.short(),
        screen::clean(&head.name),
        head.threshold,
        head.controllers.len()
    ));
    Ok(Answer::Yes)
}

fn built(dir: &Path) -> anyhow::Result<Built> {
    build(dir).map_err(|report| {
        let style = Style {
            colour: screen::colour(&std::io::stderr()),
            ..Style::PLAIN
        };
        anyhow::anyhow!("the definition has errors\n{}", report.render(style).trim_end())
    })
}
