//! `what-if`: the answer to a proposal that nobody made, or to recorded ones under other rules. Nothing is recorded.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use suijuris_api::agent::Patch;
use suijuris_api::verdict;
use suijuris_bundle::{Built, Style, build};
use suijuris_core::decide::{self, View};
use suijuris_core::governance::{Action, Vocabulary};
use suijuris_core::lineage::{Body, Decision, Outcome, Phase, State, Stored};
use suijuris_core::memory::{Memory, Value, Write};
use suijuris_core::time::Timestamp;
use suijuris_store::Reader;

use crate::object_paths::ObjectArg;
use crate::proposal::Options;
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, clock, history, memory, render};

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
  suijuris what-if hello --rules hello-amended --json")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// As if this were written now; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Judge the recorded history under the definition in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["action", "set"])]
    rules: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    proposal: Options,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let reader = history::open(&place)?;
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
    let present = clock::now(state)?;
    let now = args.proposal.now(present);
    let memory = as_if(state.memory(), &args.set, now.at.min(present.at))?;
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
    let decision = decide::evaluate(view, action, inputs);
    let texts = render::rule_texts(&decision, &bundle);
    if args.json {
        let verdict = verdict::verdict(&decision, "what-if");
        terminal::print_json(
            &serde_json::json!({"verdict": verdict, "rules": texts, "inputs": decision.inputs}),
        )?;
    } else {
        let text = render::headline(&decision, Screen::stdout()) + &render::grounds(&decision);
        terminal::print(&(text + &render::rules_shown(&texts)))?;
    }
    Ok(if decision.outcome == Outcome::Permit {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn as_if(memory: &Memory, set: &[String], at: Timestamp) -> anyhow::Result<Memory> {
    let mut memory = memory.clone();
    if set.is_empty() {
        return Ok(memory);
    }
    let patch = Patch {
        set: memory::assignments(set, &memory)?,
        ..Patch::default()
    };
    let parsed = suijuris_custody::patch::parse(&patch, &memory)?;
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

/// Changes that are listed; further ones are counted.
const MAX_LISTED: usize = 1_000;

/// What `what-if --rules --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Amended {
    bundle: String,
    /// Recorded decisions, those that were only counted included.
    judged: u64,
    /// How many of them would come out otherwise.
    would_change: u64,
    /// The first of those.
    changed: Vec<Changed>,
}

/// How many recorded decisions there are, and how many of them would come out otherwise under the rules of `built`.
pub(crate) fn changes(reader: &Reader, built: &Built) -> anyhow::Result<(u64, u64)> {
    let amended = under_rules(reader, built)?;
    Ok((amended.judged, amended.would_change))
}

/// Recorded decisions under the rules of `built`.
fn amended(reader: &Reader, built: &Built, json: bool) -> anyhow::Result<Answer> {
    let amended = under_rules(reader, built)?;
    let answer = if amended.would_change == 0 {
        Answer::Yes
    } else {
        Answer::No
    };
    if json {
        terminal::print_json(&amended)?;
    } else {
        terminal::print(&amended.text(Screen::stdout()))?;
    }
    Ok(answer)
}

/// Recorded decisions, and those that would come out otherwise under the rules of `built`.
pub(crate) fn under_rules(reader: &Reader, built: &Built) -> anyhow::Result<Amended> {
    let words = suijuris_bundle::vocabulary(&built.manifest);
    let mut amended = Amended {
        bundle: built.id.to_string(),
        judged: 0,
        would_change: 0,
        changed: Vec::new(),
    };
    history::walk(reader, u64::MAX, |state, next| {
        if let Some(decision) = history::decision(&next.record.body) {
            let times = if let Body::Refused(refused) = &next.record.body {
                refused.times
            } else {
                1
            };
            let change = || change(state, built, &words, next, decision);
            amended.take(decision, times, state.head().at, change);
        }
        Ok(())
    })?;
    Ok(amended)
}

impl Amended {
    /// Where nothing was replayed.
    pub(crate) const fn nothing() -> Self {
        Self {
            bundle: String::new(),
            judged: 0,
            would_change: 0,
            changed: Vec::new(),
        }
    }

    pub(crate) const fn judged(&self) -> u64 {
        self.judged
    }

    pub(crate) const fn would_change(&self) -> u64 {
        self.would_change
    }

    /// The last `most` that would change, newest first.
    pub(crate) fn into_changed(self, most: usize) -> Vec<suijuris_api::event::ChangedDecision> {
        let told = |changed: Changed| suijuris_api::event::ChangedDecision {
            seq: changed.seq,
            times: changed.times,
            action: changed.was.action,
            was: changed.was.outcome,
            would_be: changed.would_be.outcome,
            reasons: changed.would_be.reasons,
        };
        self.changed.into_iter().rev().take(most).map(told).collect()
    }

    /// Takes in a decision that was recorded after `since`. One that is older repeats an earlier record, to count more of
    /// its kind; the first of them has been judged on the state of its own time.
    fn take(
        &mut self,
        decision: &Decision,
        times: u64,
        since: Timestamp,
        change: impl FnOnce() -> Option<Changed>,
    ) {
        self.judged = self.judged.saturating_add(times);
        let mut known = self.changed.iter_mut().rev();
        let changed = if decision.inputs.now.at >= since {
            change().inspect(|_| self.would_change = self.would_change.saturating_add(times))
        } else {
            if let Some(first) = known.find(|first| first.decision == *decision) {
                first.times = first.times.saturating_add(times);
                self.would_change = self.would_change.saturating_add(times);
            }
            None
        };
        if self.changed.len() < MAX_LISTED {
            self.changed
                .extend(changed.map(|changed| Changed { times, ..changed }));
        }
    }

    fn text(&self, terminal: Screen) -> String {
        let (judged, times) = (self.judged, self.would_change);
        let mut text = format!(
            "{} replayed, {times} would change\n",
            terminal::count(judged, "recorded decision")
        );
        for changed in &self.changed {
            text += &changed.text(terminal);
        }
        if self.changed.len() == MAX_LISTED {
            text += "  …\n";
        }
        text
    }
}

/// The decision, where it would come out otherwise.
fn change(
    state: &State,
    built: &Built,
    words: &Vocabulary,
    next: &Stored,
    decision: &Decision,
) -> Option<Changed> {
    let other = under(state, built, words, &next.record.body, decision);
    (other.outcome != decision.outcome).then(|| Changed {
        seq: next.record.seq,
        at: next.record.at.to_string(),
        times: 1,
        was: verdict::verdict(decision, history::place(&next.record.body)),
        would_be: verdict::verdict(&other, "what-if"),
        decision: decision.clone(),
    })
}

/// The same proposal at the same moment, with memory as the other schema keeps it.
fn under(state: &State, built: &Built, words: &Vocabulary, body: &Body, decision: &Decision) -> Decision {
    let memory = state.memory().amended(Arc::new(built.manifest.memory.clone()));
    let view = View {
        head: state.head(),
        memory: &memory,
        program: &built.program,
        vocabulary: words,
        bundle: state.head().bundle,
    };
    history::again(view, body, decision)
}

impl Changed {
    fn text(&self, terminal: Screen) -> String {
        let word = |verdict: &suijuris_api::event::Verdict| match verdict.outcome.as_str() {
            "permit" => terminal.paint(Tone::Good, "permit"),
            _ => terminal.paint(Tone::Bad, "refuse"),
        };
        let (was, would_be) = (word(&self.was), word(&self.would_be));
        let times = if self.times > 1 {
            format!(", {} times", self.times)
        } else {
            String::new()
        };
        let (action, asked) = (&self.was.action, render::proposed(&self.decision));
        let mut text = format!(
            "  {:>6}  {}  {action} ({asked}): {was} → {would_be}{times}\n",
            self.seq, self.at
        );
        for reason in &self.would_be.reasons {
            text += &format!("          {}\n", terminal::clean(reason));
        }
        text
    }
}
