//! `what-if`: the answer to a proposal that nobody made, or to recorded ones under other rules. Nothing is recorded.

use std::path::PathBuf;

use suijuris_api::event::{ChangedDecision, Verdict};
use suijuris_api::history::{Changed, Rejudged};
use suijuris_bundle::{Built, Style, build};
use suijuris_core::governance::Action;
use suijuris_store::Reader;
use suijuris_supervisor::history::Past;
use suijuris_supervisor::history::rejudge::{self, MAX_LISTED};

use crate::carrier::{Carrier, opened};
use crate::object_paths::ObjectArg;
use crate::proposal::{Options, Written};
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, memory, render};

/// Ask what an object would decide: about a proposal now, or about its past under other rules
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is recorded and nothing wakes. What asks for a waking object (admit, remain, sleep) is
answered as if it were awake. With --rules DIR every recorded decision is made again, from its
recorded inputs, under the rules in DIR.

Exit codes: 0 it would permit, 1 it would refuse; with --rules: 0 no decision would change, 1 some
would.

Examples:
  suijuris what-if hello --action wake --trigger request --path /
  suijuris what-if hello --action wake --trigger request --set open=false --at 2h
  suijuris what-if hello --action mutate --by workload --set spent=0
  suijuris what-if hello --rules hello-amended --json")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// As if this were written now; with --action mutate, what is to be written; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// The same for counters: added to them; may be given several times
    #[arg(long, value_name = "FIELD=NUMBER")]
    add: Vec<String>,
    /// The same: items added to a set, list or map; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    append: Vec<String>,
    /// The same: a field that is emptied; may be given several times
    #[arg(long, value_name = "FIELD")]
    unset: Vec<String>,
    /// Judge the recorded history under the definition in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["action", "set", "add", "append", "unset"])]
    rules: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    proposal: Options,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let carrier = args.at.carrier()?;
    match (&args.rules, args.proposal.action) {
        (Some(dir), _) => {
            let built = build(dir).map_err(|report| {
                let style = Style {
                    colour: terminal::colour(&std::io::stderr()),
                    ..Style::PLAIN
                };
                anyhow::anyhow!(
                    "the rules in `{}` cannot be built\n{}",
                    dir.display(),
                    report.render(style).trim_end()
                )
            })?;
            amended(&carrier.rejudge(&built)?, args.json)
        }
        (None, Some(action)) => now(args, action, &carrier),
        (None, None) => Err(Usage(
            "say what is proposed with --action, or name other rules with --rules".to_owned(),
        )
        .into()),
    }
}

/// The decision on a proposal, with the memory that `--set` makes.
fn now(args: &Args, action: Action, carrier: &Carrier) -> anyhow::Result<Answer> {
    let set = if args.set.iter().any(|text| text.contains("=@")) {
        memory::with_files(&args.set, &carrier.memory()?)?
    } else {
        args.set.clone()
    };
    let written = Written {
        set: &set,
        add: &args.add,
        append: &args.append,
        unset: &args.unset,
    };
    let found = carrier.what_if(&args.proposal.supposed(action, written))?;
    if args.json {
        terminal::print_json(&found)?;
    } else {
        let text = render::headline(&found.verdict, &found.explained, Screen::stdout())
            + &render::grounds(&found.explained);
        terminal::print(&(text + &render::rules_shown(&found.rules)))?;
    }
    Ok(if found.verdict.outcome == "permit" {
        Answer::Yes
    } else {
        Answer::No
    })
}

/// How many recorded decisions there are, and how many of them would come out otherwise under the rules of `built`.
pub(crate) fn changes(reader: &Reader, built: &Built) -> anyhow::Result<(u64, u64)> {
    let Amended(rejudged) = under_rules(reader, built)?;
    Ok((rejudged.judged, rejudged.would_change))
}

/// Recorded decisions, and those that would come out otherwise under the rules of `built`.
pub(crate) fn under_rules(reader: &Reader, built: &Built) -> anyhow::Result<Amended> {
    let bundle = opened(built)?;
    let past = Past {
        reader,
        heard: &|_| {},
    };
    Ok(Amended(rejudge::rejudge(past, &bundle)?))
}

/// Recorded decisions under another definition.
#[derive(Debug, Default)]
pub(crate) struct Amended(Rejudged);

impl Amended {
    /// Where nothing was replayed.
    pub(crate) fn nothing() -> Self {
        Self::default()
    }

    pub(crate) const fn judged(&self) -> u64 {
        self.0.judged
    }

    pub(crate) const fn would_change(&self) -> u64 {
        self.0.would_change
    }

    /// The last `most` that would change, newest first.
    pub(crate) fn into_changed(self, most: usize) -> Vec<ChangedDecision> {
        let told = |changed: Changed| ChangedDecision {
            seq: changed.seq,
            times: changed.times,
            action: changed.was.action,
            was: changed.was.outcome,
            would_be: changed.would_be.outcome,
            reasons: changed.would_be.reasons,
        };
        self.0.changed.into_iter().rev().take(most).map(told).collect()
    }
}

fn amended(rejudged: &Rejudged, json: bool) -> anyhow::Result<Answer> {
    if json {
        terminal::print_json(rejudged)?;
    } else {
        terminal::print(&text(rejudged, Screen::stdout()))?;
    }
    Ok(if rejudged.would_change == 0 {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn text(rejudged: &Rejudged, terminal: Screen) -> String {
    let (judged, times) = (rejudged.judged, rejudged.would_change);
    let mut text = format!(
        "{} replayed, {times} would change\n",
        terminal::count(judged, "recorded decision")
    );
    for changed in &rejudged.changed {
        text += &change(changed, terminal);
    }
    if rejudged.changed.len() == MAX_LISTED {
        text += "  …\n";
    }
    text
}

fn change(changed: &Changed, terminal: Screen) -> String {
    let word = |verdict: &Verdict| match verdict.outcome.as_str() {
        "permit" => terminal.paint(Tone::Good, "permit"),
        _ => terminal.paint(Tone::Bad, "refuse"),
    };
    let (was, would_be) = (word(&changed.was), word(&changed.would_be));
    let times = if changed.times > 1 {
        format!(", {} times", changed.times)
    } else {
        String::new()
    };
    let (action, asked) = (
        terminal::clean(&changed.was.action),
        terminal::clean(&changed.proposed),
    );
    let at = terminal::clean(&changed.at);
    let mut text = format!(
        "  {:>6}  {at}  {action} ({asked}): {was} → {would_be}{times}\n",
        changed.seq
    );
    for reason in &changed.would_be.reasons {
        text += &format!("          {}\n", terminal::clean(reason));
    }
    text
}
