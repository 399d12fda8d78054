//! `fork`: a child of an object, by its owners' will and its own rules, provable on both sides.

mod warm;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use suijuris_bundle::Style;
use suijuris_core::bundle::check_attenuation;
use suijuris_core::decide::{Verdict, View, decide};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::lineage::{Approval, Decision, Head, Statement, VerifiedParent};
use suijuris_custody::record::{record, record_crash, refusal};
use suijuris_store::fork::{self, ForkRequest, Staged};
use suijuris_store::{BundleFiles, ObjectDir};
use suijuris_words::verdict;
use zeroize::Zeroizing;

use crate::approval::{self, Matter};
use crate::depots::DepotArg;
use crate::object_paths::{ObjectArg, ObjectPaths};
use crate::offline::{self, OfflineObject, Taken};
use crate::terminal::{self, Screen, Tone};
use crate::up::creation;
use crate::{Answer, Usage, here, owner, transition};

/// Make a child of an object
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The child has an id of its own, begins with the parent's memory, and carries proof of its parent;
the parent's history records it. The parent's rules decide (`fork`), and enough of its owners must
approve. A definition in --definition may only narrow the parent's: its rules with more `forbid`s
behind them, the same or less of everything else. Fields with `fresh_for`, and secrets without
--secrets, are not given to the child. The parent must not be running.

Exit codes: 0 forked, 1 refused, approvals missing, or this copy is not the object, 2 usage, 3
broken input or environment.

Example:
  suijuris fork hello --to hello-2 && suijuris up hello --data hello-2
  suijuris fork hello --to quiet/.suijuris --definition quiet && suijuris up quiet
  suijuris fork agent --warm --to try --count 8   # try-1 to try-8, of an object that sleeps in `suijuris serve --vehicle qemu`")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Data directory of the child, to be made; with --warm what the child is called in the daemon
    #[arg(long, value_name = "DATA")]
    to: PathBuf,
    /// The child begins with the memory of the parent's suspended machine, in a daemon with --vehicle qemu; only where the parent's
    /// definition allows it (`warm_forks` in the section lineage), since secrets in that memory cannot be erased
    #[arg(long, conflicts_with_all = ["definition", "name", "owner", "threshold", "depot"])]
    warm: bool,
    /// How many children; with --warm, called TO-1 to TO-N
    #[arg(long, value_name = "N", requires = "warm", value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: Option<u16>,
    /// Directory with the child's own definition (object.toml, governance.cedar) [default: the parent's definition]
    #[arg(long, value_name = "DIR")]
    definition: Option<PathBuf>,
    /// The child's name [default: that in its definition]
    #[arg(long)]
    name: Option<String>,
    /// Public key of an owner of the child, repeatable [default: the parent's owners, or those in the definition]
    #[arg(long, value_name = "KEY")]
    owner: Vec<PublicKey>,
    /// How many of the owners must sign for the child
    #[arg(long, value_name = "N", requires = "owner")]
    threshold: Option<u32>,
    /// Give the child the parent's secrets too
    #[arg(long)]
    secrets: bool,
    /// The parent's owner's key [default: as for creating an object]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Another owner's approval of the child that was prepared, from `suijuris approve`; may be given several times
    #[arg(long = "approval", value_name = "FILE")]
    approvals: Vec<PathBuf>,
    #[command(flatten)]
    depot: DepotArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `fork --json` prints of a child that is born.
#[derive(Debug, Serialize)]
struct Born {
    data: String,
    object: String,
    parent: String,
    /// Position of the parent's record.
    seq: u64,
    /// Fields that the parent had written and the child did not get.
    left_out: Vec<String>,
}

