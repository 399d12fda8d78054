//! `why`: a recorded decision explained, and made again from its recorded inputs.

use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;
use suijuris_api::verdict;
use suijuris_core::codec;
use suijuris_core::decide::View;
use suijuris_core::governance::Action;
use suijuris_core::id::{BundleId, Digest};
use suijuris_core::lineage::{Body, Decision, State, Stored};
use suijuris_core::refusals::RefusalId;
use suijuris_store::Reader;

use crate::object_paths::locate;
use crate::render::{self, RuleText};
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, history, show};

/// Explain a recorded decision, and make it again from its recorded inputs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SEQ is the position of a record (see `suijuris log`), or `last`: the last decision of all, or of
one --action. ID is what a refused caller quotes, as in r-abcdefghijkl: the record that counts it.

Exit codes: 0 explained, and the replay is identical; 1 the replay differs, or nothing was decided
yet.

Example:
  suijuris why hello
  suijuris why hello 12
  suijuris why hello r-k3mz6q2wfa4d
  suijuris why hello --action wake --json | jq .rules")]
pub(crate) struct Args {
    /// Object's directory, and a position or a refusal's id, in any order [default: . last]
    #[arg(value_name = "DIR|SEQ|ID", num_args = 0..=2)]
    words: Vec<String>,
    /// Data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    data: Option<std::path::PathBuf>,
    /// Only decisions about this action
    #[arg(long)]
    action: Option<Action>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Which decision is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DepotArg {
    Last,
    Seq(u64),
    Refusal(RefusalId),
}

impl Args {
    fn read(&self) -> Result<(Option<&std::path::Path>, DepotArg), Usage> {
        let (mut dir, mut which) = (None, None);
        for word in &self.words {
            let seq = if word == "last" {
                Some(DepotArg::Last)
            } else {
                let id = || RefusalId::parse(word).map(DepotArg::Refusal);
                word.parse().ok().map(DepotArg::Seq).or_else(id)
            };
            let twice = match seq {
                Some(seq) => which.replace(seq).is_some(),
                None => dir.replace(std::path::Path::new(word)).is_some(),
            };
            if twice {
                return Err(Usage(format!(
                    "`{word}`: name one directory and one position or id at most"
                )));
            }
        }
        Ok((dir, which.unwrap_or(DepotArg::Last)))
    }
}

/// A decision with the state that it was made on.
struct Found {
    stored: Stored,
    decision: Decision,
    /// The last state in force when it was made, by which it comes out the same if any does.
    state: State,
    again: Decision,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let (dir, which) = args.read()?;
    let place = locate(dir, args.data.as_deref())?;
    let reader = history::open(&place)?;
    let Some((stored, decision)) = select(&reader, &which, args.action)? else {
        terminal::note("nothing has been decided yet; `suijuris what-if` asks what would be");
        return Ok(Answer::No);
    };
    let found = remake(&reader, stored, decision)?;
    let same = codec::encode(&found.again)? == codec::encode(&found.decision)?;
    tell(&reader, &found, same, args.json)?;
    Ok(if same { Answer::Yes } else { Answer::No })
}

fn select(
    reader: &Reader,
    which: &DepotArg,
    action: Option<Action>,
) -> anyhow::Result<Option<(Stored, Decision)>> {
    let range = match which {
        DepotArg::Last | DepotArg::Refusal(_) => 0..u64::MAX,
        DepotArg::Seq(seq) => *seq..seq.saturating_add(1),
    };
    let mut last = None;
    for stored in reader.records(range)? {
        let stored = stored?;
        let decision = history::decision(&stored.record.body);
        let decision = decision
            .filter(|decision| action.is_none_or(|action| decision.action == action))
            .cloned();
        match (decision, which) {
            (decision, DepotArg::Refusal(id)) => {
                // Counted again later, the same decision stands in several records: the last one counts all.
                let counts = |decision: &Decision| {
                    RefusalId::of(reader.state().head().object, stored.record.bundle, decision) == *id
                };
                last = decision
                    .filter(counts)
                    .map(|decision| (stored, decision))
                    .or(last);
            }
            (Some(decision), _) => last = Some((stored, decision)),
            (None, DepotArg::Seq(seq)) => {
                let kind = stored.record.body.kind();
                return Err(Usage(format!(
                    "record {seq} is `{kind}` and keeps no such decision; see `suijuris log`"
                ))
                .into());
            }
            (None, DepotArg::Last) => {}
        }
    }
    match (last, which) {
        (None, DepotArg::Refusal(id)) => Err(Usage(format!(
            "no record counts the refusal {}: `up` records refusals within a minute, and `suijuris door` records none",
            id.as_str()
        ))
        .into()),
        (None, DepotArg::Seq(seq)) => {
            let head = reader.state().head().seq;
            Err(Usage(format!("there is no record {seq}: the history ends at {head}")).into())
        }
        (last, _) => Ok(last),
    }
}

/// Makes a decision again on the state it was made on: one in force at its instant and older than the first record that
/// keeps it. Mostly that is the one before its record; a refusal that is counted again later was made earlier, and
/// several records may share one millisecond. That which founded an instance was made before there was any state; what
/// is shown is the one it was born with.
fn remake(reader: &Reader, stored: Stored, decision: Decision) -> anyhow::Result<Found> {
    if let Body::Inception(inception) = &stored.record.body
        && let Some(class) = &inception.class
    {
        let bundle = reader.bundle(&stored.record.bundle)?;
        let bundles = |id: &BundleId| (*id == stored.record.bundle).then(|| Arc::clone(bundle.schema()));
        return Ok(Found {
            again: class.replay(&inception.name, &bundle),
            state: State::begin(&stored, &bundles)?,
            stored,
            decision,
        });
    }
    let (at, recorded) = (decision.inputs.now.at, codec::encode(&decision)?);
    let mut best: Option<(State, Decision, bool)> = None;
    let mut kept = false;
    history::walk(reader, stored.record.seq, |state, next| {
        let in_force =
            state.head().at <= at && (next.record.at >= at || next.record.seq == stored.record.seq);
        if in_force && !kept {
            let bundle = reader.bundle(&state.head().bundle)?;
            let view = View::new(state, &bundle.rules);
            let again = history::again(view, &stored.record.body, &decision);
            let same = codec::encode(&again)? == recorded;
            if same || !best.as_ref().is_some_and(|(_, _, same)| *same) {
                best = Some((state.clone(), again, same));
            }
        }
        kept |= history::decision(&next.record.body) == Some(&decision);
        Ok(())
    })?;
    let (state, again, _) =
        best.context("the history was never in force at the decision's own time; run `suijuris verify`")?;
    Ok(Found {
        stored,
        decision,
        state,
        again,
    })
}

fn digest(decision: &Decision) -> anyhow::Result<String> {
    Ok(Digest::of(&codec::encode(decision)?).hex())
}

fn tell(reader: &Reader, found: &Found, same: bool, json: bool) -> anyhow::Result<()> {
    let bundle = reader.bundle(&found.state.head().bundle)?;
    let rules = render::rule_texts(&found.decision, &bundle);
    let memory = suijuris_runtime::words::memory(&found.state, found.decision.inputs.now);
    if json {
        return terminal::print_json(&Why::of(found, rules, &memory, same)?);
    }
    let (record, terminal) = (&found.stored.record, Screen::stdout());
    let mut text = render::headline(&found.decision, terminal);
    text += &format!(
        "  record {} ({}), {}, epoch {}\n",
        record.seq,
        record.body.kind(),
        record.at,
        record.epoch
    );
    if let Body::Inception(inception) = &record.body
        && let Some(class) = &inception.class
    {
        text += &format!("  {}\n", render::instance(class));
    }
    text += &render::grounds(&found.decision);
    text += &format!(
        "\nmemory after record {}\n{}",
        found.state.head().seq,
        show::memory_table(&memory).text(2)
    );
    text += &render::rules_shown(&rules);
    text += &match same {
        true => format!("\nreplayed: {}\n", terminal.paint(Tone::Good, "identical")),
        false => format!(
            "\nreplayed: {}, now {}\n",
            terminal.paint(Tone::Bad, "different"),
            verdict::verdict(&found.again, "runtime").outcome
        ),
    };
    Ok(terminal::print(&text)?)
}

/// What `why --json` prints.
#[derive(Debug, Serialize)]
struct Why<'a> {
    seq: u64,
    record: String,
    kind: &'static str,
    at: String,
    epoch: u64,
    /// Position of the record that the decision was made after; 0 for what founded an instance of a class.
    after: u64,
    bundle: String,
    verdict: suijuris_api::event::Verdict,
    rules: Vec<RuleText>,
    not_fresh: serde_json::Value,
    near_misses: serde_json::Value,
    inputs: &'a suijuris_core::inputs::Inputs,
    memory: &'a suijuris_api::agent::Memory,
    replay: serde_json::Value,
}

impl<'a> Why<'a> {
    fn of(
        found: &'a Found,
        rules: Vec<RuleText>,
        memory: &'a suijuris_api::agent::Memory,
        same: bool,
    ) -> anyhow::Result<Self> {
        let record = &found.stored.record;
        let explanation = found.decision.explanation.as_ref();
        Ok(Self {
            seq: record.seq,
            record: found.stored.id.to_string(),
            kind: record.body.kind(),
            at: record.at.to_string(),
            epoch: record.epoch,
            after: found.state.head().seq,
            bundle: found.state.head().bundle.to_string(),
            verdict: verdict::verdict(&found.decision, history::place(&record.body)),
            rules,
            not_fresh: json!(
                explanation
                    .map(|explanation| &explanation.not_fresh)
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
            ),
            near_misses: json!(
                explanation
                    .map(|explanation| &explanation.near_misses)
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
            ),
            inputs: &found.decision.inputs,
            memory,
            replay: json!({"same": same, "recorded": digest(&found.decision)?, "again": digest(&found.again)?}),
        })
    }
}
