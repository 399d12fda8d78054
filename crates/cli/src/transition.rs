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
    let place = at.locate()?;
    match control::ask_as_owner(&place, asked, None)? {
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
        Some(Reply::Patched { .. }) => {
            anyhow::bail!("`up` answers something else than was asked; is it of another version?")
        }
        None => anyhow::bail!(
            "nobody runs this object; start it with `suijuris up {}`",
            place.name()
        ),
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
        (Tone::Bad, "refused")
    };
    let rules = if verdict.rules.is_empty() {
        String::new()
    } else {
        format!("  by {}", verdict.rules.join(", "))
    };
    let mut text = format!(
        "{} {}{rules}\n",
        Screen::stdout().paint(tone, word),
        verdict.action
    );
    for reason in &verdict.reasons {
        text += &format!("  {}\n", terminal::clean(reason));
    }
    if let Some(seconds) = verdict.retry_after {
        text += &format!("  ask again in {seconds} s\n");
    }
    text
}
