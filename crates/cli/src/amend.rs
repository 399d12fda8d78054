//! `amend`: a new definition for what a daemon serves: one object, or all instances of a class, a few of them first.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::Serialize;
use suijuris_api::control::Reply;
use suijuris_api::daemon::{Amend, AmendClass, Class, ClassList, Object};
use suijuris_bundle::Built;
use suijuris_core::class::template_statement;

use crate::add::{build, parts};
use crate::approval::{Matter, gather};
use crate::carrier::Carrier;
use crate::object_paths::ObjectPaths;
use crate::server::{Server, path_of};
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, history, owner};

/// Propose a new definition to an object, or to all instances of a class, that a daemon serves
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each object decides by its own `amend` rule, and its owners must sign: the owner's key here does, others with --approval.
An object must be asleep. First it is shown how many recorded decisions would come out otherwise; with --canary a few
instances are amended, and the rest only if none of them refused. New instances have the new definition once all have it.
Exit codes: 0 all have it, 1 some refused or are awake.

Example:
  suijuris amend tenant --canary 5")]
pub(crate) struct Args {
    /// Class, CLASS/KEY, name or id
    target: String,
    /// Directory of the new definition [default: where the target was added from]
    dir: Option<PathBuf>,
    /// Amend so many percent of the instances first, and the rest if none refuses
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    canary: Option<u8>,
    /// Only show what would come out otherwise
    #[arg(long)]
    dry_run: bool,
    /// Another owner's approval, from `suijuris approve`; for a single object
    #[arg(long = "approval", value_name = "FILE")]
    approvals: Vec<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// The finding that no rule lets an owner amend.
const LOCKED_OUT: &str = "rules.owner_locked_out";

/// What became of an amendment, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    bundle: String,
    /// Recorded decisions of the objects, and how many would come out otherwise.
    judged: u64,
    would_change: u64,
    /// Objects that have it now.
    amended: Vec<String>,
    /// Objects that had it already.
    in_force: Vec<String>,
    /// Objects that refused, or could not be asked, and why.
    refused: Vec<Refusal>,
    /// Objects that were not asked, since one before them refused.
    left: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Refusal {
    object: String,
    why: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let server = Server::chosen()?;
    let classes: ClassList = server.get("/v1/classes")?;
    let class = classes
        .classes
        .into_iter()
        .find(|class| class.class == args.target);
    let mut objects = match &class {
        Some(class) => server.objects(&format!("class={}", class.class))?,
        None => vec![server.object(&args.target)?],
    };
    objects.sort_by_key(label);
    let dir = args.dir.clone();
    let added_from = || match &class {
        Some(class) => class.object_dir.clone(),
        None => objects.first()?.object_dir.clone(),
    };
    let dir = dir.or_else(added_from);
    let dir = dir.ok_or_else(|| Usage("name the directory of the new definition".to_owned()))?;
    let built = build(&dir)?;
    warn_of_lock_out(&built);
    let mut outcome = Outcome {
        bundle: built.id.to_string(),
        ..Outcome::default()
    };
    for object in &objects {
        let carrier = Carrier::Daemon(server.clone(), Box::new(object.clone()));
        let rejudged = carrier.rejudge(&built)?;
        outcome.judged += rejudged.judged;
        outcome.would_change += rejudged.would_change;
    }
    if !args.json {
        let (judged, changed) = (outcome.judged, outcome.would_change);
        terminal::print(&format!(
            "{judged} recorded decisions, {changed} would come out otherwise\n"
        ))?;
    }
    if args.dry_run {
        return finish(args, &outcome);
    }
    let first = args.canary.map_or(objects.len(), |percent| {
        (objects.len() * usize::from(percent)).div_ceil(100)
    });
    let (canary, rest) = objects.split_at(first.min(objects.len()));
    for (round, objects) in [canary, rest].into_iter().enumerate() {
        if round > 0 && !outcome.refused.is_empty() {
            outcome.left.extend(objects.iter().map(label));
            continue;
        }
        for object in objects {
            amend(&server, object, &built, args, &mut outcome)?;
        }
    }
    if let Some(class) = class.filter(|_| outcome.refused.is_empty()) {
        amend_class(&server, &class, &built)?;
    }
    finish(args, &outcome)
}

/// Rules that no owner can change are in force for ever, this time as every other.
fn warn_of_lock_out(built: &Built) {
    let mut findings = built.findings.diagnostics().iter();
    if let Some(found) = findings.find(|found| found.code == LOCKED_OUT) {
        terminal::note(&format!("warning: {}", found.message));
    }
}

fn amend(
    server: &Server,
    object: &Object,
    built: &Built,
    args: &Args,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let reader = history::open(&paths(object))?;
    let key = owner::existing_key()?;
    let approvals = gather(
        &Matter::Amend(built.id),
        reader.state().head(),
        &args.approvals,
        key.as_ref(),
    )?;
    let proposed = Amend {
        bundle: parts(built),
        approvals: approvals.iter().map(suijuris_words::owner::approval).collect(),
    };
    let name = label(object);
    let reply: Reply = server.post(&format!("{}/amend", path_of(&object.object)), &proposed)?;
    let (tone, word, why) = match reply {
        Reply::Verdict(verdict) if verdict.outcome == "permit" => {
            outcome.amended.push(name.clone());
            (Tone::Good, "amended", String::new())
        }
        Reply::Verdict(verdict) => (Tone::Bad, "refused", verdict.reasons.join("; ")),
        Reply::Error { code, .. } if code == "in_force" => {
            outcome.in_force.push(name.clone());
            (Tone::Faint, "in force", String::new())
        }
        Reply::Error { message, .. } => (Tone::Bad, "refused", message),
        Reply::Patched { .. } | Reply::Forked(_) | Reply::Status { .. } => {
            bail!("the daemon answers something else than was asked")
        }
    };
    if !args.json {
        let shown = Screen::stdout().paint(tone, word);
        terminal::print(&format!("{shown}  {name}  {}\n", terminal::clean(&why)))?;
    }
    if word == "refused" {
        outcome.refused.push(Refusal { object: name, why });
    }
    Ok(())
}

/// New instances are founded from the new definition.
fn amend_class(server: &Server, class: &Class, built: &Built) -> anyhow::Result<()> {
    let id = class.id.parse().context("the daemon names no class")?;
    let from = class.bundle.parse().context("the daemon names no bundle")?;
    let key =
        owner::existing_key()?.context("no owner's key is here: name the class's with SUIJURIS_OWNER_KEY")?;
    let statement = template_statement(id, from, built.id);
    let amend = AmendClass {
        bundle: parts(built),
        approvals: vec![suijuris_words::owner::approval(&statement.approve(&key)?)],
    };
    let _: Class = server.put(&format!("/v1/classes/{}", class.class), &amend)?;
    Ok(())
}

fn finish(args: &Args, outcome: &Outcome) -> anyhow::Result<Answer> {
    if args.json {
        terminal::print_json(outcome)?;
    } else if !outcome.left.is_empty() {
        let left = outcome.left.len();
        terminal::note(&format!(
            "{left} instances were left as they are, since one before them did not take it"
        ));
    }
    Ok(if outcome.refused.is_empty() && outcome.left.is_empty() {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn label(object: &Object) -> String {
    match (&object.class, &object.key) {
        (Some(class), Some(key)) => format!("{class}/{key}"),
        _ => object.name.clone(),
    }
}

fn paths(object: &Object) -> ObjectPaths {
    ObjectPaths {
        object_dir: object.object_dir.clone(),
        data: object.data.clone(),
    }
}
