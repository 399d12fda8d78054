//! `terminate`: the end of an object, by its owners' word, if its rules let them. It never wakes again; its history stays.

use std::path::PathBuf;

use suijuris_api::control::{ControlRequest, Reply};
use suijuris_core::lineage::Phase;
use suijuris_custody::terminate::{Termination, propose};
use suijuris_words::verdict;

use crate::approval::{Matter, gather};
use crate::carrier::Carrier;
use crate::depots::DepotArg;
use crate::object_paths::{ObjectArg, ObjectPaths};
use crate::offline::{OfflineObject, Taken};
use crate::transition::tell;
use crate::{Answer, control, here, history, offline, owner, terminal};

/// End an object for good
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The object decides by its own `terminate` rule, and its owners must sign: the owner's key here does, others with --approval
(`suijuris approve --terminate`). Awake, it drains first. It never wakes again, and there is no way back; its history
stays readable, and its name or key stays taken where a daemon serves it.
Exit codes: 0 it has ended, 1 it refused, or too few owners signed, 2 usage, 3 broken input or environment.

Example:
  suijuris terminate hello")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Another owner's approval, from `suijuris approve --terminate`; may be given several times
    #[arg(long = "approval", value_name = "FILE")]
    approvals: Vec<PathBuf>,
    #[command(flatten)]
    depot: DepotArg,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let key = owner::existing_key()?;
    let head = history::open(&place)?.state().head().clone();
    if head.phase == Phase::Terminated {
        return over(args.json);
    }
    let approvals = gather(&Matter::Terminate, &head, &args.approvals, key.as_ref())?;
    if approvals.is_empty() {
        terminal::note(
            "no owner's key is here; name one with SUIJURIS_OWNER_KEY to end an object of its owner",
        );
    }
    let question = ControlRequest::Terminate {
        approvals: approvals.iter().map(suijuris_words::owner::approval).collect(),
    };
    match control::ask(&Carrier::at(place.clone())?, &question)? {
        Some(Reply::Verdict(verdict)) => tell(&verdict, args.json),
        Some(Reply::Error { code, .. }) if code == "terminated" => over(args.json),
        Some(Reply::Error { code, message }) if code == CODE_APPROVALS => {
            terminal::note(&format!("not ended: {message}"));
            Ok(Answer::No)
        }
        Some(Reply::Error { code, message }) => anyhow::bail!("{message} [{code}]"),
        Some(Reply::Status { .. } | Reply::Forked(_) | Reply::Patched { .. }) => {
            anyhow::bail!("another question was answered; use the same version of suijuris for both")
        }
        None => at_rest(args, &place, approvals),
    }
}

/// Too few owners approved.
const CODE_APPROVALS: &str = "approvals_missing";

/// Ends an object that nobody runs.
fn at_rest(
    args: &Args,
    place: &ObjectPaths,
    approvals: Vec<suijuris_core::lineage::Approval>,
) -> anyhow::Result<Answer> {
    match offline::take(offline::open(place)?, &args.depot)? {
        Taken::Open(held) => {
            let answer = end(&held, approvals, args.json);
            held.leave()?;
            answer
        }
        Taken::NotTheObject(copy) => {
            offline::tell_not_the_object(&copy, args.json)?;
            Ok(Answer::No)
        }
    }
}

fn end(
    held: &OfflineObject,
    approvals: Vec<suijuris_core::lineage::Approval>,
    json: bool,
) -> anyhow::Result<Answer> {
    let (decision, ticket) = match propose(&held.writer, approvals, held.now, here::host())? {
        Termination::Over => return over(json),
        Termination::Ended(decision, ticket) => (decision, Some(ticket)),
        Termination::Refused(decision, ticket) => (decision, ticket),
        Termination::TooFew(_, found, needed) => {
            terminal::note(&format!(
                "not ended: {found} of the {needed} owners needed approved it; have each of the others run \
                 `suijuris approve --terminate -o FILE`, and name their files with --approval"
            ));
            return Ok(Answer::No);
        }
    };
    ticket.map(|ticket| ticket.wait()).transpose()?;
    tell(&verdict::verdict(&decision, "door"), json)
}

/// It has ended before.
fn over(json: bool) -> anyhow::Result<Answer> {
    if json {
        terminal::print_json(&serde_json::json!({"outcome": "already", "phase": "terminated"}))?;
    } else {
        terminal::print("already terminated\n")?;
    }
    Ok(Answer::Yes)
}
