//! `what-if`: the answer to a proposal that nobody made, or to recorded ones under other rules. Nothing is recorded.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use suijuris_api::agent::Patch;
use suijuris_api::verdict;
use suijuris_bundle::{Built, Style, build};
use suijuris_core::decide::{self, View};
use suijuris_core::governance::{Action, Vocabulary};
use suijuris_core::lineage::{Body, Decision, Outcome, Phase, State};
use suijuris_core::memory::{Memory, Value, Write};
use suijuris_store::Reader;

use crate::place::Where;
use crate::proposal::Options;
use crate::screen::{self, Screen, Tone};
use crate::{Answer, Usage, clock, history, memory, telling};

/// Ask what an object would decide: about a proposal now, or about its past under other rules
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is recorded and nothing wakes. What asks for a waking object (admit, remain, sleep) is answered as if it were
awake. With --rules DIR every recorded decision is made again, from its recorded inputs, under the rules in DIR.

Exit codes: 0 it would permit, 1 it would refuse; with --rules: 0 no decision would change, 1 some would.

Examples:
  suijuris what-if hello --action wake --trigger request --path /
  suijuris what-if hello --action wake --trigger request --set open=false --at 2h
  suijuris what-if hello --rules hello-amended --json")]
pub(crate) struct Args {
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    proposal: Options,
    /// As if memory held this; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Judge the recorded history under the definition in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["action", "set"])]
    rules: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let reader = history::open(&place)?;
    match (&args.rules, args.proposal.action) {
        (Some(dir), _) => {
            let built = build(dir).map_err(|report| {
                let style = Style {
                    colour: screen::colour(&std::io::stderr()),
                    ..Style::PLAIN
                };
                anyhow::anyhow!(
                    "the rules in `{}` cannot be built\n{}",
                    dir.display(),
                    report.render(style).trim_end()
                )
            })?;
            amended(&reader, &built, args.json)
        }
        (None, Some(action)) => now(args, action, &reader),
        (None, None) => Err(Usage(
            "say what is proposed with --action, or name other rules with --rules".to_owned(),
        )
        .into()),
    }
}

/// The decision on a proposal, with the memory that `--set` makes.
fn now(args: &Args, action: Action, reader: &Reader) -> anyhow::Result<Answer> {
    let state = reader.state();
    let bundle = reader.bundle(&state.head().bundle)?;
    let rules = &bundle.rules;
    let now = args.proposal.now(clock::now(state)?);
    let memory = as_if(state.memory(), &args.set, now.at)?;
    let mut head = state.head().clone();
    if matches!(action, Action::Admit | Action::Remain | Action::Sleep) && head.phase == Phase::Dormant {
        head.phase = Phase::Active;
    }
    let inputs = args.proposal.inputs(action, &head, &rules.vocabulary, now)?;
    let view = View {
        head: &head,
        memory: &memory,
        program: &rules.program,
        vocabulary: &rules.vocabulary,
        bundle: rules.bundle,
    };
    let decision = decide::consider(view, action, inputs);
    let texts = telling::rule_texts(&decision, &bundle);
    if args.json {
        let verdict = verdict::verdict(&decision, "what-if");
        screen::print_json(
            &serde_json::json!({"verdict": verdict, "rules": texts, "inputs": decision.inputs}),
        )?;
    } else {
        let text = telling::headline(&decision, Screen::stdout()) + &telling::grounds(&decision);
        screen::print(&(text + &telling::rules_shown(&texts)))?;
    }
    Ok(if decision.outcome == Outcome::Permit {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn as_if(memory: &Memory, set: &[String], at: suijuris_core::time::Timestamp) -> anyhow::Result<Memory> {
    let mut memory = memory.clone();
    if set.is_empty() {
        return Ok(memory);
    }
    let patch = Patch {
        set: memory::assignments(set, &memory)?,
        ..Patch::default()
    };
    let parsed = suijuris_runtime::patch::parse(&patch, &memory)?;
    let mut change = parsed.change;
    // Rules never see a secret, so that any commitment does.
    let veiled = |name| {
        (
            name,
            Write::Set(Value::Commitment(suijuris_core::id::Digest([0; 32]))),
        )
    };
    change.extend(parsed.secrets.into_keys().map(veiled));
    memory.apply(&change, at)?;
    Ok(memory)
}

/// A recorded decision that would come out otherwise.
#[derive(Debug, Serialize)]
struct Changed {
    seq: u64,
    at: String,
    /// How many decisions the record stands for.
    times: u64,
    was: suijuris_api::event::Verdict,
    would_be: suijuris_api::event::Verdict,
    #[serde(skip)]
    decision: Decision,
}

/// Recorded decisions under the rules of `built`.
fn amended(reader: &Reader, built: &Built, json: bool) -> anyhow::Result<Answer> {
    let words = suijuris_bundle::vocabulary(&built.manifest);
    let (mut judged, mut changed) = (0_u64, Vec::<Changed>::new());
    history::walk(reader, u64::MAX, |state, next| {
        let Some(decision) = history::decision(&next.record.body) else {
            return Ok(());
        };
        let times = if let Body::Refused(refused) = &next.record.body {
            refused.times
        } else {
            1
        };
        judged = judged.saturating_add(times);
        // Repeats are counted later with the first of them, whose own time and state decide.
        if let Some(first) = changed.iter_mut().find(|first| first.decision == *decision) {
            first.times = first.times.saturating_add(times);
        } else if decision.inputs.now.at >= state.head().at {
            let other = under(state, built, &words, decision);
            if other.outcome != decision.outcome {
                changed.push(Changed {
                    seq: next.record.seq,
                    at: next.record.at.to_string(),
                    times,
                    was: verdict::verdict(decision, "runtime"),
                    would_be: verdict::verdict(&other, "what-if"),
                    decision: decision.clone(),
                });
            }
        }
        Ok(())
    })?;
    if json {
        screen::print_json(
            &serde_json::json!({"bundle": built.id.to_string(), "judged": judged, "changed": changed}),
        )?;
    } else {
        screen::print(&differences(judged, &changed, Screen::stdout()))?;
    }
    Ok(if changed.is_empty() {
        Answer::Yes
    } else {
        Answer::No
    })
}

/// The same proposal at the same moment, with memory as the other schema keeps it.
fn under(state: &State, built: &Built, words: &Vocabulary, decision: &Decision) -> Decision {
    let memory = state.memory().amended(Arc::new(built.manifest.memory.clone()));
    let view = View {
        head: state.head(),
        memory: &memory,
        program: &built.program,
        vocabulary: words,
        bundle: state.head().bundle,
    };
    decide::replay(view, decision)
}

fn differences(judged: u64, changed: &[Changed], screen: Screen) -> String {
    let times: u64 = changed.iter().map(|changed| changed.times).sum();
    let mut text = format!("{judged} recorded decisions, {times} would come out otherwise\n");
    for changed in changed {
        let word = |verdict: &suijuris_api::event::Verdict| match verdict.outcome.as_str() {
            "permit" => screen.paint(Tone::Good, "permit"),
            _ => screen.paint(Tone::Bad, "refuse"),
        };
        let (was, would_be) = (word(&changed.was), word(&changed.would_be));
        let times = if changed.times > 1 {
            format!(", {} times", changed.times)
        } else {
            String::new()
        };
        let asked = telling::proposed(&changed.decision);
        let action = &changed.was.action;
        text += &format!(
            "  {:>6}  {}  {action} ({asked}): {was} → {would_be}{times}\n",
            changed.seq, changed.at
        );
        for reason in &changed.would_be.reasons {
            text += &format!("          {}\n", screen::clean(reason));
        }
    }
    text
}
