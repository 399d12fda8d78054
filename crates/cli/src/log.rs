//! `log`: an object's history, record by record.

use std::time::Duration;

use suijuris_api::daemon::Object;
use suijuris_api::history::{KINDS, Record};
use suijuris_core::RecordId;
use suijuris_supervisor::history::log::{MAX_PAGE, Wanted};

use crate::carrier::{Carrier, route};
use crate::history::Follow;
use crate::object_paths::ObjectArg;
use crate::server::{Server, encoded};
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage};

/// Until a daemon is asked again whose stream ended.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Records that `-n` shows at most.
const MAX_LAST: usize = MAX_PAGE;

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
    let carrier = args.at.carrier()?;
    // Taken before the first look, so that nothing falls between.
    let follow = carrier.files().map(Follow::new);
    let mut next = pages(args, &carrier, args.number, 0)?;
    if !args.follow {
        return Ok(Answer::Yes);
    }
    match (carrier, follow) {
        (Carrier::Daemon(server, object), _) => followed(args, &server, &object, next),
        (carrier, Some(mut follow)) => loop {
            follow.wait();
            next = pages(args, &carrier, None, next)?;
        },
        (Carrier::Files(_), None) => Ok(Answer::Yes),
    }
}

/// Shows what a daemon tells from here on, for ever; after a stream that ended, from where it was.
fn followed(args: &Args, server: &Server, object: &Object, mut next: u64) -> anyhow::Result<Answer> {
    let kinds: String = args
        .kind
        .iter()
        .map(|kind| format!("&kind={}", encoded(kind)))
        .collect();
    loop {
        let path = route(object, &format!("/log/follow?from={next}{kinds}"));
        server.follow(&path, None, |seq, text| {
            show(args, &serde_json::from_str(text)?)?;
            next = seq.saturating_add(1);
            Ok(())
        })?;
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// Shows what there is from here on, or the last of it; the position of what comes next.
fn pages(args: &Args, carrier: &Carrier, last: Option<usize>, from: u64) -> anyhow::Result<u64> {
    let mut wanted = Wanted {
        kinds: args.kind.clone(),
        from,
        limit: last.unwrap_or(MAX_PAGE),
        last: last.is_some(),
    };
    loop {
        let page = carrier.log(&wanted)?;
        // No page is of no records.
        let shown = page.records.iter().filter(|_| last != Some(0));
        for record in shown {
            show(args, record)?;
        }
        wanted.from = page.next;
        if !page.more {
            return Ok(page.next);
        }
    }
}

fn show(args: &Args, record: &Record) -> anyhow::Result<()> {
    if args.json {
        return terminal::print_json(record);
    }
    let terminal = Screen::stdout();
    let short = record.id.parse::<RecordId>().map(|id| id.short());
    let id = terminal.paint(Tone::Faint, &format!("…{}", short.unwrap_or_default()));
    let kind = format!("{:11}", terminal::clean(&record.kind));
    let kind = match record.kind.as_str() {
        "refused" | "quarantined" | "unsealed" => terminal.paint(Tone::Bad, &kind),
        "woke" | "resumed" => terminal.paint(Tone::Good, &kind),
        _ => kind,
    };
    let line = format!(
        "{:>6}  {}  {id}  epoch {:<4}  {kind}  {}",
        record.seq,
        terminal::clean(&record.at),
        record.epoch,
        terminal::clean(&record.summary)
    );
    Ok(terminal::print(&format!("{}\n", line.trim_end()))?)
}
