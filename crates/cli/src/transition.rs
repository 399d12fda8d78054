//! `wake` and `sleep`: proposals to the `up` that runs an object. The object decides.

use suijuris_api::control::Reply;
use suijuris_api::event::Verdict;
use suijuris_core::owner_request::Ask;

use crate::Answer;
use crate::control;
use crate::object_paths::ObjectArg;
use crate::terminal::{self, Screen, Tone};

/// Ask a running object to wake
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The object decides by its own rules. Exit codes: 0 it woke, 1 it refused, 3 no `up` runs it.

Example:
  suijuris wake hello")]
pub(crate) struct WakeArgs {
    #[command(flatten)]
    at: ObjectArg,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// Ask a running object to sleep
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The object decides by its own rules. Exit codes: 0 it sleeps, 1 it refused, 3 no `up` runs it.

Example:
  suijuris sleep hello")]
pub(crate) struct SleepArgs {
    #[command(flatten)]
    at: ObjectArg,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn wake(args: &WakeArgs) -> anyhow::Result<Answer> {
    propose(&args.at, Ask::Wake, args.json)
}

pub(crate) fn sleep(args: &SleepArgs) -> anyhow::Result<Answer> {
    propose(&args.at, Ask::Sleep, args.json)
}

fn propose(at: &ObjectArg, asked: Ask, json: bool) -> anyhow::Result<Answer> {
    let carrier = at.carrier()?;
    match control::ask_as_owner(&carrier, asked, None)? {
        Some(Reply::Verdict(verdict)) => tell(&verdict, json),
        Some(Reply::Error { code, message }) => anyhow::bail!("{message} [{code}]"),
        // Nothing to decide: it is so already.
        Some(Reply::Status { phase, .. }) => {
            if json {
                terminal::print_json(&serde_json::json!({"outcome": "already", "phase": phase}))?;
            } else {
                terminal::print(&format!("already {phase}\n"))?;
            }
            Ok(Answer::Yes)
        }
        Some(Reply::Patched { .. } | Reply::Forked(_)) => {
            anyhow::bail!("`up` answered another question; use the same version of suijuris for both")
        }
        None => {
            let name = carrier.files().map(|paths| paths.name());
            let name = name.unwrap_or_default();
            anyhow::bail!(
                "not running; start it with `suijuris up {}`",
                terminal::quoted(&name)
            )
        }
    }
}

/// Prints a verdict; the answer it stands for.
pub(crate) fn tell(verdict: &Verdict, json: bool) -> anyhow::Result<Answer> {
    let permitted = verdict.outcome == "permit";
    if json {
        terminal::print_json(verdict)?;
    } else {
        terminal::print(&text(verdict, permitted))?;
    }
    Ok(if permitted { Answer::Yes } else { Answer::No })
}

fn text(verdict: &Verdict, permitted: bool) -> String {
    let (tone, word) = if permitted {
        (Tone::Good, "permitted")
    } else {
        (Tone::Bad, "denied")
    };
    let mut reasons = verdict.reasons.iter();
    let what = if !verdict.rules.is_empty() {
        format!("{} by {}", verdict.action, verdict.rules.join(", "))
    } else if permitted {
        verdict.action.clone()
    } else {
        // Where no rule decided, the first reason says it all.
        reasons
            .next()
            .map_or_else(|| verdict.action.clone(), |reason| terminal::clean(reason))
    };
    let mut text = format!("{}: {what}\n", Screen::stdout().paint(tone, word));
    for reason in reasons {
        text += &format!("  {}\n", terminal::clean(reason));
    }
    if let Some(seconds) = verdict.retry_after {
        text += &format!("  try again in {seconds} s\n");
    }
    text
}