/// What `fork --json` prints of a child that lacks approvals.
#[derive(Debug, Serialize)]
struct Missing {
    code: &'static str,
    object: String,
    approved: usize,
    needed: u32,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    if args.warm {
        return warm::run(args);
    }
    let place = args.at.locate()?;
    let child = ObjectDir::at(std::path::absolute(&args.to)?);
    if child.holds_object()? {
        return Err(Usage(format!(
            "`{}` already holds an object: name another directory",
            args.to.display()
        ))
        .into());
    }
    let writer = offline::open(&place)?;
    if let Some(parent) = fork::finish(&place.home(), &child)? {
        terminal::note("finished an earlier fork: the parent had already recorded the child");
        let object = suijuris_store::Reader::open(&child, suijuris_store::Depth::Tail)?
            .state()
            .head()
            .object;
        return told(args, &object.to_string(), &parent, Vec::new());
    }
    let held = match offline::take(writer, &args.depot)? {
        Taken::Open(held) => held,
        Taken::NotTheObject(copy) => {
            offline::tell_not_the_object(&copy, args.json)?;
            return Ok(Answer::No);
        }
    };
    let answer = fork(args, &place, &held, &child);
    // Whatever was found, the object is let go.
    held.leave().and(answer)
}

fn fork(args: &Args, place: &ObjectPaths, held: &OfflineObject, child: &ObjectDir) -> anyhow::Result<Answer> {
    let key = owner::key_if_any(args.key.as_deref())?;
    record_crash(&held.writer, held.now.at)?;
    let definition = match Definition::of(args, held)? {
        Ok(definition) => definition,
        Err(NotNarrower(words)) => {
            terminal::note(&format!("not forked: {words}"));
            return Ok(Answer::No);
        }
    };
    let decision = match decided(held, key.as_ref(), args.json)? {
        Some(decision) => decision,
        None => return Ok(Answer::No),
    };
    let (staged, left_out) = staged(args, held, child, definition)?;
    let matter = Matter::Fork(staged.child);
    let approvals = {
        let state = held.writer.published();
        let approvals = approval::gather(&matter, state.head(), &args.approvals, key.as_ref())?;
        if let Err(found) = approval::enough(&matter, state.head(), &approvals) {
            return missing(args, place, &staged, found, state.head().threshold);
        }
        approvals
    };
    let parent = fork::commit(&held.writer, child, decision, approvals, held.now.at)?;
    told(args, &staged.child.to_string(), &parent, left_out)
}

/// The child's definition may allow more.
struct NotNarrower(String);

struct Definition {
    name: String,
    owners: Option<(Vec<PublicKey>, u32)>,
    files: BundleFiles,
}

impl Definition {
    fn of(args: &Args, held: &OfflineObject) -> anyhow::Result<Result<Self, NotNarrower>> {
        let declared = |owners: &[PublicKey]| {
            let all = u32::try_from(owners.len()).unwrap_or(u32::MAX);
            (owners.to_vec(), args.threshold.unwrap_or(all.min(1)))
        };
        let owners = Some(declared(&args.owner)).filter(|(owners, _)| !owners.is_empty());
        let Some(dir) = &args.definition else {
            let id = held.writer.published().head().bundle;
            return Ok(Ok(Self {
                name: args
                    .name
                    .clone()
                    .unwrap_or_else(|| held.bundle.manifest.name.clone()),
                owners,
                files: held.writer.bundles().files(&id)?,
            }));
        };
        let built = built(dir)?;
        let files = creation::files(&built);
        if let Err(why) = check_attenuation(&held.bundle, &files.open()?) {
            return Ok(Err(NotNarrower(why.to_string())));
        }
        let in_definition = built
            .controllers
            .as_ref()
            .map(|declared| (declared.keys.clone(), declared.threshold));
        Ok(Ok(Self {
            name: args.name.clone().unwrap_or_else(|| built.manifest.name.clone()),
            owners: owners.or(in_definition),
            files,
        }))
    }
}

fn built(dir: &Path) -> anyhow::Result<suijuris_bundle::Built> {
    suijuris_bundle::build(dir).map_err(|report| {
        let style = Style {
            colour: terminal::colour(&std::io::stderr()),
            ..Style::PLAIN
        };
        anyhow::anyhow!(
            "the child's definition has errors\n{}",
            report.render(style).trim_end()
        )
    })
}

/// The owner here, who signs for this one answer.
fn asking(head: &Head, key: Option<&SecretKey>) -> anyhow::Result<Principal> {
    let statement = Statement {
        object: head.object,
        action: Action::Fork,
        content: *head.record.digest(),
    };
    let approvals: Vec<Approval> = key
        .map(|key| statement.approve(key))
        .transpose()?
        .into_iter()
        .collect();
    Ok(Principal::approving(&statement, &approvals, &head.controllers))
}

