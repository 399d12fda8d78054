//! `ps`: the objects that this machine knows.

use serde::Serialize;
use suijuris_core::id::ObjectId;

use crate::object_paths::ObjectPaths;
use crate::registry::{self, Note};
use crate::terminal::{self, Table};
use crate::{Answer, control, history, show};

/// List the objects that this machine knows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
`up` notes each object it runs; an object whose data is gone is dropped from the list.

Example:
  suijuris ps --json | jq -r '.[] | select(.running) | .url'")]
pub(crate) struct Args {
    /// Print one JSON list
    #[arg(long)]
    json: bool,
}

/// One object, as `ps --json` prints it.
#[derive(Debug, Serialize)]
struct Known {
    object: String,
    name: String,
    phase: String,
    running: bool,
    pid: Option<u32>,
    url: Option<String>,
    epoch: Option<u64>,
    since: Option<String>,
    data: String,
    object_dir: Option<String>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let known: Vec<Known> = registry::all()?.into_iter().map(look).collect();
    if args.json {
        terminal::print_json(&known)?;
        return Ok(Answer::Yes);
    }
    if known.is_empty() {
        terminal::note("no object is known here; `suijuris new http hello && suijuris up hello` starts one");
        return Ok(Answer::Yes);
    }
    let mut table = Table::default();
    table.row(["OBJECT", "NAME", "STATE", "EPOCH", "SINCE", "PID", "WHERE"]);
    for one in &known {
        let short = one
            .object
            .get(one.object.len().saturating_sub(8)..)
            .unwrap_or_default();
        let number = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
        table.row([
            short,
            &one.name,
            &one.phase,
            &number(one.epoch.map(|n| n.to_string())),
            one.since.as_deref().unwrap_or("-"),
            &number(one.pid.map(|n| n.to_string())),
            one.url
                .as_deref()
                .or(one.object_dir.as_deref())
                .unwrap_or(&one.data),
        ]);
    }
    terminal::print(&table.text(0))?;
    Ok(Answer::Yes)
}

fn look((object, note): (ObjectId, Note)) -> Known {
    let place = ObjectPaths {
        object_dir: note.object_dir,
        data: note.data,
    };
    let (running, read) = (control::running(&place), history::open(&place));
    let in_use = place.home().is_in_use();
    let head = read.as_ref().ok().map(|reader| reader.state().head());
    let since = head.map(|head| match head.phase {
        suijuris_core::lineage::Phase::Active => head.last_woke.unwrap_or(head.born),
        _ => head.last_dormant.unwrap_or(head.born),
    });
    Known {
        object: object.to_string(),
        phase: head.map_or_else(
            || "unreadable".to_owned(),
            |head| show::phase(head, running.as_ref(), in_use),
        ),
        running: running.is_some() || in_use,
        pid: running.as_ref().map(|running| running.pid),
        url: running.map(|running| running.url).or(note.url.filter(|_| in_use)),
        epoch: head.map(|head| head.epoch),
        since: since.map(|at| at.to_string()),
        error: read.as_ref().err().map(|error| suijuris_custody::chain(error)),
        name: note.name,
        data: place.data.display().to_string(),
        object_dir: place.object_dir.map(|dir| dir.display().to_string()),
    }
}
