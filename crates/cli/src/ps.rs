//! `ps`: the objects that this machine knows.

use serde::Serialize;
use suijuris_core::id::ObjectId;
use suijuris_supervisor::history::state::{awake_seconds, phase};

use crate::object_paths::ObjectPaths;
use crate::registry::{self, Note};
use crate::server::Server;
use crate::terminal::{self, Table};
use crate::{Answer, clock, control, history};

/// List objects: those that `up` noted on this machine, and those that a daemon serves
#[derive(Debug, clap::Args)]
#[command(after_help = "\
`up` notes each object it runs; an object whose data is gone is dropped from the list. Objects of the daemon that
`suijuris serve` runs are listed too.

Example:
  suijuris ps --json | jq -r '.[] | select(.running) | .url'")]
pub(crate) struct Args {
    /// Only instances of this class
    #[arg(long)]
    class: Option<String>,
    /// Only objects in this state: dormant, waking, active, draining, suspended, paused, broken, lost
    #[arg(long)]
    phase: Option<String>,
    /// At most so many
    #[arg(long)]
    limit: Option<usize>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// One object, as `ps --json` prints it.
#[derive(Debug, Serialize)]
struct Known {
    object: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    phase: String,
    running: bool,
    pid: Option<u32>,
    url: Option<String>,
    epoch: Option<u64>,
    since: Option<String>,
    data: String,
    object_dir: Option<String>,
    /// How long it was awake in all its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    awake_seconds: Option<u64>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let mut known = served()?;
    let ids: Vec<String> = known.iter().map(|one| one.object.clone()).collect();
    let noted = registry::all()?.into_iter().map(look);
    known.extend(noted.filter(|one| !ids.contains(&one.object)));
    let wanted = |one: &Known| {
        args.class
            .as_ref()
            .is_none_or(|class| one.class.as_ref() == Some(class))
            && args.phase.as_ref().is_none_or(|phase| one.phase == *phase)
    };
    known.retain(wanted);
    known.truncate(args.limit.unwrap_or(usize::MAX));
    if args.json {
        terminal::print_json(&known)?;
        return Ok(Answer::Yes);
    }
    if known.is_empty() {
        terminal::note("no object is known here; `suijuris new http hello && suijuris up hello` starts one");
        return Ok(Answer::Yes);
    }
    let mut table = Table::default();
    table.row([
        "OBJECT", "NAME", "STATE", "EPOCH", "AWAKE", "SINCE", "PID", "WHERE",
    ]);
    for one in &known {
        let short = one
            .object
            .get(one.object.len().saturating_sub(8)..)
            .unwrap_or_default();
        let number = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
        table.row([
            short,
            &one.label(),
            &one.phase,
            &number(one.epoch.map(|n| n.to_string())),
            &number(one.awake_seconds.map(|seconds| format!("{seconds} s"))),
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

impl Known {
    /// What people call it.
    fn label(&self) -> String {
        match (&self.class, &self.key) {
            (Some(class), Some(key)) => format!("{class}/{key}"),
            _ => self.name.clone(),
        }
    }
}

/// Objects that a daemon serves, in the order of their names.
fn served() -> anyhow::Result<Vec<Known>> {
    let Some(server) = Server::running()? else {
        return Ok(Vec::new());
    };
    let pid = server.daemon()?.pid;
    let mut known: Vec<Known> = server
        .objects("")?
        .into_iter()
        .map(|object| Known {
            running: true,
            pid: Some(pid),
            url: Some(object.url),
            epoch: object.epoch,
            since: None,
            data: object.data.display().to_string(),
            object_dir: object.object_dir.map(|dir| dir.display().to_string()),
            awake_seconds: Some(object.awake_seconds),
            error: None,
            object: object.object,
            name: object.name,
            class: object.class,
            key: object.key,
            phase: object.phase,
        })
        .collect();
    known.sort_by_key(Known::label);
    Ok(known)
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
        class: None,
        key: None,
        awake_seconds: head.and_then(|head| awake_seconds(head, in_use, clock::reading().ok()?)),
        phase: head.map_or_else(
            || "unreadable".to_owned(),
            |head| phase(head, running.as_ref(), in_use),
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