/// The parent's own decision; a refusal is recorded and told.
fn decided(held: &OfflineObject, key: Option<&SecretKey>, json: bool) -> anyhow::Result<Option<Decision>> {
    let verdict = {
        let state = held.writer.published();
        let inputs = Inputs::new(held.now, asking(state.head(), key)?, here::host());
        let view = View::new(&state, &held.bundle.rules);
        decide(view, Action::Fork, state.head().object, inputs)
    };
    let refused = match verdict {
        Verdict::Permit(_, decision) => return Ok(Some(*decision)),
        Verdict::Refuse(decision) => decision,
    };
    transition::tell(&verdict::verdict(&refused, "door"), json)?;
    record(&held.writer, refusal(&refused), held.now.at)?;
    Ok(None)
}

/// The child that waits for approvals, where some are given for it; else a new one.
fn staged(
    args: &Args,
    held: &OfflineObject,
    home: &ObjectDir,
    definition: Definition,
) -> anyhow::Result<(Staged, Vec<String>)> {
    if !args.approvals.is_empty() {
        let waiting = fork::staged(home)?;
        let head = held.writer.published().head().record;
        return match waiting {
            Some(staged) if staged.parent.head == head => Ok((staged, Vec::new())),
            Some(_) => anyhow::bail!(
                "the parent has changed since the child was prepared: prepare it again without --approval, \
                 and have it approved again"
            ),
            None => anyhow::bail!(
                "no child is prepared in `{}`: leave --approval out to prepare one, then have it approved",
                args.to.display()
            ),
        };
    }
    if let Some(above) = home.path().parent() {
        std::fs::create_dir_all(above).with_context(|| format!("cannot make `{}`", above.display()))?;
    }
    let mut seed = Zeroizing::new([0; 32]);
    let mut nonce = vec![0; 16];
    getrandom::fill(seed.as_mut_slice()).context("the system provides no randomness")?;
    getrandom::fill(&mut nonce).context("the system provides no randomness")?;
    let request = ForkRequest {
        name: definition.name,
        controllers: definition.owners,
        nonce,
        at: held.now.at,
        bundle: definition.files,
        seed,
        secrets: args.secrets,
    };
    let prepared = fork::stage(&held.writer, home, request)?;
    let left_out = prepared.left_out.iter().map(ToString::to_string).collect();
    Ok((prepared.staged, left_out))
}

fn missing(
    args: &Args,
    place: &ObjectPaths,
    staged: &Staged,
    found: usize,
    needed: u32,
) -> anyhow::Result<Answer> {
    let child = staged.child.to_string();
    if args.json {
        terminal::print_json(&Missing {
            code: "approvals_missing",
            object: child,
            approved: found,
            needed,
        })?;
    } else {
        let name = terminal::quoted(&place.name());
        terminal::print(&format!(
            "{} the child waits in {}\n  object {child}\n  {found} of the {needed} owners needed approved it; the others run\n    suijuris approve {name} --child {child} -o FILE\n  then the same `fork` again with --approval FILE\n",
            Screen::stdout().paint(Tone::Bad, "not born"),
            args.to.display(),
        ))?;
    }
    Ok(Answer::No)
}

fn told(args: &Args, child: &str, parent: &VerifiedParent, left_out: Vec<String>) -> anyhow::Result<Answer> {
    let born = Born {
        data: args.to.display().to_string(),
        object: child.to_owned(),
        parent: parent.object.to_string(),
        seq: parent.seq,
        left_out,
    };
    if args.json {
        terminal::print_json(&born)?;
        return Ok(Answer::Yes);
    }
    let mut text = format!(
        "{}\n  object {}\n  parent {}, record {}\n",
        born.data, born.object, born.parent, born.seq
    );
    if !born.left_out.is_empty() {
        text += &format!("  not given to the child: {}\n", born.left_out.join(", "));
    }
    terminal::print(&text)?;
    Ok(Answer::Yes)
}
