//! `restore`: an older or quarantined copy is the object again, by its owners' will, signed and recorded.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::Serialize;
use suijuris_core::lineage::Phase;
use suijuris_core::witness::Mark;
use suijuris_custody::record::record_crash;
use suijuris_depot::{Depot, Presence};
use suijuris_store::Writer;
use suijuris_store::restore::{self, RestoreError};

use crate::approval::{self, Matter};
use crate::depots::DepotArg;
use crate::object_paths::{ObjectArg, ObjectPaths};
use crate::offline::{self, Taken};
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, clock, owner};

/// Let an older copy be the object again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A copy that was refused as `rolled_back` or `twin` goes on in place of the history that the
witness knows. What the other copy recorded since they parted is given up: every copy of it is
refused from then on. Enough of the object's owners must approve; the history records what was
given up, and the next activation is newer than all of it. Neither copy may be running: end the
other one first. If nobody can tell whether it runs, this command waits until its lease expires.

Exit codes: 0 restored, 1 approvals missing, nothing to restore, or the other copy runs, 2 usage,
3 broken input or environment.

Example:
  suijuris restore hello --data hello-of-yesterday && suijuris up hello --data hello-of-yesterday")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// An owner's key [default: as for creating an object]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Another owner's approval, from `suijuris approve --restore`; may be given several times
    #[arg(long = "approval", value_name = "FILE")]
    approvals: Vec<PathBuf>,
    #[command(flatten)]
    depot: DepotArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `restore --json` prints.
#[derive(Debug, Serialize)]
struct Restored {
    object: String,
    head: String,
    seq: u64,
    /// The newest record that was given up, and its position.
    abandoned: String,
    abandoned_seq: u64,
    /// Epoch that the next activation follows.
    epoch: u64,
}

/// What `restore --json` prints where approvals are missing.
#[derive(Debug, Serialize)]
struct Missing {
    code: &'static str,
    /// For `suijuris approve --restore`.
    restore: String,
    approved: usize,
    needed: u32,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let writer = offline::open(&place)?;
    let object = writer.published().head().object;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (depot, mark) = tokio.block_on(async {
        let depot = args.depot.open().await?;
        let mark = depot.mark(object).await?;
        anyhow::Ok((depot, mark.map(|(mark, _)| mark)))
    })?;
    let Some(mark) = mark else {
        bail!(
            "no witness in {} knows the object, so no copy is in the way; name the depot that it was refused by with --depot",
            depot.describe()
        );
    };
    if let Some(who) = tokio.block_on(running(&*depot, &mark)) {
        terminal::note(&format!(
            "not restored: the other copy runs ({}): end it first",
            terminal::clean(&who)
        ));
        return Ok(Answer::No);
    }
    if !is_given_up(&place, &mark)? {
        match record(args, &place, &writer, &mark)? {
            None => {}
            Some(answer) => return Ok(answer),
        }
    }
    take_over(args, writer, &mark)
}

/// Who runs the object, where the depot can tell.
async fn running(depot: &dyn Depot, mark: &Mark) -> Option<String> {
    let holder = mark.holder.as_ref()?;
    let presence = depot.presence(mark.object, holder.id).await;
    matches!(presence, Ok(Presence::Here)).then(|| holder.who.clone())
}

/// Whether this history has given up what the mark knows already: an earlier `restore` was cut short.
fn is_given_up(place: &ObjectPaths, mark: &Mark) -> anyhow::Result<bool> {
    use suijuris_core::lineage::Body;
    let reader = suijuris_store::Reader::open(&place.home(), suijuris_store::Depth::Tail)?;
    let head = reader.state().head().seq;
    let last = reader.records(head..u64::MAX)?.next().transpose()?;
    Ok(last.is_some_and(|last| {
        matches!(&last.record.body, Body::Restored(body) if body.abandoned == mark.head && body.seq == mark.seq)
    }))
}

/// Makes the record; an answer where there is none.
fn record(args: &Args, place: &ObjectPaths, writer: &Writer, mark: &Mark) -> anyhow::Result<Option<Answer>> {
    let now = clock::now(&writer.published())?;
    let phase = writer.published().head().phase;
    if !matches!(phase, Phase::Active | Phase::Dormant | Phase::Quarantined) {
        bail!("the object is {}: no copy of it can be restored", phase.as_str());
    }
    record_crash(writer, now.at)?;
    let stated = match restore::restoration(writer, mark) {
        Ok(stated) => stated,
        Err(error @ RestoreError::NothingAbandoned(_)) => {
            terminal::note(&format!("not restored: {error}"));
            return Ok(Some(Answer::No));
        }
        Err(error) => return Err(error.into()),
    };
    let key = owner::key_if_any(args.key.as_deref())?;
    let matter = Matter::Restore(stated.clone());
    let approvals = {
        let state = writer.published();
        let approvals = approval::gather(&matter, state.head(), &args.approvals, key.as_ref())?;
        if let Err(found) = approval::enough(&matter, state.head(), &approvals) {
            let what = approval::what(&stated);
            return missing(args, place, what, found, state.head().threshold).map(Some);
        }
        approvals
    };
    restore::restore(writer, mark, approvals, now.at).context("nothing was restored")?;
    Ok(None)
}

fn missing(
    args: &Args,
    place: &ObjectPaths,
    what: String,
    found: usize,
    needed: u32,
) -> anyhow::Result<Answer> {
    if args.json {
        terminal::print_json(&Missing {
            code: "approvals_missing",
            restore: what,
            approved: found,
            needed,
        })?;
    } else {
        terminal::print(&format!(
            "{}\n  {found} of the {needed} owners needed approved it; the others run, on any copy of the object,\n    suijuris approve {} -o FILE --restore {what}\n  then the same `restore` again with --approval FILE\n",
            Screen::stdout().paint(Tone::Bad, "not restored"),
            terminal::quoted(&place.name()),
        ))?;
    }
    Ok(Answer::No)
}

/// The mark and what is published become this copy's.
fn take_over(args: &Args, writer: Writer, mark: &Mark) -> anyhow::Result<Answer> {
    let held = match offline::take(writer, &args.depot)? {
        Taken::Open(held) => held,
        Taken::NotTheObject(copy) => {
            terminal::note(
                "the restore is recorded here, but another copy holds the object; end it and restore again",
            );
            offline::tell_not_the_object(&copy, args.json)?;
            return Ok(Answer::No);
        }
    };
    let restored = {
        let state = held.writer.published();
        let head = state.head();
        Restored {
            object: head.object.to_string(),
            head: head.record.to_string(),
            seq: head.seq,
            abandoned: mark.head.to_string(),
            abandoned_seq: mark.seq,
            epoch: head.epoch,
        }
    };
    held.leave()?;
    if args.json {
        terminal::print_json(&restored)?;
    } else {
        terminal::print(&format!(
            "{} as record {}\n  object   {}\n  head     {}\n  given up {}, record {}\n",
            Screen::stdout().paint(Tone::Good, "restored"),
            restored.seq,
            restored.object,
            restored.head,
            restored.abandoned,
            restored.abandoned_seq,
        ))?;
    }
    Ok(Answer::Yes)
}
