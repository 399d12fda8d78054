//! `log`: an object's history, record by record.

use std::collections::VecDeque;

use suijuris_core::lineage::Stored;

use crate::object_paths::{ObjectArg, ObjectPaths};
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, history, render};

/// Kinds of record, for `--kind`.
const KINDS: [&str; 14] = [
    "inception",
    "woke",
    "resumed",
    "mutated",
    "seal",
    "dormant",
    "refused",
    "departed",
    "arrived",
    "forked",
    "amended",
    "unsealed",
    "quarantined",
    "terminated",
];

/// Records that `-n` keeps in memory at most.
const MAX_LAST: usize = 100_000;

/// Show an object's history, oldest record first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  suijuris log hello -n 20 --kind refused\n  suijuris log hello --follow --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Only the last N records
    #[arg(short, long, value_name = "N")]
    number: Option<usize>,
    /// Only records of this kind; may be given several times
    #[arg(short, long, value_parser = KINDS)]
    kind: Vec<String>,
    /// Go on with records as they are made
    #[arg(short, long)]
    follow: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    if args.number.is_some_and(|number| number > MAX_LAST) {
        return Err(Usage(format!("-n takes at most {MAX_LAST}; leave it out for all")).into());
    }
    let place = args.at.locate()?;
    let mut follow = history::Follow::new(&place);
    let mut next = tail(args, &place)?;
    if !args.follow {
        return Ok(Answer::Yes);
    }
    loop {
        follow.wait();
        let reader = history::open(&place)?;
        for stored in reader.records(next..u64::MAX)? {
            let stored = stored?;
            next = stored.record.seq.saturating_add(1);
            if wanted(args, &stored) {
                show(args, &stored)?;
            }
        }
    }
}

/// Shows what is there; the position of what comes next.
fn tail(args: &Args, place: &ObjectPaths) -> anyhow::Result<u64> {
    let reader = history::open(place)?;
    let mut kept = VecDeque::new();
    for stored in reader.records(0..u64::MAX)? {
        let stored = stored?;
        if !wanted(args, &stored) {
            continue;
        }
        let Some(number) = args.number else {
            show(args, &stored)?;
            continue;
        };
        kept.push_back(stored);
        if kept.len() > number {
            kept.pop_front();
        }
    }
    for stored in &kept {
        show(args, stored)?;
    }
    Ok(reader.state().head().seq.saturating_add(1))
}

fn wanted(args: &Args, stored: &Stored) -> bool {
    args.kind.is_empty() || args.kind.iter().any(|kind| kind == stored.record.body.kind())
}

fn show(args: &Args, stored: &Stored) -> anyhow::Result<()> {
    if args.json {
        return terminal::print_json(&render::record_json(stored)?);
    }
    let (record, terminal) = (&stored.record, Screen::stdout());
    let id = terminal.paint(Tone::Faint, &format!("…{}", stored.id.short()));
    let kind = format!("{:11}", record.body.kind());
    let kind = match record.body.kind() {
        "refused" | "quarantined" | "unsealed" => terminal.paint(Tone::Bad, &kind),
        "woke" | "resumed" => terminal.paint(Tone::Good, &kind),
        _ => kind,
    };
    let summary = terminal::clean(&render::summary(&record.body));
    let line = format!(
        "{:>6}  {}  {id}  epoch {:<4}  {kind}  {summary}",
        record.seq, record.at, record.epoch
    );
    Ok(terminal::print(&format!("{}\n", line.trim_end()))?)
}
